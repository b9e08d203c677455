//! Opening a store for writing, and starting its writer.
//!
//! [`Store::open`] is for a new server, [`Store::open_standby`] for the successor of a server
//! that still writes.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};
use rustix::process::{Resource, getrlimit};

use super::files::{self, resolve};
use super::lock::LockError;
use super::reader;
use super::retention::{ESTABLISHED, ESTABLISHED_HOURS, JUDGED, mark_surplus_offline};
use super::schema::{self, Fitness};
use super::writer::Writer;
use super::{AgentRecord, BatchProducer, Delivery, Lock, Retention};
use hawk_time::{Clock, UnixNanos};

/// How long another program may lock the file before that is an error.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Memory for pages of the file, in KiB: many times the pages that a batch changes.
const CACHE_KIB: i32 = 8 * 1024;

/// Number of prepared statements that a connection keeps: more than the writer has.
const MAX_STATEMENTS: usize = 64;

/// Bytes of a page of a new file. With SQLite's default of 4 KiB a large batch takes a tenth
/// more CPU time. 16 KiB would save as much again, but double the bytes of each small commit.
const PAGE_SIZE: i32 = 8 * 1024;

/// Maximum bytes of the log after a complete checkpoint: twice the size at which the writer
/// runs one.
const LOG_LIMIT: i64 = 16 << 20;

/// Maximum bytes of a row or a value: a report has 64 KiB of content, and each byte takes at
/// most 6.
const MAX_ROW: i32 = 1 << 20;

/// Maximum number of tables and indexes, and of columns of a table: a few times the actual
/// numbers.
const MAX_OBJECTS: i32 = 64;
const MAX_COLUMNS: i32 = 64;

/// Instructions for an empty file, and between two checks of their number.
const LEAST_WORK: u64 = 20_000_000;
const WORK_STEP: u16 = 10_000;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder does not exist.
    #[error("there is no folder {}; make it, or give another --store", .0.display())]
    NoFolder(PathBuf),
    /// It is a folder, a device or another special file.
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
        "{path} belongs to user {owner}, which could replace the store's files under a server that \
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
        "{folder} can be written by other users, which could replace the store's files under a \
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
    /// Another server writes it, or its lock cannot be taken.
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
        /// The first object that is missing or should not exist.
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
    /// A reader was to open it, and it does not exist.
    #[error("there is no {}; give another --store, or start `hawk serve` first", .0.display())]
    Missing(PathBuf),
    /// The successor of its server was to open it, and it does not exist any more.
    #[error(
        "{} was moved or removed while the server was writing it; put it back, or wait until the \
         server has made a new one",
        .0.display()
    )]
    Vanished(PathBuf),
    /// A reader was to open it, and it is empty.
    #[error("{} is empty: no hawk has written it yet; give another --store, or start `hawk serve` first", .0.display())]
    Empty(PathBuf),
    /// A reader was to open it, and its tables are of an older version.
    #[error(
        "{} is from an older hawk; start `hawk serve` on it once to bring it up to date",
        .0.display()
    )]
    Older(PathBuf),
    /// A reader was to open it, and may not read its log.
    #[error(
        "{path}: its log, {path}-wal, can only be read by users that may write its folder; \
         run this as the server's user",
        path = .0.display()
    )]
    LogUnreadable(PathBuf),
    /// SQLite cannot open or read it.
    #[error("{}: {}", .0.display(), explain(.1))]
    Sqlite(PathBuf, rusqlite::Error),
    /// An error of the file system.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] io::Error),
}

/// A store that is open for writing, without a writer yet.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    lock: Lock,
    /// Agents with the last packet before this time are surplus unless they are online or
    /// established.
    surplus: Option<UnixNanos>,
    delivery: Arc<Delivery>,
}

