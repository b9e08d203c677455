//! Reading a store, whether a server writes it or not.
//!
//! Each call is a short transaction of its own: a reader that stayed in one
//! would keep the writer's log from being emptied
//! (<https://sqlite.org/wal.html>, "Avoiding Excessively Large WAL Files").

mod journal;
mod notices;
mod open;
mod rows;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;

use super::location::{FileId, resolve};
use super::lock::Lock;
use super::open::{Work, size_of};
use super::{Lane, OpenError};
use hawk_time::{Moment, Throttle, UnixNanos};
use notices::Notices;
pub(super) use open::{connect, file_id};

pub use journal::{Cursor, Journal, JournalPage, Selection};
pub use notices::Notice;
pub use rows::{AgentId, AgentIdentity, AgentRow, EventRow, ReportRow, State};

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    /// As it was given.
    path: PathBuf,
    /// Without symbolic links: the log and the lock are beside this one.
    resolved: PathBuf,
    /// Each call may do all of it.
    work: Work,
    connection: Connection,
    file: FileId,
    /// Events that were skipped because their rows cannot be read.
    unreadable: Cell<u64>,
    complaints: RefCell<Throttle>,
}

impl Reader {
    /// Opens the store at `path`, which must be there.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do about it.
    pub fn open(path: PathBuf) -> Result<Self, OpenError> {
        let file = open::file_id(&path)?;
        let resolved = resolve(&path)?;
        let mut connection = open::open(&resolved)?;
        let work = Work::limit(&mut connection, size_of(&resolved))
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        Ok(Self {
            path,
            resolved,
            work,
            connection,
            file,
            unreadable: Cell::new(0),
            complaints: RefCell::new(Throttle::every(Duration::from_secs(3600))),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a server is writing it.
    ///
    /// # Errors
    /// If its lock file cannot be examined.
    pub fn is_written(&self) -> io::Result<bool> {
        Lock::is_held(&self.resolved)
    }

    /// Whether its path still leads to it, and not to a file put in its place.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        open::file_id(&self.path).is_ok_and(|file| file == self.file)
    }

    /// When an agent was last heard, as far as the store knows.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`] if it cannot be read, as with all below.
    pub fn last_seen(&self) -> Result<Option<UnixNanos>, OpenError> {
        let last: rusqlite::Result<Option<i64>> =
            self.connection
                .query_row("SELECT max(last_seen) FROM agents", [], |row| row.get(0));
        Ok(last.map_err(self.failed())?.map(UnixNanos::from_nanos))
    }

    /// All agents, by name and address.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn agents(&self) -> Result<Vec<AgentRow>, OpenError> {
        rows::agents(&self.connection).map_err(self.failed())
    }

    /// Finds the agent that gives itself this name.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn find_named(&self, name: &str) -> Result<Option<AgentId>, OpenError> {
        rows::find_named(&self.connection, name).map_err(self.failed())
    }

    /// Finds the agent at this address that gives itself no name.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn find_unnamed(&self, address: IpAddr) -> Result<Option<AgentId>, OpenError> {
        rows::find_unnamed(&self.connection, address).map_err(self.failed())
    }

    /// Selects the rows of a journal of these agents, or of all, that came at `since` or
    /// later and before `until`.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn select<J: Journal>(
        &self,
        agents: Option<Vec<AgentId>>,
        since: Option<UnixNanos>,
        until: Option<UnixNanos>,
    ) -> Result<Selection, OpenError> {
        journal::select::<J>(&self.connection, agents, since, until).map_err(self.failed())
    }

    /// The place before the last `count` rows of a selection.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn last<J: Journal>(&self, count: u64, selection: &Selection) -> Result<Cursor, OpenError> {
        journal::last::<J>(&self.connection, count, selection).map_err(self.failed())
    }

    /// The next rows of a selection after `after`. Bounded in rows and bytes.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn page<J: Journal>(
        &self,
        after: Cursor,
        selection: &Selection,
    ) -> Result<JournalPage<J>, OpenError> {
        journal::page(&self.connection, after, selection).map_err(self.failed())
    }

    /// Returns the next events of a lane after `after`, at most `most`, for delivery; and the
    /// sequence number up to which the lane has no others.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn notices(
        &self,
        lane: Lane,
        after: i64,
        most: usize,
    ) -> Result<(Vec<Notice>, i64), OpenError> {
        let next = notices::next(&self.connection, lane, after, most);
        let (found, upto) = next.map_err(self.failed())?;
        Ok((self.readable(found), upto))
    }

    /// The events of these numbers, as far as they are there.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn notices_numbered(&self, seqs: &[i64]) -> Result<Vec<Notice>, OpenError> {
        let found = notices::numbered(&self.connection, seqs).map_err(self.failed())?;
        Ok(self.readable(found))
    }

    /// Returns the events that can be read, and logs the number of the others.
    fn readable(&self, found: Notices) -> Vec<Notice> {
        if found.unreadable > 0 {
            let skipped = self.unreadable.get() + found.unreadable;
            self.unreadable.set(skipped);
            let mut complaints = self.complaints.borrow_mut();
            if complaints.allow(Moment::now()).is_some() {
                log::warn!(
                    "events that cannot be read are not delivered: {skipped} store={:?}",
                    self.path
                );
            }
        }
        found.events
    }

    fn failed(&self) -> impl FnOnce(rusqlite::Error) -> OpenError {
        self.work.renew();
        |error| OpenError::Sqlite(self.path.clone(), error)
    }
}
