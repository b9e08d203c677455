//! The statements that write a batch.
//!
//! Start at [`Statements::write`]: agents first, so that reports and events can refer to their
//! rows.

use std::collections::HashSet;
use std::fmt::{Display, Write as _};

use rusqlite::{Connection, OptionalExtension as _, Params, Row, Statement, params};

use super::batch::{Batch, BatchAgent, BatchEvent, BatchReport, Removal, Run};
use super::delivery::{Deliveries, Lane};
use super::retention::{ESTABLISHED, pages_in_use};
use super::schema::VERSION;
use hawk_time::UnixNanos;

/// Numbers of reports that one INSERT takes, the greatest first. A statement costs about as
/// much as a row; more than some thirty rows save nothing.
const ROWS: [usize; 3] = [32, 8, 1];

/// Columns of a report.
const COLUMNS: usize = 8;

/// Sequence numbers that are reserved at a time; see [`Order::reserved`].
const RESERVE: i64 = 4096;

/// Reports of a row in `times`: few enough that a reader finds the first report since a time
/// within a millisecond, and many enough that the row costs little.
const BLOCK: u32 = 4096;

/// The row must still be that of the agent: then a report never refers to another agent,
/// whatever other programs do to the file. The parameters are those of [`bind_agent`].
const UPDATE_AGENT: &str = "
UPDATE agents SET version = ?4, last_seen = ?6, state = ?7, changed_at = ?8,
    heartbeats = heartbeats + ?9, reports = reports + ?10, interval = ?11,
    last_report = coalesce(?12, last_report), hours = ?13, last_hour = ?14, watched = ?15,
    report_interval = ?16, cloned_at = ?17
WHERE id = ?1 AND name IS ?2 AND (name IS NOT NULL OR address = ?3)";

/// A statement of its own: an assignment to `address`, even of the same value, writes the page
/// of its index with every batch.
const UPDATE_ADDRESS: &str = "UPDATE agents SET address = ?2 WHERE id = ?1 AND address <> ?2";

const INSERT_AGENT: &str = "
INSERT INTO agents (id, name, address, version, first_seen, last_seen, state, changed_at,
    heartbeats, reports, interval, last_report, hours, last_hour, watched, report_interval,
    cloned_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
RETURNING id";

const INSERT_EVENT: &str = "
INSERT INTO events (at, agent, state, name, address, version, last_seen, established)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Prepared statements for batches, and the writer's memory of the open file. Begins anew with
/// each file that is opened.
pub(super) struct Statements<'c> {
    connection: &'c Connection,
    reports: [Insert<'c>; ROWS.len()],
    update_agent: Statement<'c>,
    update_address: Statement<'c>,
    insert_agent: Statement<'c>,
    /// Pages that the reports of this transaction take.
    pub(super) report_pages: i64,
    pub(super) deliveries: Deliveries<'c>,
    /// An address as text.
    address: String,
    peer: PeerText,
    /// Number of runs in all batches so far: each run has a number.
    runs: u64,
    /// The agents' rows, by the lower half of their references, counted from 1.
    rows: Vec<AgentRowId>,
    /// Indices of the batch's agents with the other state in their rows. Compared only when this
    /// process writes a row of the file for the first time.
    corrected: Vec<usize>,
    /// The rewrite of all agents that began with `rows`; 0 without one. Batches of an earlier
    /// rewrite may follow, with agents that `rows` lacks.
    pub(super) rewrite: u64,
    /// Changes of `rows` by the open transaction.
    learnt: Vec<(u64, AgentRowId)>,
    order: Order,
    /// The order after the open transaction.
    next_order: Order,
}

/// The writer's memory of an agent's row.
#[derive(Clone, Copy, Debug, Default)]
struct AgentRowId {
    /// The upper half of the agent's reference.
    generation: u32,
    /// The number of the row; 0 if unknown.
    id: i64,
    /// Sequence number of the agent's last report; 0 if unknown.
    last_report: i64,
}

/// The sequence numbers of reports.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// The greatest number in use.
    last: i64,
    /// No report has a greater number than this. The file has it before a report reaches it,
    /// so no number is given twice, even after all rows were removed.
    reserved: i64,
    /// Reports that no row of `times` covers yet.
    block: Block,
}

