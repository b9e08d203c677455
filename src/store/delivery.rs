//! The progress of the delivery of events.
//!
//! The consumer thread delivers events and publishes its progress in [`Delivery`]. The writer
//! thread, the only one that writes the file, stores the progress with its next transaction
//! ([`Deliveries`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::producer::BatchSlot;
use hawk_time::{Moment, UnixNanos};

/// Minimum interval of transactions that contain progress only.
const INTERVAL: Duration = Duration::from_millis(100);

/// Number of agents with an undelivered event that starts the first sweep, which removes
/// agents without undelivered events.
const FIRST_SWEEP: usize = 1024;

/// Events that are delivered in order, independently of the other lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Events of agents that were established at that time.
    Established,
    /// Events of other agents.
    Others,
}

impl Lane {
    /// Both lanes.
    pub const ALL: [Self; 2] = [Self::Established, Self::Others];

    /// Returns its index in an array of both.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the lane of an agent's events.
    #[must_use]
    pub const fn of(established: bool) -> Self {
        if established {
            Self::Established
        } else {
            Self::Others
        }
    }

    /// Returns its name in the table `cursors`.
    const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Others => "other",
        }
    }
}

/// The stored progress of a file that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Number of files that this process has opened, including this one.
    pub number: u64,
    /// The cursors of the lanes and the retries of each consumer.
    pub consumers: Vec<([i64; 2], Vec<i64>)>,
}

/// The progress of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events of each lane up to this number are delivered, skipped or listed as retries.
    pub cursors: [i64; 2],
    /// Events of each lane up to this number are read.
    pub read: [i64; 2],
    /// Events that become retries (`true`) or cease to be (`false`).
    pub retries: BTreeMap<i64, bool>,
}

