//! The statements that write a batch.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Row, Statement, params};

use super::batch::{Batch, BatchAgent, BatchEvent, BatchReport, Removal, Run};
use super::delivery::{Deliveries, Lane};
use super::pages::Pages;
use super::schema::VERSION;
use hawk_time::{Moment, UnixNanos};

/// How many reports one INSERT takes, the most first. A statement costs about as
/// much as a row; beyond some thirty rows nothing more is won.
const ROWS: [usize; 3] = [32, 8, 1];

/// Columns of a report.
const COLUMNS: usize = 8;

/// Sequence numbers that are reserved at a time; see [`Order::reserved`].
const RESERVE: i64 = 4096;

/// Reports of a row in `times`: few enough that a reader finds the first report since a
/// time within a millisecond, and many enough that the row costs nothing.
const BLOCK: u32 = 4096;

/// The row must still be that of the agent: then a report never refers to another agent,
/// whatever other programs do to the file. The parameters are those of [`bind_agent`].
const UPDATE_AGENT: &str = "
UPDATE agents SET version = ?4, last_seen = ?6, state = ?7, changed_at = ?8,
    heartbeats = heartbeats + ?9, reports = reports + ?10, interval = ?11,
    last_report = coalesce(?12, last_report), hours = ?13, last_hour = ?14, watched = ?15,
    report_interval = ?16, cloned_at = ?17
WHERE id = ?1 AND name IS ?2 AND (name IS NOT NULL OR address = ?3)";

/// Apart, because an address that is set, even to what it was, has the page of its
/// index written with every batch.
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

/// Prepared statements for batches, and what the writer remembers of the open file.
///
/// Another file, and the same one opened again, start with an empty memory.
pub(super) struct Statements<'c> {
    begin: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    reports: [Insert<'c>; ROWS.len()],
    update_agent: Statement<'c>,
    update_address: Statement<'c>,
    named_agent: Statement<'c>,
    unnamed_agent: Statement<'c>,
    insert_agent: Statement<'c>,
    remove_named: Statement<'c>,
    remove_unnamed: Statement<'c>,
    update_state: Statement<'c>,
    event: Statement<'c>,
    other_event: Statement<'c>,
    pages: Pages<'c>,
    /// Pages that reports took since the transaction began.
    report_pages: i64,
    newest: Statement<'c>,
    reserve: Statement<'c>,
    /// Writes the value that is there. An UPDATE that changes nothing would write no page.
    probe: Statement<'c>,
    block: Statement<'c>,
    deliveries: Option<Deliveries<'c>>,
    /// The transaction at hand has events.
    has_events: bool,
    /// An address as text.
    address: String,
    peer: Peer,
    /// Runs of all batches so far, so that each has a number of its own.
    runs: u64,
    /// The agents' rows, by the lower half of their references, counted from 1.
    rows: Vec<AgentRowId>,
    /// Changes of `rows` that hold once the transaction is committed.
    /// Agents of the batch whose rows had the other state before, as places in the batch. Only
    /// rows that this process has not written yet are compared.
    corrected: Vec<usize>,
    learnt: Vec<(u64, AgentRowId)>,
    order: Order,
    /// The order once the transaction is committed.
    next_order: Order,
}

/// An agent's row, as the writer remembers it.
#[derive(Clone, Copy, Debug, Default)]
struct AgentRowId {
    /// The upper half of the agent's reference.
    generation: u32,
    /// The number of the row; 0: none is known.
    id: i64,
    /// The sequence number of the agent's last report; 0: none is known.
    last_report: i64,
}