/// Consecutive reports: their numbers and the range of their times.
#[derive(Clone, Copy, Debug)]
struct Block {
    first: i64,
    last: i64,
    reports: u32,
    earliest: i64,
    latest: i64,
}

impl Block {
    const EMPTY: Self = Self {
        first: 0,
        last: 0,
        reports: 0,
        earliest: i64::MAX,
        latest: i64::MIN,
    };

    fn add(&mut self, seq: i64, received_at: i64) {
        if self.reports == 0 {
            self.first = seq;
        }
        self.last = seq;
        self.reports += 1;
        self.earliest = self.earliest.min(received_at);
        self.latest = self.latest.max(received_at);
    }
}

impl Order {
    /// Reads the order from the file.
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let (reserved, first_timed): (i64, i64) =
            connection.query_row("SELECT reserved, first_timed FROM store", [], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
        let number = |query| connection.query_row(query, [], |row| row.get::<_, Option<i64>>(0));
        let newest = number("SELECT max(seq) FROM reports")?;
        let covered = number("SELECT max(last) FROM times")?;
        let after = covered.map_or(first_timed, |last| last.saturating_add(1));
        let block = connection.query_row(
            "SELECT min(seq), max(seq), count(*), min(received_at), max(received_at) \
             FROM reports WHERE seq >= ?1",
            [after],
            |row| {
                let first: Option<i64> = row.get(0)?;
                Ok(match first {
                    None => Block::EMPTY,
                    Some(first) => Block {
                        first,
                        last: row.get(1)?,
                        reports: row.get(2)?,
                        earliest: row.get::<_, Option<i64>>(3)?.unwrap_or(i64::MAX),
                        latest: row.get::<_, Option<i64>>(4)?.unwrap_or(i64::MIN),
                    },
                })
            },
        )?;
        Ok(Self {
            last: newest.unwrap_or(i64::MIN),
            reserved,
            block,
        })
    }
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(
        connection: &'c Connection,
        deliveries: Deliveries<'c>,
    ) -> rusqlite::Result<Self> {
        let [most, some, one] = ROWS;
        let order = Order::read(connection)?;
        Ok(Self {
            connection,
            reports: [
                Insert::prepare(connection, most)?,
                Insert::prepare(connection, some)?,
                Insert::prepare(connection, one)?,
            ],
            update_agent: connection.prepare(UPDATE_AGENT)?,
            update_address: connection.prepare(UPDATE_ADDRESS)?,
            insert_agent: connection.prepare(INSERT_AGENT)?,
            report_pages: 0,
            deliveries,
            address: String::new(),
            peer: PeerText::default(),
            runs: 0,
            rows: Vec::new(),
            corrected: Vec::new(),
            rewrite: 0,
            learnt: Vec::new(),
            order,
            next_order: order,
        })
    }

    pub(super) fn begin(&mut self) -> rusqlite::Result<()> {
        self.learnt.clear();
        self.corrected.clear();
        self.report_pages = 0;
        self.next_order = self.order;
        // Takes the lock at the start: another program's lock fails the transaction there, not
        // in its middle.
        self.execute("BEGIN IMMEDIATE", [])
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.execute("COMMIT", [])?;
        self.order = self.next_order;
        for (reference, row) in self.learnt.drain(..) {
            let place = place(reference);
            if place >= self.rows.len() {
                self.rows.resize(place + 1, AgentRowId::default());
            }
            self.rows[place] = row;
        }
        Ok(())
    }

