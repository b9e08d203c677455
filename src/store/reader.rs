//! Reading a store, whether a server writes it or not: the commands, and the delivery of events.
//!
//! Each call of [`Reader`] is a short transaction of its own. A long read transaction would
//! keep the writer from emptying its log (<https://sqlite.org/wal.html>, "Avoiding Excessively
//! Large WAL Files").

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Type, ValueRef};
use rusqlite::{Connection, Error, ErrorCode, OpenFlags, OptionalExtension as _, Row};

use super::files::{FileId, beside, resolve};
use super::lock::Lock;
use super::open::{LOCK_PATIENCE, Work, check_tables, harden, size_of};
use super::schema::{self, Fitness};
use super::{Lane, OpenError};
use hawk_time::{Moment, Throttle, UnixNanos};

/// Maximum number of rows that a page reads: a few milliseconds of work.
const PAGE_ROWS: u32 = 10_000;

/// Bytes of text after which a page ends: a report may have 64 KiB.
const PAGE_BYTES: usize = 1 << 20;

/// Interval of the log line about events that cannot be read.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(3600);

/// A store that is open for reading.
#[derive(Debug)]
pub struct Reader {
    /// The path as the caller gave it.
    path: PathBuf,
    /// The path without symbolic links: the log and the lock are beside it.
    resolved: PathBuf,
    /// The bound on the work of each call.
    work: Work,
    connection: Connection,
    file: FileId,
    /// Number of events that were skipped because their rows cannot be read.
    unreadable: Cell<u64>,
    complaints: RefCell<Throttle>,
}

/// `agents.id`: the number of an agent's row. It is never given to another agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentId(pub i64);

/// The state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The agent sent something recently enough.
    Online,
    /// The agent has been silent for too long.
    Offline,
    /// The agent's silence is not judged. Events never have this state.
    Unwatched,
}

/// A row of `agents`.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// The number of the row.
    pub id: AgentId,
    /// The agent's name; `None` if it sends none.
    pub name: Option<String>,
    /// The IP address of the agent's last packet.
    pub address: String,
    /// The version in the last heartbeat; empty before the first.
    pub version: String,
    /// Time of the first packet.
    pub first_seen: UnixNanos,
    /// Time of the last packet.
    pub last_seen: UnixNanos,
    /// The present state.
    pub state: State,
    /// Time of the last change of state.
    pub changed_at: UnixNanos,
    /// Number of heartbeats.
    pub heartbeats: i64,
    /// Number of reports that were stored, including reports that were removed since.
    pub reports: i64,
    /// Learnt interval of heartbeats; zero if unknown.
    pub interval: Duration,
    /// Learnt interval of reports; zero if the agent is not judged by its reports.
    pub report_interval: Duration,
    /// Time at which two machines were last found to use the agent's name.
    pub cloned_at: Option<UnixNanos>,
}

/// The agent of a report or an event. Its row may have been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The number of its row.
    pub id: AgentId,
    /// Its name; `None` if it sends none.
    pub name: Option<String>,
    /// The IP address of its last packet; `None` if unknown.
    pub address: Option<String>,
}

/// A row of `reports`.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// The sequence number: the order of arrival.
    pub seq: i64,
    /// Time of arrival by the server's clock.
    pub received_at: UnixNanos,
    /// The agent that sent it.
    pub agent: AgentIdentity,
    /// The address and port of the agent's connection.
    pub peer: String,
    /// The agent's text.
    pub content: String,
    /// The agent's random number.
    pub rand: i64,
    /// The agent's clock, in seconds since 1970.
    pub timestamp: i64,
}

/// A row of `events`: a change of an agent's state.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// The sequence number: the order of the events.
    pub seq: i64,
    /// Time of the change by the server's clock.
    pub at: UnixNanos,
    /// The agent.
    pub agent: AgentIdentity,
    /// The version in the agent's last heartbeat at that time; `None` if the event is of
    /// version 1 and the agent's row is gone.
    pub version: Option<String>,
    /// The new state.
    pub state: State,
}

/// An event with all columns, for delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The sequence number.
    pub seq: i64,
    /// Time of the change.
    pub at: UnixNanos,
    /// The agent's name; `None` if it sends none.
    pub name: Option<Arc<str>>,
    /// The address of the agent's last packet.
    pub address: IpAddr,
    /// The version in the agent's last heartbeat.
    pub version: Arc<str>,
    /// Whether the new state is online.
    pub online: bool,
    /// Time of the agent's last packet.
    pub last_seen: UnixNanos,
    /// Whether the agent was established.
    pub established: bool,
}

