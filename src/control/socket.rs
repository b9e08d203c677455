//! The file of the control socket.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// Clients that may wait to be accepted: more than ever connect at once.
const BACKLOG: i32 = 16;

/// The hint for a path that socket2 calls invalid: it does not fit `sun_path`, unix(7).
pub(super) const TOO_LONG: &str = " (107 bytes at most)";

/// Why the control socket cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A running server listens on it.
    #[error(
        "a running program serves the control socket {}; give each server a --control of its own, \
         or stop the other one",
        .0.display()
    )]
    Taken(PathBuf),
    /// The path names a file that is not a socket.
    #[error(
        "{} is there and is no socket; give --control another path",
        .0.display()
    )]
    NoSocket(PathBuf),
    /// A system call failed.
    #[error("cannot make the control socket {}: {error}{}", path.display(), hint(error))]
    System {
        /// The path of the socket.
        path: PathBuf,
        /// Its error.
        error: io::Error,
    },
}

impl ListenError {
    pub(super) fn system(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        Self::System { path, error }
    }
}

/// Returns what to do about it, or nothing.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make its folder first",
        io::ErrorKind::InvalidInput => TOO_LONG,
        _ => "",
    }
}

/// Listens at `path` without blocking, for the user of this process. Replaces a socket that a
/// killed server left behind.
pub(super) fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |error| ListenError::system(path, error);
    let address = SockAddr::unix(path).map_err(failed)?;
    make_room(path, &address)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    bind(&socket, path, &address).map_err(|error| match error.kind() {
        // Another server bound it meanwhile.
        io::ErrorKind::AddrInUse => ListenError::Taken(path.to_owned()),
        _ => failed(error),
    })?;
    socket.listen(BACKLOG).map_err(|error| {
        // Leave no socket without a server behind.
        fs::remove_file(path).ok();
        failed(error)
    })?;
    Ok(std::os::fd::OwnedFd::from(socket).into())
}

/// Creates the file with mode 0600.
///
/// The umask belongs to the whole process, and other threads may create files meanwhile. Linux
/// gives the file the mode of the socket (`unix_bind_bsd` in net/unix/af_unix.c), which no
/// manual promises. So the file's mode is set as well, before listen(2): until then no client
/// can connect.
fn bind(socket: &Socket, path: &Path, address: &SockAddr) -> io::Result<()> {
    rustix::fs::fchmod(socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(address)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))
}

/// Removes a socket at `path` on which no process listens.
fn make_room(path: &Path, address: &SockAddr) -> Result<(), ListenError> {
    let failed = |error| ListenError::system(path, error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NoSocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    // Nonblocking: a server that hangs may have a full backlog.
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    match probe.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // unix(7): a full backlog, or a socket of another type, which a process owns too.
        Err(error) if is_served(&error) => Err(ListenError::Taken(path.to_owned())),
        Err(error) => Err(failed(error)),
        Ok(()) => Err(ListenError::Taken(path.to_owned())),
    }
}

fn is_served(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::PROTOTYPE)
    )
}

/// The identity of the file at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
        })
    }
}
