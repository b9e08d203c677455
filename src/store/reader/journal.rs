//! Tables that only grow at their end, read bit by bit.

use rusqlite::{Connection, Row};

use super::rows::{self, AgentId, EventRow, ReportRow};
use crate::time::UnixNanos;

/// Rows that a step looks at, at most: a few milliseconds' work.
const STEP_ROWS: u32 = 10_000;

/// Bytes of text after which a step ends: reports may have 64 KiB each.
const STEP_BYTES: usize = 1 << 20;

/// A place in a journal: after the row with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// Before the first row. No key is this small: both tables count from above zero.
    pub const START: Self = Self(i64::MIN);
}

/// What a step has found.
#[derive(Debug)]
pub struct Step<J> {
    /// The rows, oldest first; perhaps none, although there are more to come.
    pub rows: Vec<J>,
    /// Where the next step begins.
    pub next: Cursor,
    /// Nothing was there after the last row looked at.
    pub is_last: bool,
}

/// A row of a journal.
pub trait Journal: Sized {
    /// Selects the key and the agent's number in its first two columns, the rest
    /// thereafter, of at most `?2` rows after the key `?1`, in order.
    const NEXT: &str;
    /// Selects the key and the agent's number of at most `?2` rows before the key
    /// `?1`, the last first.
    const BEFORE: &str;
    /// Selects the key of the first row that came at `?1` or later.
    const SINCE: &str;

    /// Reads what [`NEXT`](Self::NEXT) selected.
    ///
    /// # Errors
    /// If the columns are not what they must be.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// Bytes of text in it.
    fn text_len(&self) -> usize;
}

impl Journal for ReportRow {
    const NEXT: &str = "SELECT received_at, agent, name, address, peer, content, rand, timestamp \
                        FROM reports LEFT JOIN agents ON agents.id = agent \
                        WHERE received_at > ?1 ORDER BY received_at LIMIT ?2";
    const BEFORE: &str = "SELECT received_at, agent FROM reports \
                          WHERE received_at < ?1 ORDER BY received_at DESC LIMIT ?2";
    const SINCE: &str = "SELECT min(received_at) FROM reports WHERE received_at >= ?1";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            received_at: rows::time(row, 0)?,
            agent: rows::sender(row, 1)?,
            peer: row.get(4)?,
            content: row.get(5)?,
            rand: row.get(6)?,
            timestamp: row.get(7)?,
        })
    }

    fn text_len(&self) -> usize {
        self.content.len()
    }
}

impl Journal for EventRow {
    const NEXT: &str = "SELECT events.id, agent, name, address, at, version, events.state \
                        FROM events LEFT JOIN agents ON agents.id = agent \
                        WHERE events.id > ?1 ORDER BY events.id LIMIT ?2";
    const BEFORE: &str = "SELECT id, agent FROM events \
                          WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
    const SINCE: &str = "SELECT min(id) FROM events WHERE at >= ?1";

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            agent: rows::sender(row, 1)?,
            at: rows::time(row, 4)?,
            version: row.get(5)?,
            state: row.get(6)?,
        })
    }

    fn text_len(&self) -> usize {
        0
    }
}

pub(super) fn since<J: Journal>(
    connection: &Connection,
    time: UnixNanos,
) -> rusqlite::Result<Cursor> {
    let mut first = connection.prepare_cached(J::SINCE)?;
    let first: Option<i64> = first.query_row([time.as_nanos()], |row| row.get(0))?;
    match first {
        Some(first) => Ok(Cursor(first.saturating_sub(1))),
        None => end::<J>(connection),
    }
}

pub(super) fn last<J: Journal>(
    connection: &Connection,
    count: u64,
    of: Option<&[AgentId]>,
    least: Cursor,
) -> rusqlite::Result<Cursor> {
    if count == 0 {
        return end::<J>(connection);
    }
    let mut before = connection.prepare_cached(J::BEFORE)?;
    let mut at = i64::MAX;
    let mut left = count;
    loop {
        let mut seen = 0;
        let mut rows = before.query((at, STEP_ROWS))?;
        while let Some(row) = rows.next()? {
            at = row.get(0)?;
            if at <= least.0 {
                return Ok(least);
            }
            if is_wanted(row.get(1)?, of) {
                left -= 1;
                if left == 0 {
                    return Ok(Cursor(at.saturating_sub(1)));
                }
            }
            seen += 1;
        }
        if seen < STEP_ROWS {
            return Ok(least);
        }
    }
}

pub(super) fn step<J: Journal>(
    connection: &Connection,
    after: Cursor,
    of: Option<&[AgentId]>,
) -> rusqlite::Result<Step<J>> {
    let mut next = connection.prepare_cached(J::NEXT)?;
    let mut rows = next.query((after.0, STEP_ROWS))?;
    let mut step = Step {
        rows: Vec::new(),
        next: after,
        is_last: false,
    };
    let (mut seen, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        step.next = Cursor(row.get(0)?);
        seen += 1;
        if is_wanted(row.get(1)?, of) {
            let row = J::read(row)?;
            bytes += row.text_len();
            step.rows.push(row);
            if bytes >= STEP_BYTES {
                return Ok(step);
            }
        }
    }
    step.is_last = seen < STEP_ROWS;
    Ok(step)
}

/// After the last row there is.
fn end<J: Journal>(connection: &Connection) -> rusqlite::Result<Cursor> {
    let mut before = connection.prepare_cached(J::BEFORE)?;
    let mut rows = before.query((i64::MAX, 1))?;
    match rows.next()? {
        Some(row) => row.get(0).map(Cursor),
        None => Ok(Cursor::START),
    }
}

fn is_wanted(agent: AgentId, of: Option<&[AgentId]>) -> bool {
    of.is_none_or(|wanted| wanted.contains(&agent))
}
