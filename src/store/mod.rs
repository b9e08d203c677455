//! The store: every report on disk, in one SQLite file.
//!
//! The reactor's thread fills batches through an [`BatchProducer`]; a writer's thread
//! commits them, one after the other, and gives each back. Neither waits for the
//! other. Knows records, and neither packets nor connections.

mod batch;
mod clock_guard;
mod delivery;
mod drops;
mod files;
mod location;
mod lock;
mod open;
mod pages;
mod producer;
mod reader;
mod retention;
pub mod schema;
mod slot;
mod standby;
mod statements;
mod surplus;
mod writer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use batch::{AgentIndex, AgentRecord, Batch, EventRecord, ReportRecord};
pub use delivery::{Delivery, Lane, Opening, Progress};
pub use location::{check_owner, resolve};
pub use lock::{Lock, LockError};
pub use open::OpenError;
pub use producer::BatchProducer;
pub use reader::{
    AgentFilter, AgentId, AgentIdentity, AgentQuery, AgentRow, Cursor, EventRow, Journal,
    JournalPage, Notice, Reader, ReportRow, Selection, State,
};
pub use retention::{FreeSpace, Retention};
pub use slot::Health;
pub use standby::StandbyStore;

use hawk_time::{Clock, UnixNanos};
use open::{Work, size_of};
use writer::Writer;

/// A store that is open for writing, and that nobody writes yet.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    lock: Lock,
    /// Agents that were heard last before this are too many, unless they are online or
    /// established.
    surplus: Option<UnixNanos>,
    delivery: Arc<Delivery>,
}

impl Store {
    /// Opens the store at `path`, makes it if there is none, and brings its
    /// tables up to date.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do about it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let path = resolve(path.as_ref())?;
        location::check_file(&path)?;
        location::check_access(&path)?;
        let lock = Lock::take(&path).map_err(|error| OpenError::Lock(path.clone(), error))?;
        let mut connection = open::open(&path)?;
        Work::limit(&mut connection, size_of(&path))
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        if let Some(command) = location::closing_command(&path) {
            log::warn!("other users have rights on the store's files; take them away: {command}");
        }
        Ok(Self {
            path,
            connection,
            lock,
            surplus: None,
            delivery: Arc::default(),
        })
    }

    /// Passes at most `most` of the agents to `see`: online agents before others, within both
    /// groups established agents first, then the most recently heard. Marks online agents that
    /// are left out as offline, with an event.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`] if they cannot be read.
    pub fn agents(
        &mut self,
        most: usize,
        see: impl FnMut(&AgentRecord<'_>),
    ) -> Result<(), OpenError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let read = self.read_agents(most, see).and_then(|surplus| {
            surplus::mark_offline(&self.connection, most)?;
            Ok(surplus)
        });
        self.surplus = read.map_err(|error| self.unreadable(error))?;
        Ok(())
    }

    /// If there are more than `most`, returns a time: agents that are left out were last heard
    /// before it.
    fn read_agents(
        &self,
        most: i64,
        mut see: impl FnMut(&AgentRecord<'_>),
    ) -> rusqlite::Result<Option<UnixNanos>> {
        let mut agents = self.connection.prepare(&format!(
            "SELECT name, address, version, first_seen, last_seen, state, changed_at, interval, \
             CASE WHEN {established} THEN {hours} ELSE coalesce(hours, 1) END, last_hour, \
             {judged}, report_interval, cloned_at \
             FROM agents ORDER BY state DESC, {established} DESC, last_seen DESC, id LIMIT ?1",
            judged = surplus::JUDGED,
            established = surplus::ESTABLISHED,
            hours = surplus::ESTABLISHED_HOURS,
        ))?;
        let mut rows = agents.query([most])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            // What is no address was not written by us.
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
            let keeps_its_place = agent.online || agent.hours >= Some(surplus::ESTABLISHED_HOURS);
            last = (!keeps_its_place).then_some(agent.last_seen);
            see(&agent);
        }
        drop(rows);
        let all = "SELECT count(*) FROM agents";
        let all: i64 = self.connection.query_row(all, [], |row| row.get(0))?;
        let now = UnixNanos::now();
        Ok((all > most).then(|| last.map_or(now, |last| last.min(now))))
    }

    /// Makes the writer store the progress of delivery.
    #[must_use]
    pub fn with_delivery(mut self, delivery: Arc<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Starts the writer.
    ///
    /// # Errors
    /// If the kernel refuses a thread.
    pub fn start(self, retention: Retention) -> std::io::Result<BatchProducer> {
        let lock = Arc::new(self.lock);
        let writer = Writer::new(self.path, retention, lock)
            .with_surplus(self.surplus)
            .with_delivery(self.delivery);
        let connection = self.connection;
        spawn(writer, move |writer| writer.run(connection))
    }

    /// Prepares a writer that runs on the caller's thread and reads `clock`: for a
    /// simulation. Its reactor's half must never wait for it.
    #[must_use]
    pub fn with_inline_writer(
        self,
        retention: Retention,
        clock: Clock,
    ) -> (BatchProducer, InlineWriter) {
        let lock = Arc::new(self.lock);
        let writer = Writer::new(self.path, retention, lock)
            .with_surplus(self.surplus)
            .with_delivery(self.delivery)
            .with_clock(clock);
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

/// A writer for the caller's thread: see [`Store::with_inline_writer`].
pub struct InlineWriter {
    writer: Writer,
    connection: Connection,
}

impl InlineWriter {
    /// Commits what comes until the reactor's half ends it. Calls `idle` wherever it would
    /// wait for a batch, with the time it would wait for; when that breaks off, leaves the
    /// file as it is, as if the process had been killed.
    pub fn run(self, idle: impl FnMut(Duration) -> ControlFlow<()>) {
        self.writer.run_here(self.connection, idle);
    }
}

/// Runs the writer on a thread of its own.
fn spawn(
    writer: Writer,
    write: impl FnOnce(Writer) + Send + 'static,
) -> std::io::Result<BatchProducer> {
    let producer = writer.producer();
    let slot = Arc::clone(writer.slot());
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
        let name = "store::tests::a_panic_of_the_writer_thread_aborts_the_process";
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .output()
            .unwrap()
            .status;
        assert_eq!(status.signal(), Some(6), "{status}");
    }
}