/// How a command names an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentQuery {
    /// The number of its row.
    Id(AgentId),
    /// Its name.
    Name(String),
    /// The address of an agent without a name.
    Address(IpAddr),
}

/// Matches the rows of one agent.
#[derive(Clone, Debug)]
pub struct AgentFilter {
    /// The number of its row; `None` if the row is gone.
    id: Option<AgentId>,
    /// Its name, for events: they outlive its row.
    name: Option<String>,
    /// Its address if it has no name, likewise.
    address: Option<String>,
}

impl AgentFilter {
    /// Matches the rows with this number.
    #[must_use]
    pub const fn id(id: AgentId) -> Self {
        Self {
            id: Some(id),
            name: None,
            address: None,
        }
    }

    /// Whether a row of a journal is of the agent.
    fn matches(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        if self.id == Some(row.get(1)?) {
            return Ok(true);
        }
        let name = row.get_ref(3)?.as_str_or_null()?;
        Ok(match (&self.name, &self.address) {
            (Some(wanted), _) => name == Some(wanted),
            (None, Some(wanted)) => {
                name.is_none() && row.get_ref(4)?.as_str_or_null()? == Some(wanted)
            }
            (None, None) => false,
        })
    }
}

/// A place in a journal: after the row with this sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// Before the first row. No sequence number is this small.
    pub const START: Self = Self(i64::MIN);
}

/// Rows of a journal that were read in one transaction.
#[derive(Debug)]
pub struct JournalPage<J> {
    /// The rows in the order of arrival. May be empty although later pages have rows.
    pub rows: Vec<J>,
    /// The place after the last row that was read.
    pub next: Cursor,
    /// Whether the journal ends there.
    pub is_last: bool,
}

/// Selects rows of a journal by agent and time.
#[derive(Clone, Debug)]
pub struct Selection {
    /// `None`: all agents.
    agent: Option<AgentFilter>,
    /// Earliest time, in nanoseconds since 1970.
    since: i64,
    /// End of the times, exclusive.
    until: i64,
    /// First and last sequence number of each part of the journal that may have rows of these
    /// times, in order. The last part has no end.
    parts: Vec<(i64, i64)>,
}

impl Selection {
    fn has(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        if !(self.since..self.until).contains(&row.get(2)?) {
            return Ok(false);
        }
        let agent = self.agent.as_ref();
        agent.map_or(Ok(true), |agent| agent.matches(row))
    }
}

/// A row of a table that grows at its end only.
pub trait Journal: Sized {
    /// Selects at most `?3` rows from `?1` to `?2` in order. The first five columns are the
    /// sequence number, the time and the agent's number, name and address.
    const NEXT: &str;
    /// Selects the same five columns of at most `?3` rows from `?2` back to `?1`, last row
    /// first. The name and the address may be null.
    const BEFORE: &str;
    /// Selects a row if the table has one with the agent name `?1` or, without a name, the
    /// address `?2`; `None` if the table has neither column.
    const OF_AGENT: Option<&str>;

    /// Returns the parts of the journal that may have rows of these times.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn parts(connection: &Connection, since: i64, until: i64) -> rusqlite::Result<Vec<(i64, i64)>>;

    /// Reads a row of [`NEXT`](Self::NEXT).
    ///
    /// # Errors
    /// If a column has another type.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// Returns the number of bytes of its text.
    fn text_len(&self) -> usize;
}

impl Reader {
    /// Opens the store at `path`, which must exist.
    ///
    /// # Errors
    /// [`OpenError`]; its text says what to do.
    pub fn open(path: PathBuf) -> Result<Self, OpenError> {
        let file = file_id(&path)?;
        let resolved = resolve(&path)?;
        let mut connection = open(&resolved)?;
        let work = Work::limit(&mut connection, size_of(&resolved))
            .map_err(|error| OpenError::Sqlite(path.clone(), error))?;
        Ok(Self {
            path,
            resolved,
            work,
            connection,
            file,
            unreadable: Cell::new(0),
            complaints: RefCell::new(Throttle::every(COMPLAINT_INTERVAL)),
        })
    }

