//! The files of a store: their paths and permissions, and whether they are still the files that
//! this process opened.
//!
//! [`resolve`] and the checks after it run before a store is opened; [`Files`] watches the files
//! of an open store, which another program may move, replace, truncate or overwrite.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::{Access, AtFlags, CWD, OFlags, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::OpenError;
use super::schema::APPLICATION_ID;
use hawk_time::UnixNanos;

/// Maximum number of symbolic links to a store: the kernel's limit (`path_resolution(7)`).
const MAX_LINKS: u32 = 40;

/// Mode of all files of a store: only the server's user reads reports.
const MODE: u32 = 0o600;

/// Permissions that expose a store: all for other users, and writing for its group.
const EXPOSED: u32 = 0o027;

/// Suffixes of the names of a store's files.
const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-lock"];

/// Device and inode: distinguishes a file from another file at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl FileId {
    pub(super) fn of(found: &Metadata) -> Self {
        Self(found.dev(), found.ino())
    }

    /// Returns device and inode as numbers.
    pub(super) const fn numbers(self) -> (u64, u64) {
        (self.0, self.1)
    }

    /// Returns the file at `path`; does not follow a symbolic link.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        fs::symlink_metadata(path).map(|found| Self::of(&found))
    }
}

/// Returns the absolute path of a store without symbolic links: every name of a store then has
/// the same lock and the same log. The file need not exist, its folder must.
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
            // Not a link, or missing.
            Err(_) => return Ok(place),
        }
    }
    Err(OpenError::File(path, Errno::LOOP.into()))
}

/// Returns the folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Returns the path of the store's file with this suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Refuses a store for a server that runs as root if another user can replace its files: that
/// user could make root read or write any file.
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

/// Checks that the file at `path`, if it exists, is a regular file with one name. With two
/// names it would have two logs (<https://sqlite.org/howtocorrupt.html>, "Multiple links to the
/// same file").
pub(super) fn check_file(path: &Path) -> Result<(), OpenError> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => Err(OpenError::NotAFile(path.to_owned())),
        Ok(found) if found.nlink() > 1 => Err(OpenError::HardLinked(path.to_owned())),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Checks that this process may write the store's folder and its existing files. SQLite would
/// open an unwritable file for reading, and fail only later.
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

/// Creates the file at `path` if it does not exist. SQLite gives the log and its index the mode
/// of this file.
pub(super) fn create(path: &Path) -> Result<(), OpenError> {
    let made = options().create_new(true).open(path);
    match made {
        // Closing the new file releases no lock: this process has none on it.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Opens one of the store's files, and creates it if it does not exist.
pub(super) fn open_or_create(path: &Path) -> io::Result<File> {
    options().create(true).truncate(false).open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // A FIFO or a device in its place must not block this process.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    options
        .read(true)
        .write(true)
        .mode(MODE)
        .custom_flags(flags.bits().cast_signed());
    options
}

/// Returns the command that removes other users' rights on the store's files; `None` if they
/// have none. An older hawk created files with the mode of the umask.
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

/// Returns a path quoted for a shell, without control characters.
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

/// The first bytes of a database file (<https://sqlite.org/fileformat2.html>, "Magic Header
/// String").
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Bytes of its header.
const HEADER: usize = 100;

/// Offset of the application id.
const APPLICATION_ID_AT: usize = 68;

/// Offset of the page size.
const PAGE_SIZE_AT: usize = 16;

/// Bytes of the log's header, and of the header before each page
/// (<https://sqlite.org/fileformat2.html>, "WAL File Format").
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// The first bytes of the log without the last bit.
const LOG_MAGIC: u32 = 0x377f_0682;

/// A change by another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FileChange {
    /// Another file, or none, is at the store's path.
    #[error("its file was moved or removed; it is opened anew")]
    Moved,
    /// Another file, or none, is at the log's path.
    #[error("its log (-wal) was moved or removed; it is opened anew")]
    LogMoved,
    /// The file is no store any more.
    #[error("its file was overwritten or truncated; put a backup in its place (mv, not cp)")]
    Overwritten,
    /// Commits are missing in the log.
    #[error("its log (-wal) was overwritten or truncated; it is opened anew")]
    LogTruncated,
}

/// Size and time of the last change. A write by any program changes at least one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    size: u64,
    changed: (i64, i64),
}