impl Store {
    /// Opens the store at `path`, creates it if it does not exist, and migrates its tables to
    /// this version.
    ///
    /// # Errors
    /// [`OpenError`]; its text says what to do.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = resolve(path.as_ref())?;
        files::check_file(&path)?;
        files::check_access(&path)?;
        let lock = Lock::take(&path).map_err(|error| OpenError::Lock(path.clone(), error))?;
        let mut connection = open(&path)?;
        Work::limit(&mut connection, size_of(&path))
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        if let Some(command) = files::closing_command(&path) {
            log::warn!("other users have rights on the store's files; remove them: {command}");
        }
        Ok(Self {
            path,
            connection,
            lock,
            surplus: None,
            delivery: Arc::default(),
        })
    }

    /// Passes at most `most` agents to `see`: online agents before others, within both groups
    /// established agents first, then by the time of the last packet. Marks online agents that
    /// are left out as offline, with an event.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`] if they cannot be read.
    pub fn agents(
        &mut self,
        most: usize,
        see: impl FnMut(&AgentRecord<&str>),
    ) -> Result<(), OpenError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let read = self.read_agents(most, see).and_then(|surplus| {
            mark_surplus_offline(&self.connection, most)?;
            Ok(surplus)
        });
        self.surplus = read.map_err(|error| self.unreadable(error))?;
        Ok(())
    }

    /// Returns a time if there are more than `most`: agents that are left out have their last
    /// packet before it.
    fn read_agents(
        &self,
        most: i64,
        mut see: impl FnMut(&AgentRecord<&str>),
    ) -> rusqlite::Result<Option<UnixNanos>> {
        let mut agents = self.connection.prepare(&format!(
            "SELECT name, address, version, first_seen, last_seen, state, changed_at, interval, \
             CASE WHEN {ESTABLISHED} THEN {ESTABLISHED_HOURS} ELSE coalesce(hours, 1) END, last_hour, \
             {JUDGED}, report_interval, cloned_at \
             FROM agents ORDER BY state DESC, {ESTABLISHED} DESC, last_seen DESC, id LIMIT ?1"
        ))?;
        let mut rows = agents.query([most])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            // Another program wrote a text that is no address.
            let Ok(address) = row.get_ref(1)?.as_str()?.parse() else {
                continue;
            };
            let nanos = |column| row.get(column).map(UnixNanos::from_nanos);
            let agent = AgentRecord {
                name: row.get_ref(0)?.as_str_or_null()?,
                address,
                version: row.get_ref(2)?.as_str()?,
                first_seen: nanos(3)?,
                last_seen: nanos(4)?,
                online: row.get_ref(5)?.as_str()? == "online",
                changed_at: nanos(6)?,
                interval: row.get(7)?,
                hours: row.get(8)?,
                last_hour: row.get(9)?,
                watched: row.get(10)?,
                report_interval: row.get(11)?,
                cloned_at: row.get(12)?,
            };
            let keeps_its_place = agent.online || agent.hours >= Some(ESTABLISHED_HOURS);
            last = (!keeps_its_place).then_some(agent.last_seen);
            see(&agent);
        }
        drop(rows);
        let all = "SELECT count(*) FROM agents";
        let all: i64 = self.connection.query_row(all, [], |row| row.get(0))?;
        let now = UnixNanos::now();
        Ok((all > most).then(|| last.map_or(now, |last| last.min(now))))
    }

    /// Stores the progress of delivery.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Arc<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Starts the writer.
    ///
    /// # Errors
    /// If the kernel starts no thread.
    pub fn start(self, retention: Retention) -> std::io::Result<BatchProducer> {
        let lock = Arc::new(self.lock);
        let mut writer = Writer::new(self.path, retention, lock);
        (writer.surplus, writer.delivery) = (self.surplus, self.delivery);
        let connection = self.connection;
        spawn(writer, move |writer| writer.run(connection))
    }

    /// Prepares a writer that runs on the caller's thread and reads `clock`, for a simulation.
    /// The producer must not wait for it.
    #[must_use]
    pub fn with_inline_writer(
        self,
        retention: Retention,
        clock: Clock,
    ) -> (BatchProducer, InlineWriter) {
        let lock = Arc::new(self.lock);
        let mut writer = Writer::new(self.path, retention, lock);
        (writer.surplus, writer.delivery) = (self.surplus, self.delivery);
        writer.clock = clock;
        let producer = writer.producer();
        let here = InlineWriter {
            writer,
            connection: self.connection,
        };
        (producer, here)
    }

    fn unreadable(&self, error: rusqlite::Error) -> OpenError {
        OpenError::Sqlite(self.path.clone(), error)
    }
}