    pub(super) fn rollback(&self) -> rusqlite::Result<()> {
        self.execute("ROLLBACK", [])
    }

    fn execute(&self, statement: &str, values: impl Params) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(statement)?;
        statement.execute(values).map(drop)
    }

    /// Writes all rows of a batch.
    pub(super) fn write(&mut self, batch: &mut Batch) -> rusqlite::Result<()> {
        let first = self.next_seq(batch.reports.len())?;
        batch.number_reports(first.number());
        let mut removals = 0;
        for at in 0..batch.agents.len() {
            while let Some(removal) = batch.removals.get(removals)
                && removal.after.get() <= at
            {
                self.remove_agent(removal, batch)?;
                removals += 1;
            }
            self.write_agent(at, batch)?;
        }
        for removal in &batch.removals[removals..] {
            self.remove_agent(removal, batch)?;
        }
        if !batch.reports.is_empty() {
            let before = pages_in_use(self.connection)?;
            self.write_reports(batch, first)?;
            self.report_pages += pages_in_use(self.connection)? - before;
        }
        // Events that the file lacks: a restored backup has agents in the states of its time, and
        // the events since then are in another file.
        for event in batch.missing_events(&std::mem::take(&mut self.corrected)) {
            self.write_event(&event, batch)?;
        }
        for event in &batch.events {
            self.write_event(event, batch)?;
        }
        if let Some((wall, rewrite)) = batch.complete_at
            && rewrite == self.rewrite
        {
            self.mark_absent_offline(wall)?;
        }
        if batch.is_probed {
            // An UPDATE that changes nothing would write no page; this does.
            self.execute(&format!("PRAGMA user_version = {VERSION}"), [])?;
        }
        Ok(())
    }

    /// Returns the sequence number of the first of `reports` reports, and reserves their
    /// numbers in the file.
    fn next_seq(&mut self, reports: usize) -> rusqlite::Result<First> {
        if reports == 0 {
            return Ok(First::Implied(0));
        }
        let order = &mut self.next_order;
        let mut newest = self
            .connection
            .prepare_cached("SELECT max(seq) FROM reports")?;
        let newest: Option<i64> = newest.query_row([], |row| row.get(0))?;
        // SQLite itself takes the number after the newest row, which is too small if newer
        // rows were removed.
        let (first, implied) = match newest {
            Some(newest) if newest >= order.last => (newest.checked_add(1), true),
            _ => (order.last.max(order.reserved).checked_add(1), false),
        };
        let reports = i64::try_from(reports).unwrap_or(i64::MAX);
        let (first, last) = first
            .and_then(|first| Some((first, first.checked_add(reports - 1)?)))
            .ok_or_else(used_up)?;
        if last > order.reserved {
            order.reserved = last.saturating_add(RESERVE);
            let reserve = "UPDATE store SET reserved = ?1";
            self.connection.execute(reserve, [order.reserved])?;
        }
        order.last = last;
        Ok(match implied {
            true => First::Implied(first),
            false => First::Given(first),
        })
    }

    /// Writes the reports of a batch, and the rows of `times` that they complete.
    fn write_reports(&mut self, batch: &Batch, first: First) -> rusqlite::Result<()> {
        let mut rows = Rows::new(batch, self.runs, first);
        self.runs += batch.runs.len() as u64;
        for (insert, size) in self.reports.iter_mut().zip(ROWS) {
            while rows.left() >= size {
                insert.bind(&mut rows, &mut self.peer)?;
                insert.statement.raw_execute()?;
            }
        }
        for (seq, report) in (first.number()..).zip(&batch.reports) {
            let block = &mut self.next_order.block;
            block.add(seq, report.received_at);
            if block.reports >= BLOCK {
                let row = (block.first, block.last, block.earliest, block.latest);
                *block = Block::EMPTY;
                let insert = "INSERT OR REPLACE INTO times VALUES (?1, ?2, ?3, ?4)";
                self.connection.execute(insert, row)?;
            }
        }
        Ok(())
    }

    /// Writes an agent's row, and sets its number in the batch.
    fn write_agent(&mut self, at: usize, batch: &mut Batch) -> rusqlite::Result<()> {
        let row = batch.agents[at];
        put(&mut self.address, &row.record.address);
        let known = self.rows.get(place(row.reference)).copied();
        let known =
            known.filter(|known| known.id != 0 && known.generation == generation(row.reference));
        let (id, before) = match known {
            Some(known) if self.update_agent(known.id, &row, batch)? => {
                (known.id, known.last_report)
            }
            // Its row is unknown, or was removed because the agent was silent for too long.
            _ => match self.find_agent(row.record.name.map(|name| batch.read(name)))? {
                Some(found) => {
                    self.update_agent(found.id, &row, batch)?;
                    if found.online != row.record.online {
                        self.corrected.push(at);
                    }
                    (found.id, found.last_report)
                }
                None => {
                    bind_agent(&mut self.insert_agent, None, &self.address, &row, batch)?;
                    let mut rows = self.insert_agent.raw_query();
                    let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
                    (row.get(0)?, 0)
                }
            },
        };
        let row = &mut batch.agents[at];
        let last_report = match row.last_report {
            0 => before,
            last_report => last_report,
        };
        row.id = id;
        row.last_report = before;
        let known = AgentRowId {
            generation: generation(row.reference),
            id,
            last_report,
        };
        self.learnt.push((row.reference, known));
        Ok(())
    }

    /// Updates an agent's row; false if the agent has no row with this number.
    fn update_agent(&mut self, id: i64, row: &BatchAgent, batch: &Batch) -> rusqlite::Result<bool> {
        bind_agent(&mut self.update_agent, Some(id), &self.address, row, batch)?;
        let is_updated = self.update_agent.raw_execute()? > 0;
        if is_updated && row.record.name.is_some() {
            self.update_address.execute(params![id, self.address])?;
        }
        Ok(is_updated)
    }

    /// Returns the row of the agent with this name, or without a name at `self.address`.
    fn find_agent(&self, name: Option<&str>) -> rusqlite::Result<Option<FoundAgent>> {
        let found = |row: &Row<'_>| {
            let last_report: Option<i64> = row.get(1)?;
            Ok(FoundAgent {
                id: row.get(0)?,
                last_report: last_report.unwrap_or(0),
                online: row.get_ref(2)?.as_str()? == state(true),
            })
        };
        let (find, key) = match name {
            Some(name) => (
                "SELECT id, last_report, state FROM agents WHERE name = ?1",
                name,
            ),
            None => (
                "SELECT id, last_report, state FROM agents WHERE address = ?1 AND name IS NULL",
                &*self.address,
            ),
        };
        let mut find = self.connection.prepare_cached(find)?;
        find.query_row([key], found).optional()
    }

    fn remove_agent(&mut self, removal: &Removal, batch: &Batch) -> rusqlite::Result<()> {
        put(&mut self.address, &removal.address);
        let (delete, key) = match removal.name {
            Some(name) => ("DELETE FROM agents WHERE name = ?1", batch.read(name)),
            None => (
                "DELETE FROM agents WHERE address = ?1 AND name IS NULL",
                &*self.address,
            ),
        };
        self.execute(delete, [key])
    }

    /// Sets the state of the row of an agent that the server has removed to the state of this
    /// event, its last one. Returns the row's number, or 0 if the agent has no row.
    fn correct_state(
        &mut self,
        event: &BatchEvent,
        name: Option<&str>,
        batch: &Batch,
    ) -> rusqlite::Result<i64> {
        let Some(found) = self.find_agent(name)? else {
            return Ok(0);
        };
        let record = &event.record;
        // A row in this batch is of a later agent with the same name.
        if found.online != record.online && batch.agents.iter().all(|row| row.id != found.id) {
            self.set_state(found.id, record.online, record.at)?;
        }
        Ok(found.id)
    }

    fn write_event(&mut self, event: &BatchEvent, batch: &Batch) -> rusqlite::Result<()> {
        let record = &event.record;
        let name = record.name.map(|name| batch.read(name));
        put(&mut self.address, &record.address);
        let agent = match event.agent {
            Some(index) => batch.agents[index.get()].id,
            None => self.correct_state(event, name, batch)?,
        };
        let row = EventRow {
            at: record.at,
            agent,
            online: record.online,
            name,
            address: Some(&self.address),
            version: Some(batch.read(record.version)),
            last_seen: record.last_seen.as_nanos(),
            established: record.established,
        };
        insert_event(self.connection, &mut self.deliveries, &row)
    }

    /// Marks agents offline, with an event at `wall`, that are online in the file and not in the
    /// roster, which is in the file as a whole: the file is a restored backup, and no packet will
    /// change their state.
    fn mark_absent_offline(&mut self, wall: UnixNanos) -> rusqlite::Result<()> {
        let learnt = self.learnt.iter().map(|(_, row)| row);
        let known: HashSet<i64> = self.rows.iter().chain(learnt).map(|row| row.id).collect();
        let mut absent = Vec::new();
        let mut online = self.connection.prepare(&format!(
            "SELECT id, name, address, version, last_seen, {ESTABLISHED} FROM agents \
             WHERE state = 'online'"
        ))?;
        let mut rows = online.query([])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            if !known.contains(&id) {
                let [name, address, version] = [row.get(1)?, row.get(2)?, row.get(3)?];
                let texts: [Option<String>; 3] = [name, address, version];
                absent.push((id, texts, row.get::<_, i64>(4)?, row.get::<_, bool>(5)?));
            }
        }
        for (id, [name, address, version], last_seen, established) in absent {
            self.set_state(id, false, wall)?;
            let row = EventRow {
                at: wall,
                agent: id,
                online: false,
                name: name.as_deref(),
                address: address.as_deref(),
                version: version.as_deref(),
                last_seen,
                established,
            };
            insert_event(self.connection, &mut self.deliveries, &row)?;
        }
        Ok(())
    }

    /// Sets the state of an agent's row, as of `at`.
    fn set_state(&self, id: i64, online: bool, at: UnixNanos) -> rusqlite::Result<()> {
        let update = "UPDATE agents SET state = ?2, changed_at = ?3 WHERE id = ?1";
        self.execute(update, params![id, state(online), at.as_nanos()])
    }
}