/// The progress of all consumers, which both threads share.
#[derive(Default)]
pub struct Delivery {
    consumers: Vec<&'static str>,
    state: Mutex<DeliveryState>,
    notify: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct DeliveryState {
    /// Number of files opened so far; device and inode of the last.
    opening: u64,
    file: Option<(u64, u64)>,
    consumers: Vec<ConsumerState>,
    slot: Option<Arc<BatchSlot>>,
}

/// The progress of a consumer in the open file.
#[derive(Clone, Default)]
struct ConsumerState {
    cursors: [i64; 2],
    read: [i64; 2],
    retries: BTreeSet<i64>,
    /// Number of events that were removed before the consumer read them.
    missed: u64,
    /// Progress that the file does not have yet.
    unwritten: Unwritten,
}

#[derive(Clone, Default, PartialEq)]
struct Unwritten {
    cursors: Option<[i64; 2]>,
    retries: BTreeMap<i64, bool>,
}

impl Unwritten {
    fn is_empty(&self) -> bool {
        self.cursors.is_none() && self.retries.is_empty()
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("consumers", &self.consumers)
            .finish_non_exhaustive()
    }
}

impl Delivery {
    /// Creates the progress of consumers with these names.
    #[must_use]
    pub fn new(consumers: Vec<&'static str>) -> Self {
        Self {
            consumers,
            state: Mutex::default(),
            notify: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Methods for the consumer thread.
impl Delivery {
    /// Calls `notify` after each commit with events, and when another file was opened. The
    /// first call counts.
    pub fn ring_with(&self, notify: impl Fn() + Send + Sync + 'static) {
        let _first_counts = self.notify.set(Box::new(notify));
    }

    /// Returns the stored progress of the last opened file, unless its number is `known`.
    #[must_use]
    pub fn opening(&self, known: u64) -> Option<Opening> {
        let state = self.state();
        let consumer = |consumer: &ConsumerState| {
            (consumer.cursors, consumer.retries.iter().copied().collect())
        };
        (state.opening != known).then(|| Opening {
            number: state.opening,
            consumers: state.consumers.iter().map(consumer).collect(),
        })
    }

    /// Publishes the progress of a consumer in the file with the number `opening`.
    pub fn publish(&self, opening: u64, consumer: usize, progress: &Progress) {
        let mut state = self.state();
        if state.opening != opening {
            return;
        }
        let was_written = state.is_written();
        let Some(known) = state.consumers.get_mut(consumer) else {
            return;
        };
        known.read = progress.read;
        if known.cursors != progress.cursors {
            known.cursors = progress.cursors;
            known.unwritten.cursors = Some(progress.cursors);
        }
        for (&event, &is_retry) in &progress.retries {
            match is_retry {
                true => known.retries.insert(event),
                false => known.retries.remove(&event),
            };
            known.unwritten.retries.insert(event, is_retry);
        }
        let is_first = was_written && !state.is_written();
        let slot = state.slot.clone().filter(|_| is_first);
        drop(state);
        if let Some(slot) = slot {
            slot.nudge();
        }
    }

    /// Returns the number of events that were removed before each consumer read them.
    #[must_use]
    pub fn missed(&self) -> Vec<u64> {
        let state = self.state();
        match state.consumers.is_empty() {
            true => vec![0; self.consumers.len()],
            false => state
                .consumers
                .iter()
                .map(|consumer| consumer.missed)
                .collect(),
        }
    }
}

impl DeliveryState {
    fn is_written(&self) -> bool {
        self.consumers
            .iter()
            .all(|consumer| consumer.unwritten.is_empty())
    }
}

/// Methods for the writer thread, for one open file.
pub(super) struct Deliveries<'c> {
    delivery: Arc<Delivery>,
    connection: &'c Connection,
    /// The last event of agents that are not established, if it may be undelivered.
    undelivered: HashMap<Box<str>, i64>,
    sweep_at: usize,
    /// The last event of such agents that was removed from the file, before and after the open
    /// transaction.
    removed_until: i64,
    removing_until: i64,
    /// Progress that the open transaction writes, for each consumer.
    writing: Vec<Unwritten>,
    /// Unread events that the open transaction removes, for each consumer.
    missing: Vec<u64>,
    /// The open transaction adds events.
    has_events: bool,
    written_at: Option<Moment>,
}

const SET_CURSOR: &str = "INSERT INTO cursors (consumer, lane, seq) VALUES (?1, ?2, ?3) \
                          ON CONFLICT DO UPDATE SET seq = excluded.seq";

const ADD_RETRY: &str = "INSERT INTO retries (consumer, event, since) VALUES (?1, ?2, ?3) \
                         ON CONFLICT DO NOTHING";

const REMOVE_RETRY: &str = "DELETE FROM retries WHERE consumer = ?1 AND event = ?2";

impl<'c> Deliveries<'c> {
    /// Reads the progress of a file that was opened. `file` is its device and inode.
    ///
    /// In a new file and in another file than the last, such as a restored backup, every
    /// consumer starts at the end. So does a consumer that did not exist when the file was
    /// opened before.
    pub(super) fn begin(
        connection: &'c Connection,
        delivery: Arc<Delivery>,
        file: (u64, u64),
        slot: &Arc<BatchSlot>,
    ) -> rusqlite::Result<Self> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let begun = begin(connection, &delivery, file)
            .and_then(|begun| connection.execute_batch("COMMIT").map(|()| begun));
        let (consumers, undelivered) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // After some errors SQLite has rolled back already; then this fails too.
                connection.execute_batch("ROLLBACK").ok();
                return Err(error);
            }
        };
        let mut state = delivery.state();
        state.slot = Some(Arc::clone(slot));
        // After a failure of the same file, the published progress is newer than the stored.
        if state.file != Some(file) || state.opening == 0 {
            state.file = Some(file);
            state.opening += 1;
            let missed: Vec<_> = state
                .consumers
                .iter()
                .map(|consumer| consumer.missed)
                .collect();
            state.consumers = consumers;
            for (consumer, missed) in state.consumers.iter_mut().zip(missed) {
                consumer.missed = missed;
            }
        }
        drop(state);
        let deliveries = Self {
            connection,
            delivery,
            sweep_at: FIRST_SWEEP.max(2 * undelivered.len()),
            undelivered,
            removed_until: 0,
            removing_until: 0,
            writing: Vec::new(),
            missing: Vec::new(),
            has_events: false,
            written_at: None,
        };
        deliveries.notify();
        Ok(deliveries)
    }