    /// Returns the path as it was given.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a server is writing the store.
    ///
    /// # Errors
    /// If its lock file cannot be examined.
    pub fn is_written(&self) -> io::Result<bool> {
        Lock::is_held(&self.resolved)
    }

    /// Whether the path still leads to the open file.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        file_id(&self.path).is_ok_and(|file| file == self.file)
    }

    /// Returns the time of the last packet of any agent.
    ///
    /// # Errors
    /// [`OpenError::Sqlite`] if the store cannot be read, as with all methods below.
    pub fn last_seen(&self) -> Result<Option<UnixNanos>, OpenError> {
        self.read(|connection| {
            let last = "SELECT max(last_seen) FROM agents";
            let last: Option<i64> = connection.query_row(last, [], |row| row.get(0))?;
            Ok(last.map(UnixNanos::from_nanos))
        })
    }

    /// Returns all agents, ordered by name or address.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn agents(&self) -> Result<Vec<AgentRow>, OpenError> {
        self.read(|connection| {
            // A row of version 1 has no hours: its heartbeats say whether it was judged.
            let mut agents = connection.prepare(
                "SELECT id, name, address, version, first_seen, last_seen, state, changed_at, \
                        heartbeats, reports, interval, \
                        watched AND (hours IS NOT NULL OR heartbeats > 0), report_interval, \
                        cloned_at \
                 FROM agents ORDER BY coalesce(name, address), id",
            )?;
            let rows = agents.query_map([], |row| {
                Ok(AgentRow {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    address: row.get(2)?,
                    version: row.get(3)?,
                    first_seen: time(row, 4)?,
                    last_seen: time(row, 5)?,
                    state: match row.get(11)? {
                        true => row.get(6)?,
                        false => State::Unwatched,
                    },
                    changed_at: time(row, 7)?,
                    heartbeats: row.get(8)?,
                    reports: row.get(9)?,
                    interval: Duration::from_nanos(row.get(10).unwrap_or(0)),
                    report_interval: Duration::from_nanos(row.get(12).unwrap_or(0)),
                    cloned_at: Some(time(row, 13)?).filter(|at| at.as_nanos() != 0),
                })
            })?;
            rows.collect()
        })
    }

    /// Returns a filter for the rows of an agent; `None` if the store has no such agent, and
    /// the journal no row of it.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn find<J: Journal>(&self, agent: &AgentQuery) -> Result<Option<AgentFilter>, OpenError> {
        let (name, address) = match agent {
            AgentQuery::Id(id) => return Ok(Some(AgentFilter::id(*id))),
            AgentQuery::Name(name) => (Some(name.clone()), None),
            AgentQuery::Address(address) => (None, Some(address.to_canonical().to_string())),
        };
        self.read(|connection| {
            let exists = |query| {
                let mut found = connection.prepare(query)?;
                let key = (&name, &address);
                found.query_row(key, |row| row.get::<_, i64>(0)).optional()
            };
            let id = exists(
                "SELECT id FROM agents \
                 WHERE name = ?1 OR (?1 IS NULL AND name IS NULL AND address = ?2)",
            )?;
            let has_rows = || J::OF_AGENT.map_or(Ok(None), exists);
            if id.is_none() && has_rows()?.is_none() {
                return Ok(None);
            }
            Ok(Some(AgentFilter {
                id: id.map(AgentId),
                name: name.clone(),
                address: address.clone(),
            }))
        })
    }

    /// Selects the rows of a journal of this agent, or of all agents, with times from `since`
    /// on and before `until`.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn select<J: Journal>(
        &self,
        agent: Option<AgentFilter>,
        since: Option<UnixNanos>,
        until: Option<UnixNanos>,
    ) -> Result<Selection, OpenError> {
        let nanos = |time: Option<UnixNanos>, all| time.map_or(all, UnixNanos::as_nanos);
        let (from, to) = (nanos(since, i64::MIN), nanos(until, i64::MAX));
        self.read(|connection| {
            Ok(Selection {
                agent,
                since: from,
                until: to,
                parts: match (since, until) {
                    (None, None) => vec![(i64::MIN, i64::MAX)],
                    _ => J::parts(connection, from, to)?,
                },
            })
        })
    }

    /// Returns the place before the last `count` rows of a selection.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn last<J: Journal>(&self, count: u64, selection: &Selection) -> Result<Cursor, OpenError> {
        self.read(|connection| last::<J>(connection, count, selection))
    }

    /// Returns the rows of a selection after `after`, bounded in number and bytes.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn page<J: Journal>(
        &self,
        after: Cursor,
        selection: &Selection,
    ) -> Result<JournalPage<J>, OpenError> {
        self.read(|connection| page(connection, after, selection))
    }

    /// Returns the events of a lane after `after`, at most `most`, for delivery, and the
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
        let (notices, upto) =
            self.read(|connection| Notices::next(connection, lane, after, most))?;
        Ok((self.readable(notices), upto))
    }

    /// Returns the events with these sequence numbers that exist.
    ///
    /// # Errors
    /// See [`Reader::last_seen`].
    pub fn notices_numbered(&self, seqs: &[i64]) -> Result<Vec<Notice>, OpenError> {
        let notices = self.read(|connection| Notices::numbered(connection, seqs))?;
        Ok(self.readable(notices))
    }

    /// Returns the events that can be read, and logs the number of the others.
    fn readable(&self, notices: Notices) -> Vec<Notice> {
        if notices.unreadable > 0 {
            let skipped = self.unreadable.get() + notices.unreadable;
            self.unreadable.set(skipped);
            let mut complaints = self.complaints.borrow_mut();
            if complaints.allow(Moment::now()).is_some() {
                log::warn!(
                    "events that cannot be read are not delivered: {skipped} store={:?}",
                    self.path
                );
            }
        }
        notices.events
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, OpenError> {
        self.work.renew();
        query(&self.connection).map_err(|error| OpenError::Sqlite(self.path.clone(), error))
    }
}

