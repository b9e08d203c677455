//! Opening the file, for the one who writes it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::lock::LockError;
use super::schema::{self, Fitness};

/// How long the file may be locked by another program before that is an error.
/// Others only ever lock it for a moment, unless something is wrong.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Memory for pages of the file, in KiB: room for what a batch changes many
/// times over.
const CACHE_KIB: i32 = 8 * 1024;

/// Bytes of a page, of a file that is made now. With SQLite's own 4 KiB a large
/// batch costs a tenth more CPU time. 16 KiB would save about as much again, and
/// have every small commit write twice as much.
const PAGE_SIZE: i32 = 8 * 1024;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder it is to be in is not there.
    #[error("there is no folder {}; make it, or give another --store", .0.display())]
    NoFolder(PathBuf),
    /// Another server writes it, or its lock cannot be had.
    #[error("{}", .0.display())]
    Lock(PathBuf, #[source] LockError),
    /// It is another program's file.
    #[error("{} is a database of another program; give another --store", .0.display())]
    Foreign(PathBuf),
    /// It was written by a newer version of this program.
    #[error(
        "{} has tables of version {found}, and this hawk knows no more than version {known}; \
         start a newer hawk, or give another --store",
        .path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version it has.
        found: i32,
        /// The last version that this program knows.
        known: i32,
    },
    /// It is to be read, and is not there.
    #[error("there is no {}; give another --store, or start `hawk serve` first", .0.display())]
    Missing(PathBuf),
    /// It is to be written on, and is not there any more.
    #[error(
        "{} was moved or removed while the server was writing it; put it back, or wait until the \
         server has made a new one",
        .0.display()
    )]
    Vanished(PathBuf),
    /// It is to be read, and nothing was ever written to it.
    #[error("{} is empty: no hawk has written it yet", .0.display())]
    Empty(PathBuf),
    /// It is to be read, and is from before this version.
    #[error(
        "{} is from an older hawk; start `hawk serve` on it once to bring it up to date",
        .0.display()
    )]
    Older(PathBuf),
    /// It is to be read, and its log cannot be.
    #[error(
        "{path}: its log, {path}-wal, can only be read by those who may write its folder; \
         run this as the server's user",
        path = .0.display()
    )]
    LogUnreadable(PathBuf),
    /// SQLite cannot open or read it.
    #[error("{}: {}", .0.display(), explain(.1))]
    Sqlite(PathBuf, #[source] rusqlite::Error),
    /// The file system says no.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// Opens the store at `path` for writing, makes it if there is none, and brings
/// its tables up to date.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        // One thread uses it.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(failed)?;
    // It holds for a file that has no page yet, and leaves any other as it is.
    connection
        .pragma_update(None, "page_size", PAGE_SIZE)
        .map_err(failed)?;
    match schema::examine(&connection).map_err(failed)? {
        Fitness::Ready => {}
        Fitness::Empty | Fitness::Older(_) => schema::migrate(&mut connection).map_err(failed)?,
        Fitness::Newer(found) => {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: schema::VERSION,
            });
        }
        Fitness::Foreign => return Err(OpenError::Foreign(path.to_owned())),
    }
    configure(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// Pages in the log after the last commit on this thread.
pub(super) fn wal_pages() -> u32 {
    WAL_PAGES.get()
}

thread_local! {
    static WAL_PAGES: Cell<u32> = const { Cell::new(0) };
}

/// Called by SQLite after each commit.
#[allow(clippy::unnecessary_wraps)] // The type that it wants.
fn note_log(_log: &mut Wal, pages: i32) -> rusqlite::Result<()> {
    WAL_PAGES.set(u32::try_from(pages).unwrap_or(0));
    Ok(())
}

/// Sees to it that the folder is there: SQLite's own word for its absence is
/// "unable to open database file".
pub(super) fn check_folder(path: &Path) -> Result<(), OpenError> {
    let folder = folder_of(path);
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        _ => Err(OpenError::NoFolder(folder.to_owned())),
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn configure(connection: &mut Connection) -> rusqlite::Result<()> {
    // A commit is a write to the end of the log and one sync of it; readers go
    // on meanwhile (https://sqlite.org/wal.html).
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("its journal mode stays {mode}; it must be wal")),
        ));
    }
    // Every commit is synced: NORMAL would lose the last ones with the power.
    connection.pragma_update(None, "synchronous", "full")?;
    // No checkpoint at a commit: the writer sees to it, after the replies.
    connection.wal_hook(Some(note_log))?;
    // Nothing here refers to a row that must exist.
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(())
}

/// SQLite's word for what happened, and what to do about it.
pub(super) fn explain(error: &rusqlite::Error) -> String {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free some space on its disk",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program holds a lock on it; end that program's transaction"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "it is damaged; stop hawk, keep a copy, and recover it (`sqlite3 FILE .recover`) or \
             go back to a backup"
        }
        Some(ErrorCode::NotADatabase) => "give another --store, or move this file away",
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "see that it and its folder can be written"
        }
        Some(ErrorCode::SystemIoFailure) => "see the kernel's log for what its disk says",
        _ => return error.to_string(),
    };
    format!("{error} ({advice})")
}