/// A row of the table of events; `None` is NULL.
struct EventRow<'r> {
    at: UnixNanos,
    /// The number of the agent's row, or 0.
    agent: i64,
    online: bool,
    name: Option<&'r str>,
    address: Option<&'r str>,
    version: Option<&'r str>,
    last_seen: i64,
    established: bool,
}

/// Adds an event to the lane in which its agent's events are delivered.
fn insert_event(
    connection: &Connection,
    deliveries: &mut Deliveries<'_>,
    row: &EventRow<'_>,
) -> rusqlite::Result<()> {
    let key = row.name.or(row.address).unwrap_or_default();
    let lane = deliveries.lane(key, row.established);
    let mut insert = connection.prepare_cached(INSERT_EVENT)?;
    let seq = insert.insert(params![
        row.at.as_nanos(),
        row.agent,
        state(row.online),
        row.name,
        row.address,
        row.version,
        row.last_seen,
        lane == Lane::Established,
    ])?;
    if lane == Lane::Others {
        let mut insert = connection.prepare_cached("INSERT INTO other_events VALUES (?1)")?;
        insert.execute([seq])?;
    }
    deliveries.add(key, seq, lane);
    Ok(())
}

/// An agent's row in the file.
struct FoundAgent {
    id: i64,
    /// Sequence number of its last report, or 0.
    last_report: i64,
    online: bool,
}