impl Seen {
    fn of(found: &Metadata) -> Self {
        Self {
            size: found.size(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The files of a store that is open for writing.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    log_path: PathBuf,
    /// Reads the header. It is closed after the connection: closing any descriptor of the file
    /// releases the locks that SQLite has on it (`fcntl(2)`, "Record locking").
    store: File,
    store_id: FileId,
    store_seen: Seen,
    log: File,
    log_id: FileId,
    log_seen: Seen,
    index_id: Option<FileId>,
    page_size: u64,
}

impl Files {
    /// Watches the files of the store at `path`, which `connection` has just opened. Keeps the
    /// descriptor of `before`, the files watched last, if it is the same file.
    pub(super) fn watch(
        path: &Path,
        connection: &Connection,
        before: Option<Self>,
    ) -> io::Result<Self> {
        let store_id = FileId::at(path)?;
        let store = match before {
            Some(before) if before.store_id == store_id => before.store,
            _ => open_to_read(path)?,
        };
        let log_path = beside(path, "-wal");
        let log = open_to_read(&log_path)?;
        let page_size = connection
            .pragma_query_value(None, "page_size", |row| row.get(0))
            .map_err(io::Error::other)?;
        let mut files = Self {
            path: path.to_owned(),
            store_id: FileId::of(&store.metadata()?),
            store,
            store_seen: Seen::default(),
            log_id: FileId::of(&log.metadata()?),
            log_seen: Seen::of(&log.metadata()?),
            log,
            log_path,
            index_id: FileId::at(&beside(path, "-shm")).ok(),
            page_size,
        };
        files.note_checkpoint();
        Ok(files)
    }

    /// Returns device and inode of the store's file.
    pub(super) const fn store_id(&self) -> (u64, u64) {
        self.store_id.numbers()
    }

    /// Returns the number of bytes of the log.
    pub(super) const fn log_bytes(&self) -> u64 {
        self.log_seen.size
    }

    /// Checks that the files are as this process left them. Must precede each transaction,
    /// because a commit after a gap in the log would be lost, and each checkpoint, because it
    /// would copy the gap into the store.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), FileChange> {
        let store = self.found(&self.path, self.store_id, FileChange::Moved)?;
        let log = self.found(&self.log_path, self.log_id, FileChange::LogMoved)?;
        let (store, log) = (Seen::of(&store), Seen::of(&log));
        if store != self.store_seen {
            if !self.is_store() || self.is_cut(store.size, connection) {
                return Err(FileChange::Overwritten);
            }
            self.store_seen = store;
        }
        if log != self.log_seen {
            // Another program may have moved the log into the file; SQLite has noticed that.
            let pages = pages_in_log(connection).map_err(|_| FileChange::LogTruncated)?;
            self.check_log(log.size, pages)?;
            self.log_seen = log;
        }
        Ok(())
    }

    /// Checks that the last commit, with `pages` in the log, is in the files at the store's
    /// paths.
    pub(super) fn check_commit(&mut self, pages: u32) -> Result<(), FileChange> {
        self.found(&self.path, self.store_id, FileChange::Moved)?;
        let log = self.found(&self.log_path, self.log_id, FileChange::LogMoved)?;
        self.check_log(log.size(), u64::from(pages))?;
        self.log_seen = Seen::of(&log);
        Ok(())
    }

    /// Notes the files as they are, after this process wrote to them.
    pub(super) fn note_checkpoint(&mut self) {
        if let (Ok(store), Ok(log)) = (self.store.metadata(), self.log.metadata()) {
            (self.store_seen, self.log_seen) = (Seen::of(&store), Seen::of(&log));
        }
    }

    /// Whether the file still has a name. A file without a name cannot be opened again.
    pub(super) fn has_name(&self) -> bool {
        self.store
            .metadata()
            .map_or(true, |found| found.nlink() > 0)
    }

    /// Whether the file at the log's path is this file's log.
    pub(super) fn has_log(&self) -> bool {
        FileId::at(&self.log_path).ok() == Some(self.log_id)
    }

    /// Removes the log and its index if they belong to this file: another file at the store's
    /// path must not be read with them. The file has their contents already.
    pub(super) fn remove_log(&self) {
        if self.has_log() {
            remove(&self.log_path);
        }
        self.remove_index();
    }

    /// Renames a log that does not belong to the file at the store's path.
    pub(super) fn set_log_aside(&self) {
        let is_empty = fs::symlink_metadata(&self.log_path).map_or(true, |found| found.len() == 0);
        if !is_empty {
            let aside = beside(&self.log_path, &format!("-{}", UnixNanos::now().as_nanos()));
            match fs::rename(&self.log_path, &aside) {
                Ok(()) => log::warn!(
                    "the log {:?} does not belong to the file at the store's path, and is renamed \
                     {aside:?}",
                    self.log_path
                ),
                Err(error) => log::warn!("cannot rename {:?}: {error}", self.log_path),
            }
        }
        self.remove_index();
    }

    fn remove_index(&self) {
        let index = beside(&self.path, "-shm");
        if self.index_id.is_some() && FileId::at(&index).ok() == self.index_id {
            remove(&index);
        }
    }

    fn found(
        &self,
        path: &Path,
        id: FileId,
        otherwise: FileChange,
    ) -> Result<Metadata, FileChange> {
        match fs::symlink_metadata(path) {
            Ok(found) if FileId::of(&found) == id => Ok(found),
            _ => Err(otherwise),
        }
    }

    /// Whether the file has a store's header.
    fn is_store(&self) -> bool {
        let mut header = [0; HEADER];
        if self.store.read_exact_at(&mut header, 0).is_err() {
            return false;
        }
        let id = header[APPLICATION_ID_AT..].first_chunk().copied();
        let page_size = header[PAGE_SIZE_AT..].first_chunk().copied();
        header.starts_with(MAGIC)
            && id.map(i32::from_be_bytes) == Some(APPLICATION_ID)
            // 1 stands for 65,536.
            && page_size.map(u16::from_be_bytes).map(|size| match size {
                1 => 0x1_0000,
                size => u64::from(size),
            }) == Some(self.page_size)
    }

    /// Whether the end of the file is missing. VACUUM by another program shortens it too, to
    /// the number of its pages.
    fn is_cut(&self, size: u64, connection: &Connection) -> bool {
        if size >= self.store_seen.size {
            return false;
        }
        let pages: rusqlite::Result<u64> =
            connection.pragma_query_value(None, "page_count", |row| row.get(0));
        pages.map_or(true, |pages| size != pages * self.page_size)
    }

    /// Checks that a log of this size has its header and room for so many pages.
    fn check_log(&self, size: u64, pages: u64) -> Result<(), FileChange> {
        if pages == 0 {
            return Ok(());
        }
        let mut magic = [0; 4];
        let is_read = self.log.read_exact_at(&mut magic, 0).is_ok();
        let is_log = is_read && u32::from_be_bytes(magic) & !1 == LOG_MAGIC;
        match is_log && size >= LOG_HEADER + pages * (self.page_size + FRAME_HEADER) {
            true => Ok(()),
            false => Err(FileChange::LogTruncated),
        }
    }
}

/// Returns the number of pages in the log according to SQLite.
fn pages_in_log(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    Ok(u64::try_from(pages).unwrap_or(0))
}

fn open_to_read(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        log::warn!("cannot remove {path:?}, which belongs to a store that was moved: {error}");
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
    fn a_file_with_two_names_and_a_folder_are_refused() {
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
    fn a_new_file_is_private_and_an_existing_file_keeps_its_mode() {
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
