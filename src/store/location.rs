//! Where the store's files are, and whether they may be used.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::OpenError;

/// Symbolic links that are followed to a store, as many as the kernel follows
/// (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// The mode of every file of the store: reports are the operator's alone.
const MODE: u32 = 0o600;

/// Permissions that expose a store: any for other users, and writing for its group.
const EXPOSED: u32 = 0o027;

/// Names of the files that belong to a store, behind its own.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-lock"];

/// Device and inode: distinguishes a file from another file at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(found: &Metadata) -> Self {
        Self(found.dev(), found.ino())
    }

    /// Device and inode as numbers.
    pub(super) const fn numbers(self) -> (u64, u64) {
        (self.0, self.1)
    }

    /// The file at `path`, which is not followed if it is a symbolic link.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|found| Self::of(&found))
    }
}

/// The file that `path` leads to: an absolute path without symbolic links, so that every
/// name of a store has the same lock and the same log. The file need not exist, its folder
/// must.
///
/// # Errors
/// [`OpenError::NoFolder`], or [`OpenError::File`] if the path leads nowhere.
pub fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let folder = folder_of(&path);
        let folder = match fs::canonicalize(folder) {
            Ok(found) if found.is_dir() => found,
            _ => return Err(OpenError::NoFolder(folder.to_owned())),
        };
        let Some(name) = path.file_name() else {
            return Err(OpenError::NotAFile(path));
        };
        let place = folder.join(name);
        match fs::read_link(&place) {
            Ok(target) => path = folder.join(target),
            // It is no link, or does not exist.
            Err(_) => return Ok(place),
        }
    }
    Err(OpenError::File(path, Errno::LOOP.into()))
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The path of a file that belongs to the store at `path`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Refuses a store whose files another user could replace under a server that runs as
/// root: that user could have root write to, or read, a file of their choice.
///
/// # Errors
/// [`OpenError::OtherOwner`] or [`OpenError::SharedFolder`], and those of [`resolve`].
pub fn check_owner(path: &Path) -> Result<(), OpenError> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let path = resolve(path)?;
    let folder = folder_of(&path);
    let found = fs::metadata(folder).map_err(|error| OpenError::File(folder.to_owned(), error))?;
    let is_shared = found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && found.gid() != 0);
    if found.uid() == 0 && is_shared {
        return Err(OpenError::SharedFolder(folder.to_owned()));
    }
    let file = fs::symlink_metadata(&path).ok();
    let places = [(folder, Some(found)), (path.as_path(), file)];
    for (place, found) in places {
        if let Some(owner) = found.map(|found| found.uid()).filter(|owner| *owner != 0) {
            return Err(OpenError::OtherOwner {
                path: place.to_owned(),
                owner,
            });
        }
    }
    Ok(())
}

