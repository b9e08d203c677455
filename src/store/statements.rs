//! The statements that write a batch.

use std::fmt::{Display, Write as _};

use rusqlite::{Connection, Statement, params};

use super::batch::{AgentRow, Batch, ReportRow, Run};

/// How many reports one INSERT takes, the most first. A statement costs about as
/// much as a row; beyond some thirty rows nothing more is won.
const ROWS: [usize; 3] = [32, 8, 1];

/// Columns of a report.
const COLUMNS: usize = 6;

/// How often a report whose time is taken is moved on before that is an error.
/// Each step is twice as long as the one before: this is more than an hour.
const NUDGES: u32 = 42;

const UPDATE_AGENT: &str = "
UPDATE agents SET version = ?2, last_seen = ?3, state = ?4, changed_at = ?5,
    heartbeats = heartbeats + ?6, reports = reports + ?7, interval = ?8
WHERE id = ?1";

/// Apart, because an address that is set, even to what it was, has the page of its
/// index written with every batch.
const UPDATE_ADDRESS: &str = "UPDATE agents SET address = ?2 WHERE id = ?1 AND address <> ?2";

const INSERT_AGENT: &str = "
INSERT INTO agents (name, address, version, first_seen, last_seen, state, changed_at,
    heartbeats, reports, interval)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT";

const OR_UPDATE_AGENT: &str = "
DO UPDATE SET address = excluded.address, version = excluded.version,
    last_seen = excluded.last_seen, state = excluded.state, changed_at = excluded.changed_at,
    heartbeats = heartbeats + excluded.heartbeats, reports = reports + excluded.reports,
    interval = excluded.interval
RETURNING id";

/// All that is needed to write batches, prepared once.
pub(super) struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    reports: [Insert<'c>; ROWS.len()],
    update_agent: Statement<'c>,
    update_address: Statement<'c>,
    named_agent: Statement<'c>,
    unnamed_agent: Statement<'c>,
    event: Statement<'c>,
    newest: Statement<'c>,
    /// An address as text.
    address: String,
    peer: Peer,
    /// Runs of all batches so far, so that each has a number of its own.
    runs: u64,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let upsert = |target| format!("{INSERT_AGENT} {target} {OR_UPDATE_AGENT}");
        let [most, some, one] = ROWS;
        Ok(Self {
            // From the start: a lock that another program holds is met here, and
            // not in the middle.
            begin: connection.prepare("BEGIN IMMEDIATE")?,
            commit: connection.prepare("COMMIT")?,
            rollback: connection.prepare("ROLLBACK")?,
            reports: [
                Insert::prepare(connection, most)?,
                Insert::prepare(connection, some)?,
                Insert::prepare(connection, one)?,
            ],
            update_agent: connection.prepare(UPDATE_AGENT)?,
            update_address: connection.prepare(UPDATE_ADDRESS)?,
            named_agent: connection.prepare(&upsert("(name) WHERE name IS NOT NULL"))?,
            unnamed_agent: connection.prepare(&upsert("(address) WHERE name IS NULL"))?,
            event: connection
                .prepare("INSERT INTO events (at, agent, state) VALUES (?1, ?2, ?3)")?,
            newest: connection.prepare("SELECT max(received_at) FROM reports")?,
            address: String::new(),
            peer: Peer::default(),
            runs: 0,
        })
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.begin.raw_execute().map(drop)
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.commit.raw_execute().map(drop)
    }

    pub(super) fn rollback(&mut self) -> rusqlite::Result<()> {
        self.rollback.raw_execute().map(drop)
    }

    /// Writes all of a batch. Agents that had no number have one afterwards.
    pub(super) fn write(&mut self, batch: &mut Batch) -> rusqlite::Result<()> {
        for at in 0..batch.agents.len() {
            let id = self.write_agent(&batch.agents[at], batch)?;
            batch.agents[at].id = Some(id);
        }
        let newest: Option<i64> = self.newest.query_row([], |row| row.get(0))?;
        let mut rows = Rows::of(batch, self.runs, newest.unwrap_or(i64::MIN));
        self.runs += batch.runs.len() as u64;
        for (at, size) in ROWS.into_iter().enumerate() {
            while rows.left() >= size {
                self.write_reports(at, &mut rows)?;
            }
        }
        for event in &batch.events {
            let agent = batch.agents[event.agent.get()].id;
            let state = state(event.online);
            self.event.execute(params![event.at, agent, state])?;
        }
        Ok(())
    }

    /// Writes an agent's row; returns its number.
    fn write_agent(&mut self, row: &AgentRow, batch: &Batch) -> rusqlite::Result<i64> {
        put(&mut self.address, &row.address);
        let version = batch.read(row.version);
        let state = state(row.online);
        if let Some(id) = row.id {
            let updated = self.update_agent.execute(params![
                id,
                version,
                row.last_seen,
                state,
                row.changed_at,
                row.heartbeats,
                row.reports,
                row.interval,
            ])?;
            if updated > 0 {
                self.update_address.execute(params![id, self.address])?;
                return Ok(id);
            }
            // It was removed as silent for too long, and has come back.
        }
        let upsert = match row.name {
            Some(_) => &mut self.named_agent,
            None => &mut self.unnamed_agent,
        };
        let values = params![
            row.name.map(|name| batch.read(name)),
            self.address,
            version,
            row.first_seen,
            row.last_seen,
            state,
            row.changed_at,
            row.heartbeats,
            row.reports,
            row.interval,
        ];
        upsert.query_row(values, |row| row.get(0))
    }

    /// Writes the next `ROWS[at]` of `rows`.
    fn write_reports(&mut self, at: usize, rows: &mut Rows<'_>) -> rusqlite::Result<()> {
        let start = rows.clone();
        let insert = &mut self.reports[at];
        insert.bind(rows, &mut self.peer)?;
        match insert.statement.raw_execute() {
            Err(error) if is_taken(&error) => {
                // None of its rows is in the table.
                *rows = start;
                (0..ROWS[at]).try_for_each(|_| self.squeeze_in(rows))
            }
            outcome => outcome.map(drop),
        }
    }

    /// Writes one report whose time may be taken, at the next that is free: the
    /// clock was set back, and it was the same time once before.
    fn squeeze_in(&mut self, rows: &mut Rows<'_>) -> rusqlite::Result<()> {
        let insert = &mut self.reports[ROWS.len() - 1];
        let received_at = rows.peek().map_or(0, |row| row.received_at);
        insert.bind(rows, &mut self.peer)?;
        for nudge in 0..=NUDGES {
            let moved = received_at.saturating_add((1 << nudge) - 1);
            insert.statement.raw_bind_parameter(1, moved)?;
            match insert.statement.raw_execute() {
                Err(error) if is_taken(&error) && nudge < NUDGES => {}
                outcome => {
                    rows.newest = rows.newest.max(moved);
                    return outcome.map(drop);
                }
            }
        }
        Ok(())
    }
}