/// The order of reports.
#[derive(Clone, Copy, Debug)]
struct Order {
    /// The greatest sequence number that was given.
    last: i64,
    /// No report has a greater number than this. It is raised in the file before it is
    /// reached, so a report gets a number that was never given even if all rows are
    /// gone.
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
    /// The order of the reports in the file.
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
    pub(super) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
        let [most, some, one] = ROWS;
        let order = Order::read(connection)?;
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
            named_agent: connection
                .prepare("SELECT id, last_report, state FROM agents WHERE name = ?1")?,
            unnamed_agent: connection.prepare(
                "SELECT id, last_report, state FROM agents WHERE address = ?1 AND name IS NULL",
            )?,
            insert_agent: connection.prepare(INSERT_AGENT)?,
            remove_named: connection.prepare("DELETE FROM agents WHERE name = ?1")?,
            remove_unnamed: connection
                .prepare("DELETE FROM agents WHERE address = ?1 AND name IS NULL")?,
            update_state: connection
                .prepare("UPDATE agents SET state = ?2, changed_at = ?3 WHERE id = ?1")?,
            event: connection.prepare(INSERT_EVENT)?,
            other_event: connection
                .prepare("INSERT INTO other_events VALUES (last_insert_rowid())")?,
            pages: Pages::prepare(connection)?,
            report_pages: 0,
            newest: connection.prepare("SELECT max(seq) FROM reports")?,
            reserve: connection.prepare("UPDATE store SET reserved = ?1")?,
            probe: connection.prepare(&format!("PRAGMA user_version = {VERSION}"))?,
            block: connection.prepare("INSERT OR REPLACE INTO times VALUES (?1, ?2, ?3, ?4)")?,
            deliveries: None,
            has_events: false,
            address: String::new(),
            peer: Peer::default(),
            runs: 0,
            rows: Vec::new(),
            corrected: Vec::new(),
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
        self.begin.raw_execute().map(drop)
    }

    pub(super) fn commit(&mut self) -> rusqlite::Result<()> {
        self.commit.raw_execute()?;
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

    pub(super) fn rollback(&mut self) -> rusqlite::Result<()> {
        self.rollback.raw_execute().map(drop)
    }

    /// Pages that the reports written in this transaction have taken.
    pub(super) const fn report_pages(&self) -> i64 {
        self.report_pages
    }

    /// Writes all of a batch.
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
        let before = match batch.reports.is_empty() {
            true => 0,
            false => self.pages.in_use()?,
        };
        let mut rows = Rows::of(batch, self.runs, first);
        self.runs += batch.runs.len() as u64;
        for (at, size) in ROWS.into_iter().enumerate() {
            while rows.left() >= size {
                self.reports[at].bind(&mut rows, &mut self.peer)?;
                self.reports[at].statement.raw_execute()?;
            }
        }
        if !batch.reports.is_empty() {
            self.report_pages += self.pages.in_use()? - before;
        }
        self.write_times(batch, first.number())?;
        self.write_corrections(batch)?;
        for event in &batch.events {
            self.write_event(event, batch)?;
        }
        if batch.is_probed {
            self.probe.execute([])?;
        }
        Ok(())
    }

    /// The sequence number of the first of `reports` that come next, all of which are
    /// reserved in the file.
    fn next_seq(&mut self, reports: usize) -> rusqlite::Result<First> {
        if reports == 0 {
            return Ok(First::Implied(0));
        }
        let order = &mut self.next_order;
        let newest: Option<i64> = self.newest.query_row([], |row| row.get(0))?;
        // What SQLite takes by itself is one more than the newest. It may be less than
        // what was given, when the newest rows are gone.
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
            self.reserve.execute([order.reserved])?;
        }
        order.last = last;
        Ok(match implied {
            true => First::Implied(first),
            false => First::Given(first),
        })
    }

    /// Writes the rows of `times` that the reports of a batch complete.
    fn write_times(&mut self, batch: &Batch, first: i64) -> rusqlite::Result<()> {
        for (seq, report) in (first..).zip(&batch.reports) {
            let block = &mut self.next_order.block;
            block.add(seq, report.received_at);
            if block.reports >= BLOCK {
                let row = (block.first, block.last, block.earliest, block.latest);
                *block = Block::EMPTY;
                self.block.execute(row)?;
            }
        }
        Ok(())
    }

    /// What is remembered of the row of the agent with this reference.
    fn known(&self, reference: u64) -> Option<AgentRowId> {
        let row = self.rows.get(place(reference))?;
        (row.id != 0 && row.generation == generation(reference)).then_some(*row)
    }

    /// Writes an agent's row, and notes its number in the batch.
    fn write_agent(&mut self, at: usize, batch: &mut Batch) -> rusqlite::Result<()> {
        let row = batch.agents[at];
        put(&mut self.address, &row.address);
        let (id, before) = match self.known(row.reference) {
            Some(known) if self.update_agent(known.id, &row, batch)? => {
                (known.id, known.last_report)
            }
            // Its row is not known, or was removed as silent for too long.
            _ => match self.find_agent(row.name.map(|name| batch.read(name)))? {
                Some(found) => {
                    self.update_agent(found.id, &row, batch)?;
                    if found.online != row.online {
                        self.corrected.push(at);
                    }
                    (found.id, found.last_report)
                }
                None => (self.insert_agent(&row, batch)?, 0),
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

    /// Brings an agent's row up to date; false if it has none of this number.
    fn update_agent(&mut self, id: i64, row: &BatchAgent, batch: &Batch) -> rusqlite::Result<bool> {
        bind_agent(&mut self.update_agent, Some(id), &self.address, row, batch)?;
        let is_updated = self.update_agent.raw_execute()? > 0;
        if is_updated && row.name.is_some() {
            self.update_address.execute(params![id, self.address])?;
        }
        Ok(is_updated)
    }

    fn insert_agent(&mut self, row: &BatchAgent, batch: &Batch) -> rusqlite::Result<i64> {
        bind_agent(&mut self.insert_agent, None, &self.address, row, batch)?;
        let mut rows = self.insert_agent.raw_query();
        let row = rows.next()?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
        row.get(0)
    }

    /// Returns the row of the agent with this name, or of the agent without a name at the
    /// address at hand.
    fn find_agent(&mut self, name: Option<&str>) -> rusqlite::Result<Option<FoundAgent>> {
        let found = |row: &Row<'_>| {
            let last_report: Option<i64> = row.get(1)?;
            Ok(FoundAgent {
                id: row.get(0)?,
                last_report: last_report.unwrap_or(0),
                online: row.get_ref(2)?.as_str()? == state(true),
            })
        };
        match name {
            Some(name) => self.named_agent.query_row([name], found),
            None => self.unnamed_agent.query_row([&self.address], found),
        }
        .optional()
    }

    fn remove_agent(&mut self, removal: &Removal, batch: &Batch) -> rusqlite::Result<()> {
        match removal.name {
            Some(name) => self.remove_named.execute([batch.read(name)]),
            None => {
                put(&mut self.address, &removal.address);
                self.remove_unnamed.execute([&self.address])
            }
        }
        .map(drop)
    }

    /// Writes events that the file lacks: a restored backup has agents in the states of its
    /// time, and the events since then are in another file.
    fn write_corrections(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let corrected = std::mem::take(&mut self.corrected);
        for event in corrected
            .into_iter()
            .filter_map(|at| batch.missing_event(at))
        {
            self.write_event(&event, batch)?;
        }
        Ok(())
    }

    fn write_event(&mut self, event: &BatchEvent, batch: &Batch) -> rusqlite::Result<()> {
        let name = event.name.map(|name| batch.read(name));
        put(&mut self.address, &event.address);
        let agent = match event.agent {
            Some(index) => batch.agents[index.get()].id,
            None => self.correct_state(event, name, batch)?,
        };
        let established = match &mut self.deliveries {
            Some(deliveries) => {
                deliveries.lane(name.unwrap_or(&self.address), event.established)
                    == Lane::Established
            }
            None => event.established,
        };
        let values = params![
            event.at,
            agent,
            state(event.online),
            name,
            self.address,
            batch.read(event.version),
            event.last_seen,
            established,
        ];
        let seq = self.event.insert(values)?;
        self.has_events = true;
        if !established {
            self.other_event.execute([])?;
        }
        if let Some(deliveries) = &mut self.deliveries
            && !established
        {
            deliveries.listed(name.unwrap_or(&self.address), seq);
        }
        Ok(())
    }
}

impl Statements<'_> {
    /// Gives the row of an agent that the server has removed the state of this event, its last
    /// one; returns the row's number, or 0 if the agent has none.
    fn correct_state(
        &mut self,
        event: &BatchEvent,
        name: Option<&str>,
        batch: &Batch,
    ) -> rusqlite::Result<i64> {
        let Some(found) = self.find_agent(name)? else {
            return Ok(0);
        };
        // A row in this batch is that of a later agent of the same name.
        if found.online != event.online && batch.agents.iter().all(|row| row.id != found.id) {
            let values = params![found.id, state(event.online), event.at];
            self.update_state.execute(values)?;
        }
        Ok(found.id)
    }
}