/// Checks that the file at `path` is one that SQLite can use safely, if it exists: a regular
/// file with one name. With two, each would have a log of its own
/// (<https://sqlite.org/howtocorrupt.html>, "Multiple links to the same file").
pub(super) fn check_file(path: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(OpenError::NotAFile(path.to_owned())),
        Ok(found) if found.nlink() > 1 => Err(OpenError::HardLinked(path.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Checks that this process may write the store's folder and its existing files. SQLite would open an unwritable file for reading, and fail only later.
pub(super) fn check_access(path: &Path) -> Result<(), OpenError> {
    may(folder_of(path), Access::WRITE_OK | Access::EXEC_OK)?;
    for suffix in SUFFIXES {
        let file = beside(path, suffix);
        match may(&file, Access::READ_OK | Access::WRITE_OK) {
            Err(OpenError::File(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

fn may(path: &Path, needed: Access) -> Result<(), OpenError> {
    accessat(CWD, path, needed, AtFlags::EACCESS).map_err(|error| match error {
        Errno::ACCESS | Errno::PERM => OpenError::Unwritable {
            path: path.to_owned(),
            user: geteuid().as_raw(),
        },
        error => OpenError::File(path.to_owned(), error.into()),
    })
}

/// Makes the file at `path` if it does not exist. SQLite gives the log and its index the
/// mode of this file.
pub(super) fn create(path: &Path) -> Result<(), OpenError> {
    let made = options().create_new(true).open(path);
    match made {
        // Closing the new file releases no lock: none is held on it yet.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Opens a file that belongs to a store, which is made if it does not exist.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    options().create(true).truncate(false).open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A FIFO or a device in its place must not block.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    options
        .read(true)
        .write(true)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed());
    options
}

/// Returns the command that removes other users' rights on the store's files, if there are
/// any: files of an older hawk have the mode that the umask left.
pub(super) fn closing_command(path: &Path) -> Option<String> {
    let exposed = SUFFIXES.map(|suffix| beside(path, suffix));
    let mut exposed = exposed
        .iter()
        .filter(|file| fs::symlink_metadata(file).is_ok_and(|found| found.mode() & EXPOSED != 0))
        .peekable();
    exposed.peek()?;
    let quoted = exposed.map(|file| format!(" {}", quoted(file.as_os_str())));
    Some(format!("chmod 600{}", quoted.collect::<String>()))
}

/// A path as a shell takes it, without control characters.
fn quoted(path: &OsStr) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(byte);
    let text = path.to_string_lossy();
    match path.as_bytes().iter().all(plain) {
        true => text.into_owned(),
        false => {
            let visible = text.replace(char::is_control, "?");
            format!("'{}'", visible.replace('\'', r"'\''"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = fs::canonicalize(folder.path()).unwrap().join("hawk.db");
        (folder, path)
    }

    #[test]
    fn every_name_of_a_store_resolves_to_one_path() {
        let (folder, path) = place();
        let other = tempfile::tempdir().unwrap();
        let link = other.path().join("link.db");
        symlink(&path, &link).unwrap();
        let relative = other.path().join("relative.db");
        symlink("link.db", &relative).unwrap();
        let through = other.path().join("folder");
        symlink(folder.path(), &through).unwrap();
        let names = [&path, &link, &relative, &through.join("hawk.db")];
        for round in 0..2 {
            for name in names {
                assert_eq!(resolve(name).unwrap(), path, "round {round}");
            }
            // The second time it exists.
            create(&path).unwrap();
        }
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        let (folder, _) = place();
        let loop_ = folder.path().join("loop");
        symlink("loop", &loop_).unwrap();
        assert!(matches!(resolve(&loop_), Err(OpenError::File(..))));
        let missing = folder.path().join("no/hawk.db");
        assert!(matches!(resolve(&missing), Err(OpenError::NoFolder(_))));
        assert!(matches!(
            resolve(Path::new("..")),
            Err(OpenError::NotAFile(_))
        ));
    }

    #[test]
    fn a_file_with_two_names_and_what_is_no_file_are_refused() {
        let (_folder, path) = place();
        check_file(&path).unwrap();
        create(&path).unwrap();
        check_file(&path).unwrap();
        let second = path.with_extension("second");
        fs::hard_link(&path, &second).unwrap();
        assert!(matches!(check_file(&path), Err(OpenError::HardLinked(_))));
        fs::remove_file(&second).unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(check_file(&path), Err(OpenError::NotAFile(_))));
    }

    #[test]
    fn a_new_file_is_the_owners_alone_and_an_old_one_is_left_as_it_is() {
        let (_folder, path) = place();
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        assert_eq!(closing_command(&path), None);
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o640);
        assert_eq!(closing_command(&path), None, "its group may read it");
        mode(0o644);
        create(&path).unwrap();
        let command = format!("chmod 600 {}", path.display());
        assert_eq!(closing_command(&path), Some(command));
    }

    #[test]
    fn a_path_is_quoted_for_the_shell() {
        assert_eq!(quoted(OsStr::new("/var/lib/hawk.db")), "/var/lib/hawk.db");
        assert_eq!(quoted(OsStr::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
