//! The files of a store that is open for writing: whether they are still what this process
//! left, or another program has moved, replaced, truncated or overwritten them.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rustix::fs::OFlags;

use super::location::{FileId, beside};
use super::schema::APPLICATION_ID;
use hawk_time::UnixNanos;

/// What a file of SQLite begins with (<https://sqlite.org/fileformat2.html>, "Magic Header
/// String").
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Bytes of the file's header.
const HEADER: usize = 100;

/// Where in it the application id is.
const APPLICATION_ID_AT: usize = 68;

/// Where in it the size of a page is.
const PAGE_SIZE_AT: usize = 16;

/// Bytes of the log's header, and of a frame's, which stands before each page
/// (<https://sqlite.org/fileformat2.html>, "WAL File Format").
const LOG_HEADER: u64 = 32;
const FRAME_HEADER: u64 = 24;

/// What the log begins with, but for its last bit.
const LOG_MAGIC: u32 = 0x377f_0682;

/// What another program did to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Change {
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

/// Size and time of the last change: a write by any program changes at least one of these.
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
    /// For reading the header. Closing any descriptor of the file releases the locks that
    /// SQLite holds on it (`fcntl(2)`, "Record locking"), so this descriptor is closed after
    /// the connection.
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
    /// Watches the files of the store at `path`, which `connection` has just opened.
    /// `before` is what was watched last: it keeps its descriptor if it is the same file.
    pub(super) fn watch(
        path: &Path,
        connection: &Connection,
        before: Option<Self>,
    ) -> io::Result<Self> {
        let store_id = FileId::at(path)?;
        let store = match before {
            Some(before) if before.store_id == store_id => before.store,
            _ => open(path)?,
        };
        let log_path = beside(path, "-wal");
        let log = open(&log_path)?;
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

    /// Device and inode of the store's file.
    pub(super) const fn store_id(&self) -> (u64, u64) {
        self.store_id.numbers()
    }

    /// Bytes of the log.
    pub(super) const fn log_bytes(&self) -> u64 {
        self.log_seen.size
    }

    /// Whether the files are as this process left them: to be asked before a transaction,
    /// for a commit behind a gap in the log would be lost, and before a checkpoint, which
    /// would copy that gap into the store.
    pub(super) fn check(&mut self, connection: &Connection) -> Result<(), Change> {
        let store = self.found(&self.path, self.store_id, Change::Moved)?;
        let log = self.found(&self.log_path, self.log_id, Change::LogMoved)?;
        let (store, log) = (Seen::of(&store), Seen::of(&log));
        if store != self.store_seen {
            if !self.is_store() || self.is_cut(store.size, connection) {
                return Err(Change::Overwritten);
            }
            self.store_seen = store;
        }
        if log != self.log_seen {
            // Another program may have moved the log into the file; SQLite knows by now.
            let pages = pages_in_log(connection).map_err(|_| Change::LogTruncated)?;
            self.check_log(log.size, pages)?;
            self.log_seen = log;
        }
        Ok(())
    }

    /// Checks that a commit that has just succeeded is in the files at the store's paths, with
    /// `pages` in the log.
    pub(super) fn check_commit(&mut self, pages: u32) -> Result<(), Change> {
        self.found(&self.path, self.store_id, Change::Moved)?;
        let log = self.found(&self.log_path, self.log_id, Change::LogMoved)?;
        self.check_log(log.size(), u64::from(pages))?;
        self.log_seen = Seen::of(&log);
        Ok(())
    }

    /// Takes the files as they are, after this process wrote to them.
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

    /// Removes the log and its index if they still belong to this file: another file at the
    /// store's path must not be read with them. The store has their contents already.
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
                    "the log {:?} belongs to what was in the store's place before, and is now \
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

    fn found(&self, path: &Path, id: FileId, otherwise: Change) -> Result<Metadata, Change> {
        match fs::symlink_metadata(path) {
            Ok(found) if FileId::of(&found) == id => Ok(found),
            _ => Err(otherwise),
        }
    }

    /// Whether the file begins as a store.
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

    /// Whether the file lacks its end. It shrinks only to all of its pages: when another
    /// program has run VACUUM.
    fn is_cut(&self, size: u64, connection: &Connection) -> bool {
        if size >= self.store_seen.size {
            return false;
        }
        let pages: rusqlite::Result<u64> =
            connection.pragma_query_value(None, "page_count", |row| row.get(0));
        pages.map_or(true, |pages| size != pages * self.page_size)
    }

    /// Whether a log of this size, with its header, can have so many pages.
    fn check_log(&self, size: u64, pages: u64) -> Result<(), Change> {
        if pages == 0 {
            return Ok(());
        }
        let mut magic = [0; 4];
        let is_read = self.log.read_exact_at(&mut magic, 0).is_ok();
        let is_log = is_read && u32::from_be_bytes(magic) & !1 == LOG_MAGIC;
        match is_log && size >= LOG_HEADER + pages * (self.page_size + FRAME_HEADER) {
            true => Ok(()),
            false => Err(Change::LogTruncated),
        }
    }
}

/// How many pages SQLite takes the log to have.
fn pages_in_log(connection: &Connection) -> rusqlite::Result<u64> {
    let pages: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1))?;
    Ok(u64::try_from(pages).unwrap_or(0))
}

fn open(path: &Path) -> io::Result<File> {
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