    /// Returns the lane of an agent's next event.
    ///
    /// The events of an agent that becomes established stay on the other lane until the last
    /// event there is delivered: no event overtakes an earlier event of its agent.
    pub(super) fn lane(&mut self, agent: &str, established: bool) -> Lane {
        let Some(&last) = self.undelivered.get(agent).filter(|_| established) else {
            return Lane::of(established);
        };
        if self.delivery.state().is_over(last, self.removed_until) {
            self.undelivered.remove(agent);
            return Lane::Established;
        }
        Lane::Others
    }

    /// Notes an event that the open transaction adds.
    pub(super) fn add(&mut self, agent: &str, seq: i64, lane: Lane) {
        self.has_events = true;
        if lane == Lane::Established || self.delivery.consumers.is_empty() {
            return;
        }
        self.undelivered.insert(agent.into(), seq);
        if self.undelivered.len() >= self.sweep_at {
            let state = self.delivery.state();
            let removed_until = self.removed_until;
            self.undelivered
                .retain(|_, last| !state.is_over(*last, removed_until));
            self.sweep_at = FIRST_SWEEP.max(2 * self.undelivered.len());
        }
    }

    /// Whether there is progress that the file does not have.
    pub(super) fn has_progress(&self) -> bool {
        !self.delivery.state().is_written()
    }

    /// Returns the time until progress must be stored; `None` if there is none.
    pub(super) fn due_in(&self, now: Moment) -> Option<Duration> {
        if self.delivery.state().is_written() {
            return None;
        }
        let next = self.written_at.map_or(now, |at| at.after(INTERVAL));
        Some(next.since(now))
    }

    /// Stores progress within the open transaction, which `removed` events: a consumer misses
    /// the events that it has not read.
    pub(super) fn write(
        &mut self,
        removed: &[(i64, bool)],
        now: UnixNanos,
    ) -> rusqlite::Result<()> {
        let others = removed.iter().filter(|(_, established)| !established);
        let last = others.map(|(seq, _)| *seq).max().unwrap_or(0);
        self.removing_until = self.removed_until.max(last);
        let state = self.delivery.state();
        let missing = |consumer: &ConsumerState| {
            let is_unread = |(seq, established): &&(i64, bool)| {
                let lane = Lane::of(*established).index();
                consumer.read[lane].max(consumer.cursors[lane]) < *seq
            };
            removed.iter().filter(is_unread).count() as u64
        };
        self.missing = state.consumers.iter().map(missing).collect();
        let unwritten = state
            .consumers
            .iter()
            .map(|consumer| consumer.unwritten.clone());
        self.writing = unwritten.collect();
        drop(state);
        for (consumer, progress) in self.delivery.consumers.iter().zip(&self.writing) {
            if let Some(cursors) = progress.cursors {
                let mut set = self.connection.prepare_cached(SET_CURSOR)?;
                for lane in Lane::ALL {
                    set.execute(params![consumer, lane.name(), cursors[lane.index()]])?;
                }
            }
            for (event, is_retry) in &progress.retries {
                let connection = self.connection;
                match is_retry {
                    true => connection.prepare_cached(ADD_RETRY)?.execute(params![
                        consumer,
                        event,
                        now.as_nanos()
                    ])?,
                    false => connection
                        .prepare_cached(REMOVE_RETRY)?
                        .execute(params![consumer, event])?,
                };
            }
        }
        Ok(())
    }

    /// Notes that the open transaction is committed.
    pub(super) fn committed(&mut self, now: Moment) {
        self.removed_until = self.removing_until;
        let mut state = self.delivery.state();
        for (consumer, missing) in state.consumers.iter_mut().zip(self.missing.drain(..)) {
            consumer.missed += missing;
        }
        for (consumer, written) in state.consumers.iter_mut().zip(self.writing.drain(..)) {
            let unwritten = &mut consumer.unwritten;
            if unwritten.cursors == written.cursors {
                unwritten.cursors = None;
            }
            for (event, is_retry) in written.retries {
                if unwritten.retries.get(&event) == Some(&is_retry) {
                    unwritten.retries.remove(&event);
                }
            }
        }
        drop(state);
        self.written_at = Some(now);
        if std::mem::take(&mut self.has_events) {
            self.notify();
        }
    }

