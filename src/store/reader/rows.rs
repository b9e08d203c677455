//! What the tables hold, as readers see it.

use std::net::IpAddr;
use std::time::Duration;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row};

use hawk_time::UnixNanos;

/// The number of an agent's row. It is never given to another agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentId(pub i64);

/// Whether an agent is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is.
    Online,
    /// It has been silent for too long.
    Offline,
    /// Its silence is not judged. Of agents only; an event is of the others.
    Unwatched,
}

/// An agent, as its row in `agents` says.
#[derive(Clone, Debug)]
pub struct AgentRow {
    /// The number of the row.
    pub id: AgentId,
    /// The name it gives itself.
    pub name: Option<String>,
    /// The IP address it was last heard from.
    pub address: String,
    /// The version in its last heartbeat; empty before the first.
    pub version: String,
    /// When it was first heard.
    pub first_seen: UnixNanos,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// Whether it is heard.
    pub state: State,
    /// Since when.
    pub changed_at: UnixNanos,
    /// Heartbeats it has sent.
    pub heartbeats: i64,
    /// Reports of its that were stored, whether they are still there or not.
    pub reports: i64,
    /// Between its heartbeats, as the server learnt; zero if it has not.
    pub interval: Duration,
    /// Between its reports, if it is judged by them; otherwise zero.
    pub report_interval: Duration,
    /// When two machines were last found to speak under its name.
    pub cloned_at: Option<UnixNanos>,
}

/// Whoever sent a report or changed its state. Its row may have been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    /// The number of the row.
    pub id: AgentId,
    /// The name it gives itself.
    pub name: Option<String>,
    /// The IP address it was last heard from; `None` if that is not known.
    pub address: Option<String>,
}

/// A report.
#[derive(Clone, Debug)]
pub struct ReportRow {
    /// Its sequence number: the order of arrival.
    pub seq: i64,
    /// When it came, by the server's clock.
    pub received_at: UnixNanos,
    /// Whose it is.
    pub agent: AgentIdentity,
    /// The address and port that it came from.
    pub peer: String,
    /// What it says.
    pub content: String,
    /// The agent's random number.
    pub rand: i64,
    /// The agent's time, in seconds since 1970.
    pub timestamp: i64,
}

/// A change of an agent's state.
#[derive(Clone, Debug)]
pub struct EventRow {
    /// Its sequence number: the order of the events.
    pub seq: i64,
    /// When it happened, by the server's clock.
    pub at: UnixNanos,
    /// Whose state changed.
    pub agent: AgentIdentity,
    /// The version in that agent's last heartbeat at that time; `None` if the event is of
    /// version 1 and the agent's row is gone.
    pub version: Option<String>,
    /// What it changed to.
    pub state: State,
}

impl State {
    /// Its name, in the store as elsewhere.
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
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<UnixNanos> {
    row.get(column).map(UnixNanos::from_nanos)
}

/// Reads a sender: its number in the column `id`, its name and address in the column
/// `name` and the next.
pub(super) fn sender(row: &Row<'_>, id: usize, name: usize) -> rusqlite::Result<AgentIdentity> {
    Ok(AgentIdentity {
        id: row.get(id)?,
        name: row.get(name)?,
        address: row.get(name + 1)?,
    })
}

pub(super) fn agents(connection: &Connection) -> rusqlite::Result<Vec<AgentRow>> {
    // A row of version 1 has no hours: whether its agent was judged, its heartbeats say.
    let mut statement = connection.prepare(
        "SELECT id, name, address, version, first_seen, last_seen, state, changed_at, \
                heartbeats, reports, interval, \
                watched AND (hours IS NOT NULL OR heartbeats > 0), report_interval, cloned_at \
         FROM agents ORDER BY coalesce(name, address), id",
    )?;
    let rows = statement.query_map([], |row| {
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
}

/// See [`super::Reader::find_named`].
pub(super) fn find_named(connection: &Connection, name: &str) -> rusqlite::Result<Option<AgentId>> {
    let query = "SELECT id FROM agents WHERE name = ?1";
    connection
        .query_row(query, [name], |row| row.get(0))
        .optional()
}

/// See [`super::Reader::find_unnamed`].
pub(super) fn find_unnamed(
    connection: &Connection,
    address: IpAddr,
) -> rusqlite::Result<Option<AgentId>> {
    let query = "SELECT id FROM agents WHERE address = ?1 AND name IS NULL";
    let address = address.to_canonical().to_string();
    connection
        .query_row(query, [address], |row| row.get(0))
        .optional()
}