/// Returns the file at `path`, which is followed if it is a symbolic link.
pub(super) fn file_id(path: &Path) -> Result<FileId, OpenError> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(OpenError::NotAFile(path.to_owned())),
        Ok(found) => Ok(FileId::of(&found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            resolve(path)?;
            Err(OpenError::Missing(path.to_owned()))
        }
        Err(error) => Err(OpenError::File(path.to_owned(), error)),
    }
}

/// Opens the store at `path` without changing it.
fn open(path: &Path) -> Result<Connection, OpenError> {
    let failed = |error| OpenError::Sqlite(path.to_owned(), error);
    let (connection, fitness) = match connect(path, OpenFlags::empty()) {
        Err(error) if wants_to_write(&error) => {
            if !is_at_rest(path)? {
                return Err(OpenError::LogUnreadable(path.to_owned()));
            }
            connect(&immutable(path), OpenFlags::SQLITE_OPEN_URI)
        }
        outcome => outcome,
    }
    .map_err(failed)?;
    check_tables(path, &connection, fitness)?;
    match fitness {
        Fitness::Ready => Ok(connection),
        Fitness::Empty => Err(OpenError::Empty(path.to_owned())),
        Fitness::Older(_) => Err(OpenError::Older(path.to_owned())),
        Fitness::Newer(_) | Fitness::Foreign => Err(fitness.refusal(path)),
    }
}

/// Opens the file at `path` for reading, and examines its tables.
pub(super) fn connect(path: &Path, more: OpenFlags) -> rusqlite::Result<(Connection, Fitness)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags)?;
    harden(&connection)?;
    connection.busy_timeout(LOCK_PATIENCE)?;
    // SQLite reads the file and its log only now.
    let fitness = schema::examine(&connection)?;
    Ok((connection, fitness))
}

/// Whether SQLite cannot open the file because it may not write: a reader writes to the index
/// of the log (<https://sqlite.org/wal.html>, "Read-Only Databases").
fn wants_to_write(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Whether no server writes the file and its log is empty: then the file is complete, and
/// does not change.
fn is_at_rest(path: &Path) -> Result<bool, OpenError> {
    let failed = |error| OpenError::File(path.to_owned(), error);
    let log = match fs::metadata(beside(path, "-wal")) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(error)),
    };
    Ok(log == 0 && !Lock::is_held(path).map_err(failed)?)
}