/// A writer for the caller's thread; see [`Store::with_inline_writer`].
pub struct InlineWriter {
    writer: Writer,
    connection: Connection,
}

impl InlineWriter {
    /// Commits batches until the producer ends it. Calls `idle` with the time to wait instead
    /// of waiting for a batch; if `idle` breaks, leaves the file as it is, as after the death
    /// of the process.
    pub fn run(self, idle: impl FnMut(Duration) -> ControlFlow<()>) {
        self.writer.run_inline(self.connection, idle);
    }
}

/// Starts the writer thread.
fn spawn(
    writer: Writer,
    write: impl FnOnce(Writer) + Send + 'static,
) -> std::io::Result<BatchProducer> {
    let producer = writer.producer();
    let slot = Arc::clone(&writer.slot);
    std::thread::Builder::new()
        .name("hawk-store".to_owned())
        .spawn(move || {
            let guard = AbortOnPanic;
            write(writer);
            slot.end();
            drop(guard);
        })?;
    Ok(producer)
}

/// Aborts the process if the writer thread panics. Without a writer the server would accept
/// reports and answer none of them; the service manager restarts a process that aborts.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            log::error!("the store's writer thread panicked: hawk aborts");
            std::process::abort();
        }
    }
}

/// A store that the predecessor process still writes, and that this process can write next.
///
/// It stays open for reading until it is open for writing. Otherwise the predecessor would be
/// the last process with the file open, move the log into it as it ends, and remove the log
/// (<https://sqlite.org/wal.html>, "The WAL File"). SQLite keeps its descriptor until the
/// connection for writing is closed too: closing it would release the locks of both (`fcntl(2)`,
/// "Record locking").
#[derive(Debug)]
pub struct StandbyStore {
    path: PathBuf,
    connection: Connection,
    delivery: Arc<Delivery>,
}

impl Store {
    /// Checks that this process can write the store at `path` after its present server, and
    /// changes nothing: its tables must have this version or an older one, and the file and its
    /// folder must be writable.
    ///
    /// # Errors
    /// [`OpenError`]; its text says what to do. A missing file was moved or removed, because
    /// the other process writes it.
    pub fn open_standby(path: &Path) -> Result<StandbyStore, OpenError> {
        let path = resolve(path)?;
        reader::file_id(&path).map_err(|error| match error {
            OpenError::Missing(path) => OpenError::Vanished(path),
            other => other,
        })?;
        files::check_access(&path)?;
        let (connection, fitness) = reader::connect(&path, OpenFlags::empty())
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        check_tables(&path, &connection, fitness)?;
        match fitness {
            Fitness::Ready | Fitness::Empty | Fitness::Older(_) => Ok(StandbyStore {
                path,
                connection,
                delivery: Arc::default(),
            }),
            Fitness::Newer(_) | Fitness::Foreign => Err(fitness.refusal(&path)),
        }
    }
}

impl StandbyStore {
    /// Returns its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Stores the progress of delivery.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Arc<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Starts the writer parked. [`BatchProducer::unpark`] resumes it after the last write of
    /// the predecessor. It then opens the file and migrates its tables; only the first reports
    /// wait for that. It tries again to open a file that cannot be opened, and discards
    /// batches meanwhile.
    ///
    /// # Errors
    /// If the kernel starts no thread.
    pub fn start(self, lock: Lock, retention: Retention) -> std::io::Result<BatchProducer> {
        let mut writer = Writer::new(self.path, retention, Arc::new(lock));
        writer.delivery = self.delivery;
        writer.slot.set_park(true);
        let witness = self.connection;
        spawn(writer, move |writer| writer.open_and_run(witness))
    }
}