/// Binds an agent's columns, in the order in which the table has them.
fn bind_agent(
    statement: &mut Statement<'_>,
    id: Option<i64>,
    address: &str,
    row: &BatchAgent,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let record = &row.record;
    let values = params![
        id,
        record.name.map(|name| batch.read(name)),
        address,
        batch.read(record.version),
        record.first_seen.as_nanos(),
        record.last_seen.as_nanos(),
        state(record.online),
        record.changed_at.as_nanos(),
        row.heartbeats,
        row.reports,
        record.interval,
        (row.last_report != 0).then_some(row.last_report),
        record.hours,
        record.last_hour,
        record.watched,
        record.report_interval,
        record.cloned_at,
    ];
    for (at, value) in (1..).zip(values) {
        statement.raw_bind_parameter(at, value)?;
    }
    Ok(())
}

/// The sequence number of a batch's first report.
#[derive(Clone, Copy, Debug)]
enum First {
    /// The number that SQLite itself takes.
    Implied(i64),
    /// A number that must be bound.
    Given(i64),
}

impl First {
    const fn number(self) -> i64 {
        match self {
            Self::Implied(number) | Self::Given(number) => number,
        }
    }
}

/// Returns the place of an agent's row in [`Statements::rows`].
fn place(reference: u64) -> usize {
    // The upper half is cut off on purpose.
    #[expect(clippy::cast_possible_truncation)]
    let number = reference as u32;
    (number as usize).saturating_sub(1)
}