/// What concerns the delivery of events.
impl<'c> Statements<'c> {
    /// Writes down how far the events of this file are delivered.
    pub(super) fn deliver(&mut self, deliveries: Deliveries<'c>) {
        self.deliveries = Some(deliveries);
    }

    /// Whether there is progress that is not written down.
    pub(super) fn has_progress(&self) -> bool {
        let deliveries = self.deliveries.as_ref();
        deliveries.is_some_and(Deliveries::has_progress)
    }

    /// When progress is to be written down without a batch, if there is any.
    pub(super) fn progress_due_in(&self, now: Moment) -> Option<Duration> {
        self.deliveries.as_ref()?.due_in(now)
    }

    /// Writes progress down, within the transaction at hand, in which these events were
    /// removed: their numbers, and whether their agents were established.
    pub(super) fn write_progress(
        &mut self,
        removed: &[(i64, bool)],
        now: UnixNanos,
    ) -> rusqlite::Result<()> {
        match &mut self.deliveries {
            Some(deliveries) => deliveries.write(removed, now),
            None => Ok(()),
        }
    }

    /// The transaction at hand is committed.
    pub(super) fn committed(&mut self, now: Moment) {
        let events = std::mem::take(&mut self.has_events);
        if let Some(deliveries) = &mut self.deliveries {
            deliveries.committed(events, now);
        }
    }
}