    fn notify(&self) {
        if let Some(notify) = self.delivery.notify.get() {
            notify();
        }
    }
}

impl DeliveryState {
    /// Whether all consumers have delivered or skipped this event of an agent that is not
    /// established.
    fn is_done(&self, seq: i64) -> bool {
        let lane = Lane::Others.index();
        let is_done = |consumer: &ConsumerState| {
            seq <= consumer.cursors[lane] && !consumer.retries.contains(&seq)
        };
        self.consumers.iter().all(is_done)
    }

    /// Whether this event of an agent that is not established will not be delivered any more:
    /// it is done, or it was removed (up to `removed_until`) before a consumer read it.
    fn is_over(&self, seq: i64, removed_until: i64) -> bool {
        let lane = Lane::Others.index();
        let is_unread = |consumer: &ConsumerState| {
            seq > consumer.read[lane] && !consumer.retries.contains(&seq)
        };
        self.is_done(seq) || (seq <= removed_until && self.consumers.iter().all(is_unread))
    }
}

type Begun = (Vec<ConsumerState>, HashMap<Box<str>, i64>);

fn begin(
    connection: &Connection,
    delivery: &Delivery,
    file: (u64, u64),
) -> rusqlite::Result<Begun> {
    let inode = file.1.cast_signed();
    let before: i64 = connection.query_row("SELECT inode FROM store", [], |row| row.get(0))?;
    if before != inode {
        connection.execute_batch("DELETE FROM cursors; DELETE FROM retries")?;
    }
    connection.execute("UPDATE store SET opened = opened + 1, inode = ?1", [inode])?;
    for table in ["cursors", "retries"] {
        let mut names = connection.prepare(&format!("SELECT DISTINCT consumer FROM {table}"))?;
        let names = names.query_map([], |row| row.get(0))?;
        let names: Vec<String> = names.collect::<rusqlite::Result<_>>()?;
        for name in names {
            if !delivery.consumers.contains(&&*name) {
                let delete = format!("DELETE FROM {table} WHERE consumer = ?1");
                connection.execute(&delete, [name])?;
            }
        }
    }
    let last = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
    let last: Option<i64> = connection
        .query_row(last, [], |row| row.get(0))
        .optional()?;
    let last = last.unwrap_or(0);
    let mut states = Vec::new();
    for name in &delivery.consumers {
        let mut state = ConsumerState::default();
        for lane in Lane::ALL {
            let key = (name, lane.name());
            let find = "SELECT seq FROM cursors WHERE consumer = ?1 AND lane = ?2";
            let found: Option<i64> = connection
                .query_row(find, key, |row| row.get(0))
                .optional()?;
            if found.is_none() {
                connection.execute(SET_CURSOR, (name, lane.name(), last))?;
            }
            state.cursors[lane.index()] = found.unwrap_or(last).min(last);
        }
        state.read = state.cursors;
        let mut retries =
            connection.prepare("SELECT event FROM retries WHERE consumer = ?1 ORDER BY event")?;
        let retries = retries.query_map([name], |row| row.get(0))?;
        state.retries = retries.collect::<rusqlite::Result<_>>()?;
        states.push(state);
    }
    let undelivered = undelivered(connection, &states)?;
    Ok((states, undelivered))
}