/// Returns the URI of a file that does not change (<https://sqlite.org/uri.html>,
/// "immutable").
fn immutable(path: &Path) -> PathBuf {
    let mut uri = b"file:".to_vec();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            // These have a meaning in a URI.
            b'%' | b'?' | b'#' => uri.extend(format!("%{byte:02x}").bytes()),
            _ => uri.push(byte),
        }
    }
    uri.extend(b"?immutable=1");
    OsStr::from_bytes(&uri).into()
}

impl Journal for ReportRow {
    const NEXT: &str = "SELECT seq, agent, coalesce(received_at, seq), name, address, peer, \
                               content, rand, timestamp \
                        FROM reports LEFT JOIN agents ON agents.id = agent \
                        WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
    const BEFORE: &str = "SELECT seq, agent, coalesce(received_at, seq), NULL, NULL FROM reports \
                          WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3";
    const OF_AGENT: Option<&str> = None;

    fn parts(connection: &Connection, since: i64, until: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
        let first_timed: i64 =
            connection.query_row("SELECT first_timed FROM store", [], |row| row.get(0))?;
        let mut parts = Vec::new();
        // The key of a report of version 1 is its time.
        let old = (since, until.min(first_timed).saturating_sub(1));
        if old.0 <= old.1 {
            parts.push(old);
        }
        let mut blocks = connection.prepare_cached(
            "SELECT first, last FROM times WHERE latest >= ?1 AND earliest < ?2 ORDER BY first",
        )?;
        let mut blocks = blocks.query((since, until))?;
        while let Some(block) = blocks.next()? {
            let (first, last): (i64, i64) = (block.get(0)?, block.get(1)?);
            match parts.last_mut() {
                // A server writes no blocks that overlap; another program may have.
                Some(part) if first <= part.1.saturating_add(1) => part.1 = part.1.max(last),
                _ if first <= last => parts.push((first, last)),
                _ => {}
            }
        }
        let covered: Option<i64> =
            connection.query_row("SELECT max(last) FROM times", [], |row| row.get(0))?;
        let rest = covered.map_or(first_timed, |last| last.saturating_add(1));
        parts.push((rest, i64::MAX));
        Ok(parts)
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            received_at: time(row, 2)?,
            agent: identity(row)?,
            peer: row.get(5)?,
            content: row.get(6)?,
            rand: row.get(7)?,
            timestamp: row.get(8)?,
        })
    }

    fn text_len(&self) -> usize {
        self.content.len()
    }
}

impl Journal for EventRow {
    // An event of version 1 has only the number of its agent.
    const NEXT: &str = "SELECT seq, agent, at, \
                               iif(events.address IS NULL, agents.name, events.name), \
                               coalesce(events.address, agents.address), \
                               coalesce(events.version, agents.version), events.state \
                        FROM events LEFT JOIN agents ON agents.id = agent \
                        WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
    const BEFORE: &str = "SELECT seq, agent, at, name, address FROM events \
                          WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3";
    const OF_AGENT: Option<&str> = Some(
        "SELECT seq FROM events WHERE name IS ?1 AND (name IS NOT NULL OR address = ?2) LIMIT 1",
    );

    fn parts(
        connection: &Connection,
        since: i64,
        _until: i64,
    ) -> rusqlite::Result<Vec<(i64, i64)>> {
        let first = "SELECT coalesce((SELECT min(seq) FROM events WHERE at >= ?1), \
                                     (SELECT max(seq) FROM events) + 1, 0)";
        let first = connection.query_row(first, [since], |row| row.get(0))?;
        Ok(vec![(first, i64::MAX)])
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: row.get(0)?,
            agent: identity(row)?,
            at: time(row, 2)?,
            version: row.get(5)?,
            state: row.get(6)?,
        })
    }

    fn text_len(&self) -> usize {
        0
    }
}

fn last<J: Journal>(
    connection: &Connection,
    count: u64,
    selection: &Selection,
) -> rusqlite::Result<Cursor> {
    let mut before = connection.prepare_cached(J::BEFORE)?;
    if count == 0 {
        let newest = (i64::MIN, i64::MAX, 1);
        let newest = before.query_row(newest, |row| row.get(0)).optional()?;
        return Ok(newest.map_or(Cursor::START, Cursor));
    }
    let mut left = count;
    for (first, last) in selection.parts.iter().rev() {
        let mut at = *last;
        loop {
            let mut seen = 0;
            let mut rows = before.query((first, at, PAGE_ROWS))?;
            while let Some(row) = rows.next()? {
                let key = row.get(0)?;
                if seen > 0 && key >= at {
                    return Err(out_of_order());
                }
                at = key;
                seen += 1;
                if selection.has(row)? {
                    left -= 1;
                    if left == 0 {
                        return Ok(Cursor(at.saturating_sub(1)));
                    }
                }
            }
            if seen < PAGE_ROWS || at <= *first {
                break;
            }
            at -= 1;
        }
    }
    Ok(Cursor::START)
}