const fn generation(reference: u64) -> u32 {
    (reference >> 32) as u32
}

#[cold]
fn used_up() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
        Some(
            "no sequence number is left: the last report has the greatest that there is; move the \
             file away"
                .to_owned(),
        ),
    )
}

/// One INSERT of a fixed number of reports.
struct Insert<'c> {
    statement: Statement<'c>,
    /// The bound values of each row: often the next rows have the same.
    bound: Vec<Bound>,
    /// The first row has a bound sequence number.
    is_seq_bound: bool,
}

/// The bound values of a row of an [`Insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// The number of the run with the bound agent and peer.
    run: u64,
    received_at: i64,
    /// 0: NULL.
    back: i64,
}

impl Bound {
    /// The bound values are unknown. No run has this number.
    const UNKNOWN: Self = Self {
        run: u64::MAX,
        received_at: 0,
        back: 0,
    };
}

impl<'c> Insert<'c> {
    fn prepare(connection: &'c Connection, rows: usize) -> rusqlite::Result<Self> {
        let row = "(?, ?, ?, ?, ?, ?, ?, ?)";
        let rows_of_values = vec![row; rows].join(", ");
        let statement = connection.prepare(&format!(
            "INSERT INTO reports \
             (seq, agent, peer, content, rand, timestamp, received_at, back) \
             VALUES {rows_of_values}"
        ))?;
        Ok(Self {
            statement,
            bound: vec![Bound::UNKNOWN; rows],
            is_seq_bound: false,
        })
    }