/// Returns the last event of each agent that is not established, among events that may be
/// undelivered.
fn undelivered(
    connection: &Connection,
    consumers: &[ConsumerState],
) -> rusqlite::Result<HashMap<Box<str>, i64>> {
    let earliest = |consumer: &ConsumerState| {
        let cursor = consumer.cursors[Lane::Others.index()];
        let retry = consumer.retries.first().map(|first| first - 1);
        retry.unwrap_or(cursor).min(cursor)
    };
    let Some(from) = consumers.iter().map(earliest).min() else {
        return Ok(HashMap::new());
    };
    let mut events = connection.prepare(
        "SELECT coalesce(name, address), seq FROM events \
         WHERE seq > ?1 AND established = 0 AND address IS NOT NULL ORDER BY seq",
    )?;
    let mut rows = events.query([from])?;
    let mut found = HashMap::new();
    while let Some(row) = rows.next()? {
        found.insert(row.get_ref(0)?.as_str()?.into(), row.get(1)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    const FILE: (u64, u64) = (1, 7);

    const NOW: UnixNanos = UnixNanos::from_nanos(1);

    fn open() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::migrate(&mut connection).unwrap();
        connection
    }

    fn add_events(connection: &Connection, agent: &str, established: bool, count: usize) -> i64 {
        for _ in 0..count {
            connection
                .execute(
                    "INSERT INTO events (at, agent, state, name, address, established)
                     VALUES (1, 1, 'online', ?1, '10.0.0.7', ?2)",
                    (agent, established),
                )
                .unwrap();
        }
        connection.last_insert_rowid()
    }

    fn delivery() -> Arc<Delivery> {
        Arc::new(Delivery::new(vec!["on-event"]))
    }

    fn begin_with<'c>(
        connection: &'c Connection,
        delivery: &Arc<Delivery>,
        file: (u64, u64),
    ) -> Deliveries<'c> {
        Deliveries::begin(connection, Arc::clone(delivery), file, &Arc::default()).unwrap()
    }

    fn progress(cursor: i64, retries: &[(i64, bool)]) -> Progress {
        Progress {
            cursors: [cursor; 2],
            read: [cursor; 2],
            retries: retries.iter().copied().collect(),
        }
    }

    fn write(deliveries: &mut Deliveries<'_>) {
        deliveries.write(&[], NOW).unwrap();
        deliveries.committed(Moment::from_nanos(1));
    }

    #[test]
    fn a_new_file_begins_at_its_end_and_a_known_file_at_its_cursor() {
        let connection = open();
        add_events(&connection, "a", true, 5);
        let first = delivery();
        let mut deliveries = begin_with(&connection, &first, FILE);
        let opening = first.opening(0).unwrap();
        assert_eq!(
            (opening.number, &opening.consumers[..]),
            (1, &[([5; 2], vec![])][..])
        );
        assert_eq!(first.opening(1), None);
        add_events(&connection, "a", true, 5);
        first.publish(1, 0, &progress(8, &[(6, true), (7, true)]));
        first.publish(1, 0, &progress(8, &[(6, false)]));
        assert!(deliveries.has_progress());
        write(&mut deliveries);
        assert!(!deliveries.has_progress());
        drop(deliveries);

        let second = delivery();
        drop(begin_with(&connection, &second, FILE));
        let opening = second.opening(0).unwrap();
        assert_eq!(opening.consumers, [([8; 2], vec![7])]);

        // A restored backup has another inode.
        let third = delivery();
        drop(begin_with(&connection, &third, (1, 8)));
        let opening = third.opening(0).unwrap();
        assert_eq!(opening.consumers, [([10; 2], vec![])]);
        let opened: i64 = connection
            .query_row("SELECT opened FROM store", [], |row| row.get(0))
            .unwrap();
        assert_eq!(opened, 3);
    }

    #[test]
    fn a_consumer_that_was_missing_begins_at_the_end() {
        let connection = open();
        let both = Arc::new(Delivery::new(vec!["on-event", "on-events"]));
        drop(begin_with(&connection, &both, FILE));
        add_events(&connection, "a", true, 5);
        drop(begin_with(&connection, &delivery(), FILE));
        let both = Arc::new(Delivery::new(vec!["on-event", "on-events"]));
        drop(begin_with(&connection, &both, FILE));
        let opening = both.opening(0).unwrap();
        let cursors: Vec<_> = opening.consumers.iter().map(|one| one.0).collect();
        assert_eq!(cursors, [[0; 2], [5; 2]]);
    }

    #[test]
    fn published_progress_outlives_a_failure_of_the_same_file_only() {
        let connection = open();
        add_events(&connection, "a", true, 5);
        let delivery = delivery();
        drop(begin_with(&connection, &delivery, FILE));
        add_events(&connection, "a", true, 5);
        delivery.publish(1, 0, &progress(7, &[]));
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        assert_eq!(delivery.opening(1), None);
        assert!(deliveries.has_progress());
        write(&mut deliveries);
        drop(deliveries);
        let other = open();
        drop(begin_with(&other, &delivery, (1, 8)));
        let opening = delivery.opening(1).unwrap();
        assert_eq!(
            (opening.number, opening.consumers),
            (2, vec![([0; 2], vec![])])
        );
        // Of the file before.
        delivery.publish(1, 0, &progress(9, &[]));
        assert_eq!(delivery.opening(1).unwrap().consumers, [([0; 2], vec![])]);
    }

    #[test]
    fn progress_published_during_a_transaction_is_stored_with_the_next() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        delivery.publish(1, 0, &progress(1, &[(1, true)]));
        deliveries.write(&[], NOW).unwrap();
        delivery.publish(1, 0, &progress(2, &[(1, false)]));
        deliveries.committed(Moment::from_nanos(1));
        let due = deliveries.due_in(Moment::from_nanos(1));
        assert_eq!(due, Some(INTERVAL));
        write(&mut deliveries);
        assert_eq!(deliveries.due_in(Moment::from_nanos(1)), None);
        let left: i64 = connection
            .query_row("SELECT count(*) FROM retries", [], |row| row.get(0))
            .unwrap();
        assert_eq!(left, 0);
    }

    #[test]
    fn events_that_are_removed_before_they_are_read_are_missed() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        delivery.publish(1, 0, &progress(2, &[]));
        let removed = [(1, true), (2, false), (3, true), (4, false)];
        // A transaction that is rolled back and repeated counts once.
        deliveries.write(&removed, NOW).unwrap();
        assert_eq!(delivery.missed(), [0]);
        deliveries.write(&removed, NOW).unwrap();
        deliveries.committed(Moment::from_nanos(1));
        assert_eq!(delivery.missed(), [2]);
    }

    #[test]
    fn an_agent_that_becomes_established_changes_lanes_once_its_events_are_delivered() {
        let connection = open();
        let first = delivery();
        drop(begin_with(&connection, &first, FILE));
        let seq = add_events(&connection, "a", false, 1);
        // Also after a restart of the server.
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        assert_eq!(deliveries.lane("b", true), Lane::Established);
        assert_eq!(deliveries.lane("a", true), Lane::Others);
        deliveries.add("a", seq + 1, Lane::Others);
        delivery.publish(1, 0, &progress(seq, &[]));
        assert_eq!(deliveries.lane("a", true), Lane::Others, "the second waits");
        delivery.publish(1, 0, &progress(seq + 1, &[(seq + 1, true)]));
        assert_eq!(deliveries.lane("a", true), Lane::Others, "it failed");
        delivery.publish(1, 0, &progress(seq + 1, &[(seq + 1, false)]));
        assert_eq!(deliveries.lane("a", true), Lane::Established);
    }

    #[test]
    fn the_memory_of_lanes_is_bounded_by_undelivered_events() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        for seq in 1..10_000 {
            deliveries.add(&seq.to_string(), seq, Lane::Others);
            delivery.publish(1, 0, &progress(seq - 10, &[]));
        }
        assert!(deliveries.undelivered.len() <= FIRST_SWEEP);
    }

    #[test]
    fn removed_events_are_dropped_while_no_consumer_reads() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        for seq in 1..10_000 {
            deliveries.add(&seq.to_string(), seq, Lane::Others);
            deliveries.write(&[(seq - 10, false)], NOW).unwrap();
            deliveries.committed(Moment::from_nanos(1));
        }
        assert!(deliveries.undelivered.len() <= FIRST_SWEEP);
        // An event that was read may still be delivered.
        deliveries.add("a", 10_000, Lane::Others);
        delivery.publish(
            1,
            0,
            &Progress {
                cursors: [9_999; 2],
                read: [10_000; 2],
                ..Progress::default()
            },
        );
        deliveries.write(&[(10_000, false)], NOW).unwrap();
        deliveries.committed(Moment::from_nanos(1));
        assert_eq!(deliveries.lane("a", true), Lane::Others);
        delivery.publish(1, 0, &progress(10_000, &[]));
        assert_eq!(deliveries.lane("a", true), Lane::Established);
    }
}