/// Opens the store at `path`, which is [resolved](resolve), for writing. Creates it if it does
/// not exist, and migrates its tables to this version.
pub(super) fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    files::check_file(path)?;
    files::check_access(path)?;
    files::create(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        // One thread uses it.
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    harden(&connection).map_err(failed)?;
    connection.busy_timeout(LOCK_PATIENCE).map_err(failed)?;
    // Has an effect only on a file without pages.
    connection
        .pragma_update(None, "page_size", PAGE_SIZE)
        .map_err(failed)?;
    let fitness = schema::examine(&connection).map_err(failed)?;
    // access(2) does not check attributes of the file (`chattr +i`).
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
    /// Bounds the work for a file of this size.
    pub(super) fn limit(connection: &mut Connection, bytes: u64) -> rusqlite::Result<Self> {
        let done = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&done);
        // A row has 16 bytes at least, and takes some 64 instructions to read.
        let most = (LEAST_WORK + 4 * bytes) / u64::from(WORK_STEP);
        let is_too_much = move || count.fetch_add(1, Ordering::Relaxed) >= most;
        connection.progress_handler(WORK_STEP.into(), Some(is_too_much))?;
        Ok(Self(done))
    }

    /// Begins with the whole bound again.
    pub(super) fn renew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Returns the size of the file at `path` and its log, for [`Work::limit`].
pub(super) fn size_of(path: &Path) -> u64 {
    let log = files::beside(path, "-wal");
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    size(path).saturating_add(size(&log))
}

/// Limits the harm of a hostile file: nothing in its schema runs, and its rows and schema have a
/// bounded size
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

/// Returns the number of pages in the log after the last commit of this thread.
pub(super) fn wal_pages() -> u32 {
    WAL_PAGES.get()
}

thread_local! {
    static WAL_PAGES: Cell<u32> = const { Cell::new(0) };
}

/// Called by SQLite after each commit.
#[allow(clippy::unnecessary_wraps)] // The type of the hook.
fn note_log(_log: &mut Wal, pages: i32) -> rusqlite::Result<()> {
    WAL_PAGES.set(u32::try_from(pages).unwrap_or(0));
    Ok(())
}

fn configure(connection: &mut Connection) -> rusqlite::Result<()> {
    // A commit is a write to the end of the log and one sync; readers are not blocked
    // (https://sqlite.org/wal.html).
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("its journal mode stays {mode}; it must be wal")),
        ));
    }
    // Creates the log if the mode was another before: it is watched from now on.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    // Every commit is synced: with NORMAL a power failure loses the last commits.
    connection.pragma_update(None, "synchronous", "full")?;
    // A long log is cut to this size when it is written from its start again.
    connection.pragma_update(None, "journal_size_limit", LOG_LIMIT)?;
    // No checkpoint within a commit: the writer runs it after the replies.
    connection.wal_hook(Some(note_log))?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.set_prepared_statement_cache_capacity(MAX_STATEMENTS);
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(())
}

