//! Tables that only grow at their end, read in steps.

use rusqlite::{Connection, Row};

use super::rows::{self, AgentId, EventRow, ReportRow};
use hawk_time::UnixNanos;

/// Rows that a step looks at, at most: a few milliseconds' work.
const STEP_ROWS: u32 = 10_000;

/// Bytes of text after which a step ends: reports may have 64 KiB each.
const STEP_BYTES: usize = 1 << 20;

/// A place in a journal: after the row with this sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// Before the first row. No sequence number is this small.
    pub const START: Self = Self(i64::MIN);
}

/// What a step has found.
#[derive(Debug)]
pub struct JournalPage<J> {
    /// The rows in the order of arrival; perhaps none, although there are more to come.
    pub rows: Vec<J>,
    /// Where the next step begins.
    pub next: Cursor,
    /// Nothing was there after the last row looked at.
    pub is_last: bool,
}

/// The rows of a journal that are wanted.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Of these agents; `None`: of all.
    agents: Option<Vec<AgentId>>,
    /// From this time on, in nanoseconds since 1970.
    since: i64,
    /// Before this time.
    until: i64,
    /// Where the rows of these times are: the first and the last sequence number of each
    /// part of the journal, in order. The last part has no end.
    parts: Vec<(i64, i64)>,
}

impl Selection {
    fn has(&self, agent: AgentId, time: i64) -> bool {
        let agents = self.agents.as_ref();
        (self.since..self.until).contains(&time)
            && agents.is_none_or(|agents| agents.contains(&agent))
    }
}

/// A row of a journal.
pub trait Journal: Sized {
    /// Selects the sequence number, the agent's number and the time in its first three
    /// columns, the rest thereafter, of at most `?3` rows from `?1` to `?2`, in order.
    const NEXT: &str;
    /// Selects the same three columns of at most `?3` rows from `?2` back to `?1`, the
    /// last first.
    const BEFORE: &str;

    /// Finds the parts of the journal that may have rows of these times.
    ///
    /// # Errors
    /// If the table cannot be read.
    fn parts(connection: &Connection, since: i64, until: i64) -> rusqlite::Result<Vec<(i64, i64)>>;

    /// Reads what [`NEXT`](Self::NEXT) selected.
    ///
    /// # Errors
    /// If the columns are not what they must be.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// Bytes of text in it.
    fn text_len(&self) -> usize;
}

impl Journal for ReportRow {
    const NEXT: &str = "SELECT seq, agent, coalesce(received_at, seq), name, address, peer, \
                               content, rand, timestamp \
                        FROM reports LEFT JOIN agents ON agents.id = agent \
                        WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
    const BEFORE: &str = "SELECT seq, agent, coalesce(received_at, seq) FROM reports \
                          WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3";

    fn parts(connection: &Connection, since: i64, until: i64) -> rusqlite::Result<Vec<(i64, i64)>> {
        let first_timed: i64 =
            connection.query_row("SELECT first_timed FROM store", [], |row| row.get(0))?;
        let mut parts = Vec::new();
        // Those of version 1 have the time in their key.
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
                // Blocks that overlap were not written by us.
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
            received_at: rows::time(row, 2)?,
            agent: rows::sender(row, 1, 3)?,
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
    // An event of version 1 has nothing of its agent but the number.
    const NEXT: &str = "SELECT seq, agent, at, \
                               iif(events.address IS NULL, agents.name, events.name), \
                               coalesce(events.address, agents.address), \
                               coalesce(events.version, agents.version), events.state \
                        FROM events LEFT JOIN agents ON agents.id = agent \
                        WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
    const BEFORE: &str = "SELECT seq, agent, at FROM events \
                          WHERE seq >= ?1 AND seq <= ?2 ORDER BY seq DESC LIMIT ?3";

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
            agent: rows::sender(row, 1, 3)?,
            at: rows::time(row, 2)?,
            version: row.get(5)?,
            state: row.get(6)?,
        })
    }

    fn text_len(&self) -> usize {
        0
    }
}

pub(super) fn select<J: Journal>(
    connection: &Connection,
    agents: Option<Vec<AgentId>>,
    since: Option<UnixNanos>,
    until: Option<UnixNanos>,
) -> rusqlite::Result<Selection> {
    let nanos = |time: Option<UnixNanos>, all| time.map_or(all, UnixNanos::as_nanos);
    let (from, to) = (nanos(since, i64::MIN), nanos(until, i64::MAX));
    let parts = match (since, until) {
        (None, None) => vec![(i64::MIN, i64::MAX)],
        _ => J::parts(connection, from, to)?,
    };
    Ok(Selection {
        agents,
        since: from,
        until: to,
        parts,
    })
}

pub(super) fn last<J: Journal>(
    connection: &Connection,
    count: u64,
    selection: &Selection,
) -> rusqlite::Result<Cursor> {
    if count == 0 {
        return end::<J>(connection);
    }
    let mut before = connection.prepare_cached(J::BEFORE)?;
    let mut left = count;
    for (first, last) in selection.parts.iter().rev() {
        let mut at = *last;
        loop {
            let mut seen = 0;
            let mut rows = before.query((first, at, STEP_ROWS))?;
            while let Some(row) = rows.next()? {
                let key = row.get(0)?;
                if seen > 0 && key >= at {
                    return Err(out_of_order());
                }
                at = key;
                seen += 1;
                if selection.has(row.get(1)?, row.get(2)?) {
                    left -= 1;
                    if left == 0 {
                        return Ok(Cursor(at.saturating_sub(1)));
                    }
                }
            }
            if seen < STEP_ROWS || at <= *first {
                break;
            }
            at -= 1;
        }
    }
    Ok(Cursor::START)
}

pub(super) fn page<J: Journal>(
    connection: &Connection,
    after: Cursor,
    selection: &Selection,
) -> rusqlite::Result<JournalPage<J>> {
    let mut next = connection.prepare_cached(J::NEXT)?;
    let mut step = JournalPage {
        rows: Vec::new(),
        next: after,
        is_last: false,
    };
    let (mut seen, mut bytes) = (0, 0);
    let ahead = selection.parts.iter().filter(|part| part.1 > after.0);
    for (first, last) in ahead {
        let from = step.next.0.saturating_add(1).max(*first);
        let mut rows = next.query((from, last, STEP_ROWS - seen))?;
        while let Some(row) = rows.next()? {
            let key = Cursor(row.get(0)?);
            if key <= step.next {
                return Err(out_of_order());
            }
            step.next = key;
            seen += 1;
            if selection.has(row.get(1)?, row.get(2)?) {
                let row = J::read(row)?;
                bytes += row.text_len();
                step.rows.push(row);
                if bytes >= STEP_BYTES {
                    return Ok(step);
                }
            }
        }
        if seen >= STEP_ROWS {
            return Ok(step);
        }
    }
    step.is_last = true;
    Ok(step)
}

/// A damaged table, or one that was made to be read without an end.
fn out_of_order() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some("its rows are not in the order of their keys".to_owned()),
    )
}

/// After the last row there is.
fn end<J: Journal>(connection: &Connection) -> rusqlite::Result<Cursor> {
    let mut before = connection.prepare_cached(J::BEFORE)?;
    let mut rows = before.query((i64::MIN, i64::MAX, 1))?;
    match rows.next()? {
        Some(row) => row.get(0).map(Cursor),
        None => Ok(Cursor::START),
    }
}
