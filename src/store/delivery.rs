//! How far the events in the store are delivered.
//!
//! The consumers' thread delivers events and publishes its progress in [`Delivery`]; the
//! writer's thread, which alone writes the file, writes that down with its next transaction
//! ([`Deliveries`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Statement, params};

use super::slot::BatchSlot;
use hawk_time::{Moment, UnixNanos};

/// Minimum time between two transactions that contain progress only.
const INTERVAL: Duration = Duration::from_millis(100);

/// Number of agents with an undelivered event that starts the first sweep, which removes
/// agents without undelivered events.
const FIRST_SWEEP: usize = 1024;

/// The events of some agents, which are delivered independently of the other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Events of agents that were established at the time.
    Established,
    /// Events of other agents.
    Others,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Established, Self::Others];

    /// Its place in an array of both.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The lane of an agent's events.
    #[must_use]
    pub const fn of(established: bool) -> Self {
        if established {
            Self::Established
        } else {
            Self::Others
        }
    }

    /// Its name in the table `cursors`.
    const fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::Others => "other",
        }
    }
}

/// What the store says of deliveries when a file is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Which of the files that this process has opened, one after the other; from 1 on.
    pub number: u64,
    /// For each consumer: the cursors of its lanes, and its retries.
    pub consumers: Vec<([i64; 2], Vec<i64>)>,
}

/// How far a consumer has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events of each lane up to here are delivered, skipped or listed as retries.
    pub cursors: [i64; 2],
    /// Events of each lane up to here are known to the consumer.
    pub read: [i64; 2],
    /// Events that are to be listed as retries (`true`), or no longer.
    pub retries: BTreeMap<i64, bool>,
}

