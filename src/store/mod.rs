//! The store: every report on disk, in one SQLite file.
//!
//! The reactor's thread fills batches through an [`Intake`]; a writer's thread
//! commits them, one after the other, and gives each back. Neither waits for the
//! other. Knows records, and neither packets nor connections.

mod batch;
mod delivery;
mod examined;
mod intake;
mod lock;
mod open;
mod reader;
mod retention;
pub mod schema;
mod statements;
mod tray;
mod writer;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use batch::{Agent, AgentIndex, Batch, Event, Report};
pub use delivery::{Lane, Opening, Progress};
pub use examined::Examined;
pub use intake::Intake;
pub use lock::{Lock, LockError};
pub use open::OpenError;
pub use reader::{
    AgentId, AgentRow, Cursor, EventRow, Journal, Reader, ReportRow, Selection, Sender, State, Step,
};
pub use retention::Retention;
pub use tray::{Counters, Health};

use crate::time::{Clock, UnixNanos};
use tray::Tray;
use writer::Writer;

/// A store that is open for writing, and that nobody writes yet.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    connection: Connection,
    lock: Lock,
}

impl Store {
    /// Opens the store at `path`, makes it if there is none, and brings its
    /// tables up to date.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do about it.
    pub fn open(path: PathBuf) -> Result<Self, OpenError> {
        open::check_folder(&path)?;
        let lock = Lock::take(&path).map_err(|error| OpenError::Lock(path.clone(), error))?;
        let connection = open::open(&path)?;
        Ok(Self {
            path,
            connection,
            lock,
        })
    }

    /// Shows the agents there are to `see`, those heard last first, at most
    /// `most` of them.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`] if they cannot be read.
    pub fn agents(&self, most: usize, see: impl FnMut(&Agent<'_>)) -> Result<(), OpenError> {
        self.read_agents(most, see)
            .map_err(|error| self.unreadable(error))
    }

    fn read_agents(&self, most: usize, mut see: impl FnMut(&Agent<'_>)) -> rusqlite::Result<()> {
        let mut agents = self.connection.prepare(
            "SELECT name, address, version, first_seen, last_seen, state, changed_at, interval, \
             hours, last_hour, watched, report_interval \
             FROM agents ORDER BY last_seen DESC LIMIT ?1",
        )?;
        let mut rows = agents.query([i64::try_from(most).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            // What is no address was not written by us.
            let Ok(address) = row.get_ref(1)?.as_str()?.parse() else {
                continue;
            };
            let nanos = |column| row.get(column).map(UnixNanos::from_nanos);
            see(&Agent {
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
            });
        }
        Ok(())
    }

    /// Starts the writer.
    ///
    /// # Errors
    /// If the kernel refuses a thread.
    pub fn start(self, retention: Retention) -> std::io::Result<Intake> {
        let tray = Arc::new(Tray::default());
        let writer = Writer::new(self.path, retention, Arc::clone(&tray));
        let connection = self.connection;
        spawn(tray, self.lock, move |_| writer.run(connection))
    }

    /// Prepares a writer that runs on the caller's thread and reads `clock`: for a
    /// simulation. Its reactor's half must never wait for it.
    #[must_use]
    pub fn on_this_thread(self, retention: Retention, clock: Clock) -> (Intake, WriterHere) {
        let tray = Arc::new(Tray::default());
        let writer = Writer::new(self.path, retention, Arc::clone(&tray)).with_clock(clock);
        let here = WriterHere {
            writer,
            connection: self.connection,
        };
        (Intake::new(tray, Arc::new(self.lock)), here)
    }

    fn unreadable(&self, error: rusqlite::Error) -> OpenError {
        OpenError::Sqlite(self.path.clone(), error)
    }
}

/// A writer for the caller's thread: see [`Store::on_this_thread`].
pub struct WriterHere {
    writer: Writer,
    connection: Connection,
}

impl WriterHere {
    /// Commits what comes until the reactor's half ends it. Calls `idle` wherever it would
    /// wait for a batch, with the time it would wait for; when that breaks off, leaves the
    /// file as it is, as if the process had been killed.
    pub fn run(self, idle: impl FnMut(Duration) -> ControlFlow<()>) {
        self.writer.run_here(self.connection, idle);
    }
}

/// Runs the writer's thread, which holds the lock with the reactor's half.
fn spawn(
    tray: Arc<Tray>,
    lock: Lock,
    write: impl FnOnce(&Lock) + Send + 'static,
) -> std::io::Result<Intake> {
    let lock = Arc::new(lock);
    // Nobody else may write before the thread is done.
    let (held, ended) = (Arc::clone(&lock), Arc::clone(&tray));
    std::thread::Builder::new()
        .name("hawk-store".to_owned())
        .spawn(move || {
            write(&held);
            drop(held);
            ended.end();
        })?;
    Ok(Intake::new(tray, lock))
}