    /// Binds the next of `rows`, as many as the statement takes.
    ///
    /// SQLite looks a bound `seq` up in the table before it writes the row. Without one it
    /// takes the greatest number and adds 1, which costs nothing.
    fn bind(&mut self, rows: &mut Rows<'_>, peer: &mut PeerText) -> rusqlite::Result<()> {
        let statement = &mut self.statement;
        if std::mem::take(&mut self.is_seq_bound) {
            statement.raw_bind_parameter(1, None::<i64>)?;
        }
        if let Some(given) = rows.given.take() {
            self.is_seq_bound = true;
            statement.raw_bind_parameter(1, given)?;
        }
        for (row, bound) in self.bound.iter_mut().enumerate() {
            let Some(next) = rows.next() else {
                break;
            };
            let (run, report) = (next.run, next.report);
            let column = row * COLUMNS;
            // Unknown until the end: an error leaves the row half bound.
            let before = std::mem::replace(bound, Bound::UNKNOWN);
            let wanted = Bound {
                run: next.number,
                received_at: report.received_at,
                back: next.back,
            };
            if before != wanted {
                let is_known = before.run != Bound::UNKNOWN.run;
                if before.run != wanted.run {
                    let agent = rows.batch.agents[run.agent.get()].id;
                    statement.raw_bind_parameter(column + 2, agent)?;
                    statement.raw_bind_parameter(column + 3, peer.text(next.number, run))?;
                }
                // Reports of one turn of the event loop have the same time.
                if before.received_at != wanted.received_at || !is_known {
                    statement.raw_bind_parameter(column + 7, wanted.received_at)?;
                }
                if before.back != wanted.back || !is_known {
                    let back = (wanted.back != 0).then_some(wanted.back);
                    statement.raw_bind_parameter(column + 8, back)?;
                }
            }
            statement.raw_bind_parameter(column + 4, rows.batch.content(report))?;
            statement.raw_bind_parameter(column + 5, report.rand)?;
            statement.raw_bind_parameter(column + 6, report.timestamp)?;
            *bound = wanted;
        }
        Ok(())
    }
}

/// The text of a run's peer, which is bound in several rows.
#[derive(Default)]
struct PeerText {
    /// The number of the run.
    number: Option<u64>,
    text: String,
}

impl PeerText {
    fn text(&mut self, number: u64, run: &Run) -> &str {
        if self.number != Some(number) {
            self.number = Some(number);
            put(&mut self.text, &run.peer);
        }
        &self.text
    }
}

/// The reports of a batch that are not written yet, each with its run.
struct Rows<'b> {
    batch: &'b Batch,
    reports: &'b [BatchReport],
    runs: &'b [Run],
    /// The number of the first of `runs`, and how many of its reports are written.
    number: u64,
    past: u32,
    /// The sequence number of the first of `reports`.
    seq: i64,
    /// The sequence number to bind for the first of `reports`.
    given: Option<i64>,
}

/// The next report to write.
struct NextReport<'b> {
    /// The number of its run.
    number: u64,
    run: &'b Run,
    report: &'b BatchReport,
    /// Its sequence number minus that of its agent's report before; 0 if unknown.
    back: i64,
}

impl<'b> Rows<'b> {
    const fn new(batch: &'b Batch, number: u64, first: First) -> Self {
        Self {
            batch,
            reports: batch.reports.as_slice(),
            runs: batch.runs.as_slice(),
            number,
            past: 0,
            seq: first.number(),
            given: match first {
                First::Implied(_) => None,
                First::Given(first) => Some(first),
            },
        }
    }

    const fn left(&self) -> usize {
        self.reports.len()
    }

    fn next(&mut self) -> Option<NextReport<'b>> {
        let (report, reports) = self.reports.split_first()?;
        let mut run = self.runs.first()?;
        if self.past == run.length {
            self.runs = &self.runs[1..];
            run = self.runs.first()?;
            self.number += 1;
            self.past = 0;
        }
        let back = match self.past {
            0 => {
                let previous = match run.previous {
                    0 => self.batch.agents[run.agent.get()].last_report,
                    previous => previous,
                };
                match previous {
                    0 => 0,
                    previous => self.seq.saturating_sub(previous).max(0),
                }
            }
            _ => 1,
        };
        self.reports = reports;
        self.past += 1;
        self.seq += 1;
        Some(NextReport {
            number: self.number,
            run,
            report,
            back,
        })
    }
}

const fn state(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

/// Replaces `text` by `value`, in the same memory.
fn put(text: &mut String, value: &impl Display) {
    text.clear();
    // Writing into a string cannot fail.
    let _infallible = write!(text, "{value}");
}

#[cfg(test)]
mod tests;