/// The progress of all consumers, shared by both threads.
#[derive(Default)]
pub struct Delivery {
    consumers: Vec<&'static str>,
    state: Mutex<State>,
    ring: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct State {
    /// Files opened so far, and the last of them.
    opening: u64,
    file: Option<(u64, u64)>,
    places: Vec<Place>,
    slot: Option<Arc<BatchSlot>>,
}

/// A consumer's place in the sequence of events.
#[derive(Clone, Default)]
struct Place {
    cursors: [i64; 2],
    read: [i64; 2],
    retries: BTreeSet<i64>,
    /// Events that were removed before they were read.
    missed: u64,
    /// What the file does not have yet.
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
    /// For consumers of these names.
    #[must_use]
    pub fn new(consumers: Vec<&'static str>) -> Self {
        Self {
            consumers,
            state: Mutex::default(),
            ring: OnceLock::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The side of the consumers' thread.
impl Delivery {
    /// Calls `ring` after each commit with events, and when another file was opened; the
    /// first call counts.
    pub fn ring_with(&self, ring: impl Fn() + Send + Sync + 'static) {
        let _first_counts = self.ring.set(Box::new(ring));
    }

    /// What the last file that was opened says of deliveries, if it is another than `known`.
    #[must_use]
    pub fn opening(&self, known: u64) -> Option<Opening> {
        let state = self.state();
        let consumer = |place: &Place| (place.cursors, place.retries.iter().copied().collect());
        (state.opening != known).then(|| Opening {
            number: state.opening,
            consumers: state.places.iter().map(consumer).collect(),
        })
    }

    /// Takes down how far a consumer has come in the file of that opening.
    pub fn publish(&self, opening: u64, consumer: usize, progress: &Progress) {
        let mut state = self.state();
        if state.opening != opening {
            return;
        }
        let was_clean = state.is_written_down();
        let Some(place) = state.places.get_mut(consumer) else {
            return;
        };
        place.read = progress.read;
        if place.cursors != progress.cursors {
            place.cursors = progress.cursors;
            place.unwritten.cursors = Some(progress.cursors);
        }
        for (&event, &is_retry) in &progress.retries {
            match is_retry {
                true => place.retries.insert(event),
                false => place.retries.remove(&event),
            };
            place.unwritten.retries.insert(event, is_retry);
        }
        let wake = was_clean && !state.is_written_down();
        let slot = state.slot.clone().filter(|_| wake);
        drop(state);
        if let Some(slot) = slot {
            slot.nudge();
        }
    }

    /// Events that were removed before each consumer had read them.
    #[must_use]
    pub fn missed(&self) -> Vec<u64> {
        let state = self.state();
        match state.places.is_empty() {
            true => vec![0; self.consumers.len()],
            false => state.places.iter().map(|place| place.missed).collect(),
        }
    }
}

impl State {
    fn is_written_down(&self) -> bool {
        self.places.iter().all(|place| place.unwritten.is_empty())
    }
}

/// The writer's side, for one open file.
pub(super) struct Deliveries<'c> {
    delivery: Arc<Delivery>,
    set_cursor: Statement<'c>,
    add_retry: Statement<'c>,
    remove_retry: Statement<'c>,
    /// The last event of agents that are not established, if it may not be delivered.
    undelivered: HashMap<Box<str>, i64>,
    sweep_at: usize,
    /// The last event of such agents that was removed from the file, now and once the
    /// transaction at hand is committed.
    removed_until: i64,
    removing_until: i64,
    /// Progress that the open transaction writes, for each consumer.
    writing: Vec<Unwritten>,
    /// Unread events that the open transaction removes, for each consumer.
    missing: Vec<u64>,
    written_at: Option<Moment>,
}

const SET_CURSOR: &str = "INSERT INTO cursors (consumer, lane, seq) VALUES (?1, ?2, ?3) \
                          ON CONFLICT DO UPDATE SET seq = excluded.seq";

const ADD_RETRY: &str = "INSERT INTO retries (consumer, event, since) VALUES (?1, ?2, ?3) \
                         ON CONFLICT DO NOTHING";

const REMOVE_RETRY: &str = "DELETE FROM retries WHERE consumer = ?1 AND event = ?2";

impl<'c> Deliveries<'c> {
    /// Takes up the deliveries of a file that was opened. `file` is its device and inode.
    ///
    /// In a new file, or in another file than the last, such as a restored backup, every
    /// consumer starts at the end; so does a consumer that was not
    /// there when the file was opened before.
    pub(super) fn begin(
        connection: &'c Connection,
        delivery: Arc<Delivery>,
        file: (u64, u64),
        slot: &Arc<BatchSlot>,
    ) -> rusqlite::Result<Self> {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let begun = begin(connection, &delivery, file)
            .and_then(|begun| connection.execute_batch("COMMIT").map(|()| begun));
        let (places, undelivered) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Some errors have rolled back already; then this is one too.
                connection.execute_batch("ROLLBACK").ok();
                return Err(error);
            }
        };
        let mut state = delivery.state();
        state.slot = Some(Arc::clone(slot));
        // After a failure of the same file, what is known is newer than what is written.
        if state.file != Some(file) || state.opening == 0 {
            state.file = Some(file);
            state.opening += 1;
            let missed: Vec<_> = state.places.iter().map(|place| place.missed).collect();
            state.places = places;
            for (place, missed) in state.places.iter_mut().zip(missed) {
                place.missed = missed;
            }
        }
        drop(state);
        let deliveries = Self {
            set_cursor: connection.prepare(SET_CURSOR)?,
            add_retry: connection.prepare(ADD_RETRY)?,
            remove_retry: connection.prepare(REMOVE_RETRY)?,
            delivery,
            sweep_at: FIRST_SWEEP.max(2 * undelivered.len()),
            undelivered,
            removed_until: 0,
            removing_until: 0,
            writing: Vec::new(),
            missing: Vec::new(),
            written_at: None,
        };
        deliveries.ring();
        Ok(deliveries)
    }

    /// The lane of an agent's next event.
    ///
    /// An agent that has just become established has its events on the other lane until the
    /// last event there is delivered: no event overtakes an earlier event of its agent.
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