/// Binds an agent's columns, in the order in which the table has them.
fn bind_agent(
    statement: &mut Statement<'_>,
    id: Option<i64>,
    address: &str,
    row: &BatchAgent,
    batch: &Batch,
) -> rusqlite::Result<()> {
    let values = params![
        id,
        row.name.map(|name| batch.read(name)),
        address,
        batch.read(row.version),
        row.first_seen,
        row.last_seen,
        state(row.online),
        row.changed_at,
        row.heartbeats,
        row.reports,
        row.interval,
        (row.last_report != 0).then_some(row.last_report),
        row.hours,
        row.last_hour,
        row.watched,
        row.report_interval,
        row.cloned_at,
    ];
    for (at, value) in (1..).zip(values) {
        statement.raw_bind_parameter(at, value)?;
    }
    Ok(())
}

/// An agent's row that is in the file.
struct FoundAgent {
    id: i64,
    /// The sequence number of its last report, or 0.
    last_report: i64,
    online: bool,
}

/// The sequence number of a batch's first report.
#[derive(Clone, Copy, Debug)]
enum First {
    /// The one that SQLite takes by itself.
    Implied(i64),
    /// One that it must be given.
    Given(i64),
}

impl First {
    const fn number(self) -> i64 {
        match self {
            Self::Implied(number) | Self::Given(number) => number,
        }
    }
}

/// The place of an agent's row in [`Statements::rows`].
fn place(reference: u64) -> usize {
    // The half is meant to be cut out.
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
    /// What is bound in each row: most often what is wanted next.
    bound: Vec<Bound>,
    /// The first row is given its sequence number.
    given: bool,
}

/// What is bound in a row of an [`Insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// The number of the run that has the bound agent and peer.
    run: u64,
    received_at: i64,
    /// 0: NULL.
    back: i64,
}

impl Bound {
    /// It is not known what is bound. No run has this number.
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
            given: false,
        })
    }

    /// Binds the next of `rows`, as many as it takes.
    ///
    /// SQLite looks a given `seq` up in the table before it writes it; if none is given,
    /// it takes the greatest there is and adds 1, which costs nothing.
    fn bind(&mut self, rows: &mut Rows<'_>, peer: &mut Peer) -> rusqlite::Result<()> {
        let statement = &mut self.statement;
        if std::mem::take(&mut self.given) {
            statement.raw_bind_parameter(1, None::<i64>)?;
        }
        if let Some(given) = rows.given.take() {
            self.given = true;
            statement.raw_bind_parameter(1, given)?;
        }
        for (row, bound) in self.bound.iter_mut().enumerate() {
            let Some(next) = rows.next() else {
                break;
            };
            let (run, report) = (next.run, next.report);
            let column = row * COLUMNS;
            // Unknown until the end: an error leaves it half bound.
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
                // Reports of one turn have the same time.
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
struct Rows<'b> {
    batch: &'b Batch,
    reports: &'b [BatchReport],
    runs: &'b [Run],
    /// The number of the first of `runs`, and how many of its reports are past.
    number: u64,
    past: u32,
    /// The sequence number of the first of `reports`.
    seq: i64,
    /// The sequence number that must be given to the first of `reports`.
    given: Option<i64>,
}

/// A report to be written.
struct Next<'b> {
    /// The number of its run.
    number: u64,
    run: &'b Run,
    report: &'b BatchReport,
    /// How many sequence numbers before it its agent's report before it has; 0 if that
    /// is not known.
    back: i64,
}

impl<'b> Rows<'b> {
    const fn of(batch: &'b Batch, number: u64, first: First) -> Self {
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

    fn next(&mut self) -> Option<Next<'b>> {
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
        Some(Next {
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

/// Writes `value` in the place of what `text` had, in the same memory.
fn put(text: &mut String, value: &impl Display) {
    text.clear();
    // Writing into a string cannot fail.
    let _infallible = write!(text, "{value}");
}

#[cfg(test)]
mod tests;