/// One INSERT of a fixed number of reports.
struct Insert<'c> {
    statement: Statement<'c>,
    /// Which run's agent and peer are bound in each row: most often those that
    /// are wanted next.
    bound: Vec<u64>,
}

impl<'c> Insert<'c> {
    fn prepare(connection: &'c Connection, rows: usize) -> rusqlite::Result<Self> {
        let row = "(?, ?, ?, ?, ?, ?)";
        let rows_of_values = vec![row; rows].join(", ");
        let statement = connection.prepare(&format!(
            "INSERT INTO reports (received_at, agent, peer, content, rand, timestamp) \
             VALUES {rows_of_values}"
        ))?;
        Ok(Self {
            statement,
            bound: vec![u64::MAX; rows],
        })
    }

    /// Binds the next of `rows`, as many as it takes.
    ///
    /// SQLite looks a given `received_at` up in the table before it writes it; if
    /// none is given, it takes the greatest there is and adds 1, which costs
    /// nothing. Reports that came together are 1 ns apart, so that is most often
    /// the right one.
    fn bind(&mut self, rows: &mut Rows<'_>, peer: &mut Peer) -> rusqlite::Result<()> {
        for (row, bound) in self.bound.iter_mut().enumerate() {
            let newest = rows.newest;
            let Some((number, run, report)) = rows.next() else {
                break;
            };
            let column = row * COLUMNS;
            let statement = &mut self.statement;
            if *bound != number {
                // Forgotten first: an error leaves it half bound.
                *bound = u64::MAX;
                statement.raw_bind_parameter(column + 2, rows.batch.agents[run.agent.get()].id)?;
                statement.raw_bind_parameter(column + 3, peer.text(number, run))?;
                *bound = number;
            }
            let is_implied = newest.checked_add(1) == Some(report.received_at);
            let received_at = (!is_implied).then_some(report.received_at);
            statement.raw_bind_parameter(column + 1, received_at)?;
            statement.raw_bind_parameter(column + 4, rows.batch.content(report))?;
            statement.raw_bind_parameter(column + 5, report.rand)?;
            statement.raw_bind_parameter(column + 6, report.timestamp)?;
        }
        Ok(())
    }
}

/// The text of a run's peer, which several rows want.
#[derive(Default)]
struct Peer {
    /// Which run's it is.
    number: Option<u64>,
    text: String,
}

impl Peer {
    fn text(&mut self, number: u64, run: &Run) -> &str {
        if self.number != Some(number) {
            self.number = Some(number);
            put(&mut self.text, &run.peer);
        }
        &self.text
    }
}

/// A batch's reports from some place on, each with its run and that one's number.
#[derive(Clone)]
struct Rows<'b> {
    batch: &'b Batch,
    reports: &'b [ReportRow],
    runs: &'b [Run],
    /// The greatest `received_at` in the table once those before are in it.
    newest: i64,
    /// The number of the first of `runs`, and how many of its reports are past.
    number: u64,
    past: u32,
}

impl<'b> Rows<'b> {
    fn of(batch: &'b Batch, number: u64, newest: i64) -> Self {
        Self {
            batch,
            newest,
            reports: &batch.reports,
            runs: &batch.runs,
            number,
            past: 0,
        }
    }

    fn left(&self) -> usize {
        self.reports.len()
    }

    fn peek(&self) -> Option<&'b ReportRow> {
        self.reports.first()
    }

    fn next(&mut self) -> Option<(u64, &'b Run, &'b ReportRow)> {
        let (report, reports) = self.reports.split_first()?;
        let mut run = self.runs.first()?;
        if self.past == run.length {
            self.runs = &self.runs[1..];
            run = self.runs.first()?;
            self.number += 1;
            self.past = 0;
        }
        self.reports = reports;
        self.past += 1;
        self.newest = self.newest.max(report.received_at);
        Some((self.number, run, report))
    }
}

fn is_taken(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| {
        error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY
            || error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_ROWID
    })
}

const fn state(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// Writes `value` in the place of what `text` had, in the same memory.
fn put(text: &mut String, value: &impl Display) {
    text.clear();
    // Writing into a string cannot fail.
    let _infallible = write!(text, "{value}");
}

#[cfg(test)]
mod tests;