    /// An agent's event has this number on the lane of agents that are not established.
    pub(super) fn listed(&mut self, agent: &str, seq: i64) {
        if self.delivery.consumers.is_empty() {
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

    /// Whether there is progress that is not written down.
    pub(super) fn has_progress(&self) -> bool {
        !self.delivery.state().is_written_down()
    }

    /// How long until progress is to be written down, if there is any.
    pub(super) fn due_in(&self, now: Moment) -> Option<Duration> {
        if self.delivery.state().is_written_down() {
            return None;
        }
        let next = self.written_at.map_or(now, |at| at.after(INTERVAL));
        Some(next.since(now))
    }

    /// Writes progress down, within the transaction at hand, in which events were `removed`:
    /// removed events that a consumer has not read are missed.
    pub(super) fn write(
        &mut self,
        removed: &[(i64, bool)],
        now: UnixNanos,
    ) -> rusqlite::Result<()> {
        let others = removed.iter().filter(|(_, established)| !established);
        let last = others.map(|(seq, _)| *seq).max().unwrap_or(0);
        self.removing_until = self.removed_until.max(last);
        let state = self.delivery.state();
        let missing = |place: &Place| {
            let is_unread = |(seq, established): &&(i64, bool)| {
                let lane = Lane::of(*established).index();
                place.read[lane].max(place.cursors[lane]) < *seq
            };
            removed.iter().filter(is_unread).count() as u64
        };
        self.missing = state.places.iter().map(missing).collect();
        let unwritten = state.places.iter().map(|place| place.unwritten.clone());
        self.writing = unwritten.collect();
        drop(state);
        for (consumer, progress) in self.delivery.consumers.iter().zip(&self.writing) {
            for lane in Lane::ALL.into_iter().filter(|_| progress.cursors.is_some()) {
                let seq = progress.cursors.map(|cursors| cursors[lane.index()]);
                self.set_cursor
                    .execute(params![consumer, lane.name(), seq])?;
            }
            for (event, is_retry) in &progress.retries {
                match is_retry {
                    true => self
                        .add_retry
                        .execute(params![consumer, event, now.as_nanos()])?,
                    false => self.remove_retry.execute(params![consumer, event])?,
                };
            }
        }
        Ok(())
    }

    /// The transaction at hand is committed, with or without `events`.
    pub(super) fn committed(&mut self, events: bool, now: Moment) {
        self.removed_until = self.removing_until;
        let mut state = self.delivery.state();
        for (place, missing) in state.places.iter_mut().zip(self.missing.drain(..)) {
            place.missed += missing;
        }
        for (place, written) in state.places.iter_mut().zip(self.writing.drain(..)) {
            let unwritten = &mut place.unwritten;
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
        if events {
            self.ring();
        }
    }

    fn ring(&self) {
        if let Some(ring) = self.delivery.ring.get() {
            ring();
        }
    }
}

impl State {
    /// Whether no consumer has still to deliver this event of an agent that is not
    /// established.
    fn is_done(&self, seq: i64) -> bool {
        let lane = Lane::Others.index();
        let is_done = |place: &Place| seq <= place.cursors[lane] && !place.retries.contains(&seq);
        self.places.iter().all(is_done)
    }

    /// Whether no consumer will deliver this event of an agent that is not established after
    /// now: it is done, or was among those up to `removed_until` that were removed, and no
    /// consumer has read it.
    fn is_over(&self, seq: i64, removed_until: i64) -> bool {
        let lane = Lane::Others.index();
        let is_unread = |place: &Place| seq > place.read[lane] && !place.retries.contains(&seq);
        self.is_done(seq) || (seq <= removed_until && self.places.iter().all(is_unread))
    }
}

type Begun = (Vec<Place>, HashMap<Box<str>, i64>);

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
    let mut places = Vec::new();
    for consumer in &delivery.consumers {
        let mut place = Place::default();
        for lane in Lane::ALL {
            let key = (consumer, lane.name());
            let find = "SELECT seq FROM cursors WHERE consumer = ?1 AND lane = ?2";
            let found: Option<i64> = connection
                .query_row(find, key, |row| row.get(0))
                .optional()?;
            if found.is_none() {
                connection.execute(SET_CURSOR, (consumer, lane.name(), last))?;
            }
            place.cursors[lane.index()] = found.unwrap_or(last).min(last);
        }
        place.read = place.cursors;
        let mut retries =
            connection.prepare("SELECT event FROM retries WHERE consumer = ?1 ORDER BY event")?;
        let retries = retries.query_map([consumer], |row| row.get(0))?;
        place.retries = retries.collect::<rusqlite::Result<_>>()?;
        places.push(place);
    }
    let undelivered = undelivered(connection, &places)?;
    Ok((places, undelivered))
}

/// The last event of each agent that is not established, among events that may be
/// undelivered.
fn undelivered(
    connection: &Connection,
    places: &[Place],
) -> rusqlite::Result<HashMap<Box<str>, i64>> {
    let of_place = |place: &Place| {
        let cursor = place.cursors[Lane::Others.index()];
        let retry = place.retries.first().map(|first| first - 1);
        retry.unwrap_or(cursor).min(cursor)
    };
    let Some(from) = places.iter().map(of_place).min() else {
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
        deliveries.committed(false, Moment::from_nanos(1));
    }

    #[test]
    fn a_file_begins_at_its_end_and_goes_on_where_it_was() {
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
    fn a_consumer_that_was_away_begins_at_the_end() {
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
    fn what_is_known_outlives_a_failure_of_the_same_file_and_not_anfile_replaced() {
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
    fn what_changes_during_a_transaction_is_written_with_the_next() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        delivery.publish(1, 0, &progress(1, &[(1, true)]));
        deliveries.write(&[], NOW).unwrap();
        delivery.publish(1, 0, &progress(2, &[(1, false)]));
        deliveries.committed(false, Moment::from_nanos(1));
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
        deliveries.committed(false, Moment::from_nanos(1));
        assert_eq!(delivery.missed(), [2]);
    }

    #[test]
    fn an_agent_that_becomes_established_changes_lanes_once_its_events_are_delivered() {
        let connection = open();
        let first = delivery();
        drop(begin_with(&connection, &first, FILE));
        let seq = add_events(&connection, "a", false, 1);
        // Also if the server is started anew meanwhile.
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        assert_eq!(deliveries.lane("b", true), Lane::Established);
        assert_eq!(deliveries.lane("a", true), Lane::Others);
        deliveries.listed("a", seq + 1);
        delivery.publish(1, 0, &progress(seq, &[]));
        assert_eq!(deliveries.lane("a", true), Lane::Others, "the second waits");
        delivery.publish(1, 0, &progress(seq + 1, &[(seq + 1, true)]));
        assert_eq!(deliveries.lane("a", true), Lane::Others, "it failed");
        delivery.publish(1, 0, &progress(seq + 1, &[(seq + 1, false)]));
        assert_eq!(deliveries.lane("a", true), Lane::Established);
    }

    #[test]
    fn what_is_remembered_of_lanes_is_bounded_by_what_waits() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        for seq in 1..10_000 {
            deliveries.listed(&seq.to_string(), seq);
            delivery.publish(1, 0, &progress(seq - 10, &[]));
        }
        assert!(deliveries.undelivered.len() <= FIRST_SWEEP);
    }

    #[test]
    fn nothing_is_remembered_of_events_that_are_removed_while_no_consumer_reads_on() {
        let connection = open();
        let delivery = delivery();
        let mut deliveries = begin_with(&connection, &delivery, FILE);
        for seq in 1..10_000 {
            deliveries.listed(&seq.to_string(), seq);
            deliveries.write(&[(seq - 10, false)], NOW).unwrap();
            deliveries.committed(false, Moment::from_nanos(1));
        }
        assert!(deliveries.undelivered.len() <= FIRST_SWEEP);
        // One that was read may still be delivered.
        deliveries.listed("a", 10_000);
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
        deliveries.committed(false, Moment::from_nanos(1));
        assert_eq!(deliveries.lane("a", true), Lane::Others);
        delivery.publish(1, 0, &progress(10_000, &[]));
        assert_eq!(deliveries.lane("a", true), Lane::Established);
    }
}
