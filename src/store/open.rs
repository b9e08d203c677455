//! Opening the file, for the one who writes it.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use rustix::process::{Resource, getrlimit};

use super::location;
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

/// Bytes of the log's file, at most, once all of it was moved into the store: twice what the
/// writer lets it grow to.
const LOG_LIMIT: i64 = 16 << 20;

/// Bytes of a row or a value, at most: a report has 64 KiB of content, of which each byte
/// takes no more than 6.
const MAX_ROW: i32 = 1 << 20;

/// Tables and indexes of a store, at most, and columns of a table: a few times what there are.
const MAX_OBJECTS: i32 = 64;
const MAX_COLUMNS: i32 = 64;

/// Instructions for a file of no size, and between two looks at how many were done.
const LEAST_WORK: u64 = 20_000_000;
const WORK_STEP: u16 = 10_000;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder it is to be in is not there.
    #[error("there is no folder {}; make it, or give another --store", .0.display())]
    NoFolder(PathBuf),
    /// It is a folder, a device or the like.
    #[error("{} is no regular file; give another --store", .0.display())]
    NotAFile(PathBuf),
    /// It has more than one name.
    #[error(
        "{path} has a second name (a hard link), under which its log would not be found; remove \
         the other name (find / -samefile {path}), or give another --store",
        path = .0.display()
    )]
    HardLinked(PathBuf),
    /// This process runs as root, and another user could replace the store's files.
    #[error(
        "{path} belongs to user {owner}, who could replace the store's files under a server that \
         runs as root; run hawk as that user, or give --store-owner-ok",
        path = .path.display()
    )]
    OtherOwner {
        /// The file or its folder.
        path: PathBuf,
        /// The user's number.
        owner: u32,
    },
    /// This process runs as root, and other users may write the store's folder.
    #[error(
        "{folder} can be written by other users, who could replace the store's files under a \
         server that runs as root; take that from them (chmod go-w {folder}), give another \
         --store, or give --store-owner-ok",
        folder = .0.display()
    )]
    SharedFolder(PathBuf),
    /// One of its files, or its folder, cannot be written.
    #[error(
        "{path} cannot be written by user {user}, as which this hawk runs; run it as the owner, \
         or change the owner (chown {user} {path})",
        path = .path.display()
    )]
    Unwritable {
        /// The file or folder.
        path: PathBuf,
        /// The user's number.
        user: u32,
    },
    /// Another server writes it, or its lock cannot be had.
    #[error("{}", .0.display())]
    Lock(PathBuf, #[source] LockError),
    /// It is another program's file.
    #[error("{} is a database of another program; give another --store", .0.display())]
    Foreign(PathBuf),
    /// Its schema differs from the schema that this program makes.
    #[error(
        "{} has {what}: hawk did not make it so, and such a file is not safe to use; go back to \
         a backup, give another --store, or put right what was changed (sqlite3)",
        .path.display()
    )]
    Altered {
        /// The file.
        path: PathBuf,
        /// What is there and should not be, or the reverse.
        what: String,
    },
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

/// Opens the store at `path`, which is [resolved](location::resolve), for writing; makes it
/// if it does not exist, and brings its tables up to date.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    location::check_file(path)?;
    location::check_access(path)?;
    location::create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        // One thread uses it.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    harden(&connection).map_err(failed)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(failed)?;
    // It holds for a file that has no page yet, and leaves any other as it is.
    connection
        .pragma_update(None, "page_size", PAGE_SIZE)
        .map_err(failed)?;
    let fitness = schema::examine(&connection).map_err(failed)?;
    // What access(2) does not tell: an attribute of the file (`chattr +i`), for example.
    if connection.is_readonly(MAIN_DB).map_err(failed)? {
        return Err(OpenError::Unwritable {
            path: path.to_owned(),
            user: rustix::process::geteuid().as_raw(),
        });
    }
    check_tables(path, &connection, fitness)?;
    match fitness {
        Fitness::Ready => {}
        Fitness::Empty | Fitness::Older(_) => schema::migrate(&mut connection).map_err(failed)?,
        Fitness::Newer(_) | Fitness::Foreign => return Err(fitness.refusal(path)),
    }
    configure(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// Refuses a store if its schema differs from the schema of its version.
pub(super) fn check_tables(
    path: &Path,
    connection: &Connection,
    fitness: Fitness,
) -> Result<(), OpenError> {
    let version = match fitness {
        Fitness::Ready => schema::VERSION,
        Fitness::Older(version) => version,
        Fitness::Empty | Fitness::Newer(_) | Fitness::Foreign => return Ok(()),
    };
    match schema::difference(connection, version) {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(OpenError::Altered {
            path: path.to_owned(),
            what,
        }),
        Err(error) => Err(OpenError::Sqlite(path.to_owned(), error)),
    }
}

/// Bounds the work of a connection, in instructions of SQLite's virtual machine. The bound is
/// above the cost of reading all rows of a file, and ends a read of a damaged file in which
/// pages form a cycle.
#[derive(Debug)]
pub(super) struct Work(Arc<AtomicU64>);

impl Work {
    /// Bounds it for a file of this size.
    pub(super) fn limit(connection: &mut Connection, bytes: u64) -> rusqlite::Result<Self> {
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        // A row takes 16 bytes at least, and some 64 instructions to be read.
        let most = (LEAST_WORK + 4 * bytes) / u64::from(WORK_STEP);
        let is_too_much = move || count.fetch_add(1, Ordering::Relaxed) >= most;
        connection.progress_handler(WORK_STEP.into(), Some(is_too_much))?;
        Ok(Self(done))
    }

    /// Gives the connection all of it again.
    pub(super) fn renew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// The size of the file at `path`, for [`Work::limit`].
pub(super) fn size_of(path: &Path) -> u64 {
    let log = location::beside(path, "-wal");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    size(path).saturating_add(size(&log))
}

/// Limits what a file that was made to harm can do to this process: nothing in its schema
/// runs, and none of its rows or schemas are of unlimited size
/// (<https://sqlite.org/security.html>, "Untrusted SQLite Database Files").
pub(super) fn harden(connection: &Connection) -> rusqlite::Result<()> {
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
    ] {
        connection.set_db_config(option, value)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_ROW),
        (Limit::SQLITE_LIMIT_SCHEMA, MAX_OBJECTS),
        (Limit::SQLITE_LIMIT_COLUMN, MAX_COLUMNS),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    // A page's cells are checked when it is read.
    connection.pragma_update(None, "cell_size_check", true)?;
    // A mapped file that is truncated by another program would end the process (SIGBUS).
    connection.pragma_update(None, "mmap_size", 0)
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
    // Makes the log, which is watched from now on, if the mode was another before.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    // Every commit is synced: NORMAL would lose the last ones with the power.
    connection.pragma_update(None, "synchronous", "full")?;
    // A log that has swollen is cut to this size when it is written from its start again.
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
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
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::OperationInterrupted) => {
            "it is damaged; stop hawk, keep a copy, and recover it (`sqlite3 FILE .recover`) or \
             go back to a backup"
        }
        Some(ErrorCode::NotADatabase) => "give another --store, or move this file away",
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "see that it and its folder can be written"
        }
        Some(ErrorCode::SystemIoFailure) if getrlimit(Resource::Fsize).current.is_some() => {
            "raise the limit of file sizes that this process has (ulimit -f, LimitFSIZE=), or see \
             the kernel's log for what its disk says"
        }
        Some(ErrorCode::SystemIoFailure) => "see the kernel's log for what its disk says",
        _ => return error.to_string(),
    };
    format!("{error} ({advice})")
}