fn page<J: Journal>(
    connection: &Connection,
    after: Cursor,
    selection: &Selection,
) -> rusqlite::Result<JournalPage<J>> {
    let mut next = connection.prepare_cached(J::NEXT)?;
    let mut page = JournalPage {
        rows: Vec::new(),
        next: after,
        is_last: false,
    };
    let (mut seen, mut bytes) = (0, 0);
    let ahead = selection.parts.iter().filter(|part| part.1 > after.0);
    for (first, last) in ahead {
        let from = page.next.0.saturating_add(1).max(*first);
        let mut rows = next.query((from, last, PAGE_ROWS - seen))?;
        while let Some(row) = rows.next()? {
            let key = Cursor(row.get(0)?);
            if key <= page.next {
                return Err(out_of_order());
            }
            page.next = key;
            seen += 1;
            if selection.has(row)? {
                let row = J::read(row)?;
                bytes += row.text_len();
                page.rows.push(row);
                if bytes >= PAGE_BYTES {
                    return Ok(page);
                }
            }
        }
        if seen >= PAGE_ROWS {
            return Ok(page);
        }
    }
    page.is_last = true;
    Ok(page)
}

/// The error for a damaged table, which could otherwise be read without end.
fn out_of_order() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some("its rows are not in the order of their keys".to_owned()),
    )
}

/// Events for delivery.
#[derive(Debug, Default)]
struct Notices {
    events: Vec<Notice>,
    /// Number of rows that cannot be read, because another program wrote them. They are
    /// skipped, so that they do not stop the delivery of later events.
    unreadable: u64,
}

impl Notices {
    const COLUMNS: &str = "seq, at, name, address, version, state, last_seen, established";