/// Returns the text of an error, and advice.
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
            "make it and its folder writable"
        }
        Some(ErrorCode::SystemIoFailure) if getrlimit(Resource::Fsize).current.is_some() => {
            "raise the limit of file sizes that this process has (ulimit -f, LimitFSIZE=), or see \
             the kernel's log for what its disk reports"
        }
        Some(ErrorCode::SystemIoFailure) => "see the kernel's log for what its disk reports",
        _ => return error.to_string(),
    };
    format!("{error} ({advice})")
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    const CHILD: &str = "HAWK_TEST_WRITER_PANICS";

    #[test]
    fn a_panic_of_the_writer_thread_aborts_the_process() {
        if std::env::var_os(CHILD).is_some() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("hawk.db");
            let lock = Arc::new(Lock::take(&path).unwrap());
            let writer = Writer::new(path, Retention::UNLIMITED, lock);
            let panic = |_| panic!("injected");
            let _producer = spawn(writer, panic).unwrap();
            std::thread::park();
        }
        let name = "store::open::tests::a_panic_of_the_writer_thread_aborts_the_process";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(6), "{status}");
    }

    mod standby {
        use std::fs;
        use std::time::Duration;

        use super::super::*;
        use crate::store::schema;
        use crate::store::{AgentRecord, Health, ReportRecord, State};
        use hawk_time::{Moment, UnixNanos};

        const PATIENCE: Duration = Duration::from_secs(60);

        const KEEP_ALL: Retention = Retention {
            age: Duration::from_secs(1000 * 86_400),
            ..Retention::UNLIMITED
        };

        /// Returns a folder, and the path of a store in it.
        fn place() -> (tempfile::TempDir, PathBuf) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("hawk.db");
            (folder, path)
        }

        /// Creates a store of another program or version, which the connection keeps in use.
        fn other(path: &Path, pragmas: &str) -> Connection {
            let connection = Connection::open(path).unwrap();
            connection
                .execute_batch(&format!("PRAGMA journal_mode = wal; {pragmas}"))
                .unwrap();
            connection
        }

        /// Creates a store without tables.
        fn older(path: &Path) -> Connection {
            let pragma = format!("PRAGMA application_id = {}", schema::APPLICATION_ID);
            other(path, &pragma)
        }

        /// Returns the same lock, as another process has it.
        fn shared(lock: &Lock, path: &Path) -> Lock {
            Lock::adopt(lock.share().try_clone().unwrap().into(), path).unwrap()
        }

        fn version(connection: &Connection) -> i32 {
            connection
                .pragma_query_value(None, "user_version", |row| row.get(0))
                .unwrap()
        }

        /// Returns the names and bytes of the files in a folder, without the bytes of the log's index,
        /// which every reader changes.
        fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
            let mut files: Vec<_> = fs::read_dir(folder)
                .unwrap()
                .map(|file| {
                    let name = file.unwrap().file_name().into_string().unwrap();
                    let bytes = match name.ends_with("-shm") {
                        true => Vec::new(),
                        false => fs::read(folder.join(&name)).unwrap(),
                    };
                    (name, bytes)
                })
                .collect();
            files.sort();
            files
        }

        /// Writes a report; true if it was committed.
        fn write(producer: &mut BatchProducer, nanos: i64) -> bool {
            submit_report(producer, nanos);
            until(producer, BatchProducer::next_completed).is_committed()
        }

        fn submit_report(producer: &mut BatchProducer, nanos: i64) {
            let time = UnixNanos::from_nanos(nanos);
            let batch = producer.batch();
            let index = batch.add_agent(
                1,
                &AgentRecord {
                    version: "",
                    ..AgentRecord::sample(Some("web-01"), time)
                },
            );
            let report = ReportRecord::sample(time);
            batch.add_report(index, ([10, 0, 0, 7], 1).into(), &report);
            producer.submit(Moment::now());
        }

        fn until<T>(
            producer: &mut BatchProducer,
            mut look: impl FnMut(&mut BatchProducer) -> Option<T>,
        ) -> T {
            let deadline = std::time::Instant::now() + PATIENCE;
            loop {
                producer.collect(Moment::now());
                match look(producer) {
                    Some(found) => return found,
                    None => assert!(std::time::Instant::now() < deadline, "no result in time"),
                }
                std::thread::yield_now();
            }
        }

        #[test]
        fn an_older_store_is_migrated_after_the_writer_is_resumed() {
            let (folder, path) = place();
            let present = older(&path);
            let lock = Lock::take(&path).unwrap();
            let before = contents(folder.path());
            let examined = Store::open_standby(&path).unwrap();
            let mut producer = examined.start(shared(&lock, &path), KEEP_ALL).unwrap();
            until(&mut producer, |producer| producer.is_parked().then_some(()));
            assert_eq!(contents(folder.path()), before, "nothing was written");
            assert_eq!(version(&present), 0);
            producer.unpark();
            assert!(write(&mut producer, 1));
            assert_eq!(version(&present), schema::VERSION);
            drop((present, lock));
            assert!(producer.finish(Moment::now(), PATIENCE));
            let reader = crate::store::Reader::open(path).unwrap();
            assert_eq!(reader.agents().unwrap()[0].state, State::Online);
        }

        #[test]
        fn a_writer_that_ends_before_it_is_resumed_touches_nothing() {
            let (folder, path) = place();
            let present = older(&path);
            let lock = Lock::take(&path).unwrap();
            let before = contents(folder.path());
            let ends: [fn(BatchProducer) -> bool; 2] = [
                |producer| producer.leave(PATIENCE),
                |producer| producer.finish(Moment::now(), PATIENCE),
            ];
            for end in ends {
                let examined = Store::open_standby(&path).unwrap();
                let adopted = shared(&lock, &path);
                assert!(end(examined.start(adopted, KEEP_ALL).unwrap()));
                assert_eq!(contents(folder.path()), before);
            }
            assert_eq!(version(&present), 0);
            assert!(Lock::is_held(&path).unwrap());
        }

        #[test]
        fn a_writer_that_parks_again_commits_the_submitted_batch_first() {
            let (_folder, path) = place();
            drop(Store::open(path.clone()).unwrap());
            for round in 1..20 {
                let examined = Store::open_standby(&path).unwrap();
                let mut producer = examined
                    .start(Lock::take(&path).unwrap(), KEEP_ALL)
                    .unwrap();
                producer.unpark();
                submit_report(&mut producer, round);
                producer.park();
                assert!(until(&mut producer, BatchProducer::next_completed).is_committed());
                until(&mut producer, |producer| producer.is_parked().then_some(()));
                assert!(producer.leave(PATIENCE));
            }
        }

        #[test]
        fn an_unusable_store_is_refused_and_not_changed() {
            let (folder, path) = place();
            let refused = |expected: &str| {
                let before = contents(folder.path());
                let error = Store::open_standby(&path).unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
                assert_eq!(contents(folder.path()), before);
            };
            refused("was moved or removed while the server was writing it");
            let foreign = other(&path, "CREATE TABLE t (x)");
            refused("is a database of another program");
            let newer = schema::VERSION + 1;
            let pragmas = format!(
                "PRAGMA application_id = {}; PRAGMA user_version = {newer}",
                schema::APPLICATION_ID
            );
            foreign.execute_batch(&pragmas).unwrap();
            refused(&format!("has tables of version {newer}"));
            drop(foreign);
            fs::write(&path, "not a database, and long enough to be looked at").unwrap();
            refused("file is not a database");
        }

        #[test]
        fn a_store_that_cannot_be_opened_is_down_until_it_can() {
            let (_folder, path) = place();
            drop(Store::open(path.clone()).unwrap());
            let examined = Store::open_standby(&path).unwrap();
            let lock = Lock::take(&path).unwrap();
            let mut producer = examined.start(lock, KEEP_ALL).unwrap();
            // It is replaced after it was opened for reading.
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
            producer.unpark();
            until(&mut producer, |producer| {
                (producer.health() == Health::Down).then_some(())
            });
            assert!(!write(&mut producer, 1));
            // It parks like any other writer.
            producer.park();
            until(&mut producer, |producer| producer.is_parked().then_some(()));
            fs::remove_dir(&path).unwrap();
            assert!(!path.exists());
            producer.unpark();
            until(&mut producer, |producer| {
                (producer.health() == Health::Up).then_some(())
            });
            assert!(write(&mut producer, 2));
            assert!(producer.finish(Moment::now(), PATIENCE));
        }

        #[test]
        fn the_log_outlasts_the_predecessor_and_is_removed_by_the_successor() {
            let (folder, path) = place();
            let mut first = Store::open(path.clone()).unwrap().start(KEEP_ALL).unwrap();
            assert!(write(&mut first, 1));
            first.park();
            until(&mut first, |producer| producer.is_parked().then_some(()));
            let examined = Store::open_standby(&path).unwrap();
            let adopted = shared(first.lock(), &path);
            let before = contents(folder.path());
            assert!(first.leave(PATIENCE));
            assert_eq!(contents(folder.path()), before);
            let mut second = examined.start(adopted, KEEP_ALL).unwrap();
            second.unpark();
            assert!(write(&mut second, 2));
            assert!(second.finish(Moment::now(), PATIENCE));
            let names: Vec<String> = contents(folder.path())
                .into_iter()
                .map(|file| file.0)
                .collect();
            assert_eq!(names, ["hawk.db", "hawk.db-lock"]);
        }
    }
}