    /// Returns the next events of a lane, and the sequence number up to which the lane has no
    /// others. Skips rows of version 1, which lack the columns.
    fn next(
        connection: &Connection,
        lane: Lane,
        after: i64,
        most: usize,
    ) -> rusqlite::Result<(Self, i64)> {
        let transaction = connection.unchecked_transaction()?;
        let newest: Option<i64> =
            transaction.query_row("SELECT max(seq) FROM events", [], |row| row.get(0))?;
        let newest = newest.unwrap_or(after).max(after);
        let mut events = transaction.prepare_cached(&format!(
            "SELECT {} FROM events WHERE seq > ?1 AND established = ?2 \
             AND address IS NOT NULL ORDER BY seq LIMIT ?3",
            Self::COLUMNS
        ))?;
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let mut rows = events.query((after, lane == Lane::Established, limit))?;
        let (mut found, mut seen, mut last) = (Self::default(), 0, newest);
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            seen += 1;
            found.add(row)?;
        }
        Ok((found, if seen < most { newest } else { last }))
    }

    fn numbered(connection: &Connection, seqs: &[i64]) -> rusqlite::Result<Self> {
        let transaction = connection.unchecked_transaction()?;
        let mut event = transaction.prepare_cached(&format!(
            "SELECT {} FROM events WHERE seq = ?1 AND address IS NOT NULL",
            Self::COLUMNS
        ))?;
        let mut found = Self::default();
        for seq in seqs {
            let mut rows = event.query([seq])?;
            while let Some(row) = rows.next()? {
                found.add(row)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        match Self::read(row) {
            Ok(event) => self.events.push(event),
            Err(
                Error::FromSqlConversionFailure(..)
                | Error::InvalidColumnType(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::Utf8Error(..),
            ) => self.unreadable += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Notice> {
        let address = row.get_ref(3)?.as_str()?;
        let is_no_address = |error| Error::FromSqlConversionFailure(3, Type::Text, Box::new(error));
        Ok(Notice {
            seq: row.get(0)?,
            at: time(row, 1)?,
            name: row.get_ref(2)?.as_str_or_null()?.map(Arc::from),
            address: address.parse().map_err(is_no_address)?,
            version: row.get_ref(4)?.as_str_or_null()?.unwrap_or_default().into(),
            online: row.get_ref(5)?.as_str()? == "online",
            last_seen: UnixNanos::from_nanos(row.get::<_, Option<i64>>(6)?.unwrap_or_default()),
            established: row.get(7)?,
        })
    }
}

impl State {
    /// Returns its name, in the store as in the output of commands.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unwatched => "unwatched",
        }
    }
}

impl FromSql for State {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "online" => Ok(Self::Online),
            "offline" => Ok(Self::Offline),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

impl FromSql for AgentId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(Self)
    }
}

/// Reads a column of nanoseconds since 1970.
fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<UnixNanos> {
    row.get(column).map(UnixNanos::from_nanos)
}

/// Reads the agent of a row of [`Journal::NEXT`].
fn identity(row: &Row<'_>) -> rusqlite::Result<AgentIdentity> {
    Ok(AgentIdentity {
        id: row.get(1)?,
        name: row.get(3)?,
        address: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_as_an_uri() {
        let uri = immutable(Path::new("a/50%?#.db"));
        assert_eq!(uri, Path::new("file:a/50%25%3f%23.db?immutable=1"));
    }

    fn store() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    #[test]
    fn an_event_that_cannot_be_read_is_skipped_and_counted() {
        let connection = store();
        for (name, address) in [
            ("'a'", "10.0.0.1"),
            ("'b'", "no address"),
            ("x'ff'", "10.0.0.3"),
            ("'d'", "10.0.0.4"),
        ] {
            let insert = format!(
                "INSERT INTO events (at, agent, state, name, address, version, last_seen)
                 VALUES (1, 1, 'online', CAST({name} AS TEXT), '{address}', '', 1)"
            );
            connection.execute(&insert, []).unwrap();
        }
        let seqs = |found: &Notices| {
            let seqs = found.events.iter().map(|event| event.seq);
            seqs.collect::<Vec<_>>()
        };
        let (found, upto) = Notices::next(&connection, Lane::Established, 0, 10).unwrap();
        assert_eq!((seqs(&found), found.unreadable, upto), (vec![1, 4], 2, 4));
        let (found, upto) = Notices::next(&connection, Lane::Established, 1, 2).unwrap();
        assert_eq!((seqs(&found), found.unreadable, upto), (vec![], 2, 3));
        let found = Notices::numbered(&connection, &[2, 4, 5]).unwrap();
        assert_eq!((seqs(&found), found.unreadable), (vec![4], 1));
    }

    #[test]
    fn events_of_an_agent_are_found_after_its_row_was_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hawk.db");
        let mut connection = Connection::open(&path).unwrap();
        schema::migrate(&mut connection).unwrap();
        let events = "INSERT INTO events (at, agent, state, name, address) VALUES
            (1, 7, 'online', 'web-01', '10.0.0.7'), (2, 0, 'offline', 'web-01', '10.0.0.7'),
            (3, 0, 'online', NULL, '10.0.0.7'), (4, 0, 'online', 'web-02', '10.0.0.7')";
        connection.execute(events, []).unwrap();
        let reader = Reader::open(path).unwrap();
        let found = |query: AgentQuery| {
            let agent = reader.find::<EventRow>(&query).unwrap()?;
            let selection = reader.select::<EventRow>(Some(agent), None, None).unwrap();
            let page = reader.page::<EventRow>(Cursor::START, &selection).unwrap();
            let last = reader.last::<EventRow>(1, &selection).unwrap();
            let seqs: Vec<_> = page.rows.iter().map(|row| row.seq).collect();
            assert_eq!(last.0 + 1, *seqs.last().unwrap());
            Some(seqs)
        };
        let named = |name: &str| AgentQuery::Name(name.to_owned());
        assert_eq!(found(named("web-01")), Some(vec![1, 2]));
        assert_eq!(found(named("web-03")), None);
        let address = AgentQuery::Address([10, 0, 0, 7].into());
        assert_eq!(found(address), Some(vec![3]));
        assert_eq!(found(AgentQuery::Id(AgentId(7))), Some(vec![1]));
        let reports = reader.find::<ReportRow>(&named("web-01")).unwrap();
        assert!(reports.is_none());
    }
}
