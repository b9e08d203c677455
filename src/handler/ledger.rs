//! Reports, events and agents on their way into the store.
//!
//! The [`ReportLedger`] fills the batches of the store's [`BatchProducer`], keeps what cannot
//! be written while the store is down, and returns completed commits.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use crate::roster::{AgentKey, Entry, Identity, Roster};
use crate::session::{CommitId, CompletedCommit, Fate};
use crate::stats::{StoreCounters, StoreState, StoreStatistics};
use crate::store::{self, AgentIndex, BatchProducer, Health};
use hawk_time::{Moment, UnixNanos};

/// The longest delay of changed agents without reports: heartbeats alone cost one commit a
/// second, however many there are.
const FLUSH: Duration = Duration::from_secs(1);

/// The time after which a commit counts as stalled: agents that wait for it are then not
/// marked offline for their silence.
const STALLED: Duration = Duration::from_secs(1);

/// Reports after which a batch is submitted within a turn, so that the writer works while the
/// turn is read. So many cost less to write than their sync.
const SUBMIT_EVERY: u32 = 256;

/// Batches in flight from which no more are submitted within a turn. Bounds the memory:
/// completed batches are collected at its begin.
const MAX_IN_FLIGHT: u32 = 3;

/// The limit of changes deferred while the store is down: 10 MB of memory, or 30 MB if all
/// names and versions have their longest length.
const MAX_DEFERRED: usize = 100_000;

/// The store did not finish within its patience.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store did not finish in {}: what was not acknowledged may be missing",
    humantime::format_duration(*.0)
)]
pub struct Unfinished(Duration);

/// Why the store cannot be quiesced now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreDown {
    /// It cannot be written.
    #[error("the store is unavailable; the log says why")]
    Unavailable,
    /// A commit takes too long.
    #[error(
        "the store has not answered for {} or longer; see what its disk does",
        humantime::format_duration(STALLED)
    )]
    Stalled,
}

/// Fills the store's batches, and defers changes while the store is down.
pub(super) struct ReportLedger {
    pub(super) producer: BatchProducer,
    /// The counters of earlier processes.
    pub(super) counted_before: StoreCounters,
    /// The rows of agents in the open batch, by roster slot.
    rows: Vec<AgentRow>,
    /// References of agents with rows that are not written because the store is down.
    unsaved: Vec<u64>,
    /// The number of the rewrite that writes all agents to the file; `None` while there is none.
    rewrite: Option<u64>,
    /// Events and removals of agents deferred likewise, in FIFO order.
    deferred: VecDeque<DeferredChange>,
    /// Events dropped because `deferred` was full.
    lost: u64,
    /// When the open batch is submitted at the latest; `None` if it needs no commit.
    flush_at: Option<Moment>,
    /// Reports since the last submission.
    unsubmitted: u32,
}

/// An agent's row in the open batch.
#[derive(Clone, Copy, Debug, Default)]
struct AgentRow {
    /// The agent's reference; an earlier agent of the slot had another one.
    reference: u64,
    /// The number of the last batch that has a row of the agent, and the row's index there.
    batch: u64,
    index: u32,
    /// Heartbeats that no batch counts yet.
    uncounted: u32,
    /// Whether the agent is in [`ReportLedger::unsaved`].
    unsaved: bool,
    /// Number of the agent's events in [`ReportLedger::deferred`].
    deferred_events: u32,
}

/// A change deferred until the store can be written again.
enum DeferredChange {
    Event(DeferredEvent),
    Removal {
        reference: u64,
        name: Option<Box<str>>,
        address: IpAddr,
    },
}

struct DeferredEvent {
    reference: u64,
    name: Option<Box<str>>,
    address: IpAddr,
    version: Box<str>,
    last_seen: UnixNanos,
    at: UnixNanos,
    online: bool,
    established: bool,
}

impl DeferredEvent {
    fn new(reference: u64, event: &store::EventRecord<&str>) -> Self {
        Self {
            reference,
            name: event.name.map(Box::from),
            address: event.address,
            version: event.version.into(),
            last_seen: event.last_seen,
            at: event.at,
            online: event.online,
            established: event.established,
        }
    }

    fn event(&self) -> store::EventRecord<&str> {
        store::EventRecord {
            name: self.name.as_deref(),
            address: self.address,
            version: &self.version,
            last_seen: self.last_seen,
            at: self.at,
            online: self.online,
            established: self.established,
        }
    }
}

impl ReportLedger {
    pub(super) fn new(producer: BatchProducer) -> Self {
        Self {
            producer,
            counted_before: StoreCounters::default(),
            rows: Vec::new(),
            unsaved: Vec::new(),
            rewrite: None,
            deferred: VecDeque::new(),
            lost: 0,
            flush_at: None,
            unsubmitted: 0,
        }
    }

    /// Returns since when agents have been waiting for a stalled commit.
    pub(super) fn stalled_since(&self, now: Moment) -> Option<Moment> {
        let since = self.producer.waiting_since();
        since.filter(|since| now.since(*since) >= STALLED)
    }

    fn is_stalled(&self, now: Moment) -> bool {
        self.stalled_since(now).is_some()
    }

    /// Appends a report to the open batch, and returns its number; `None` while the store is
    /// down.
    pub(super) fn append_report(
        &mut self,
        roster: &Roster,
        key: AgentKey,
        peer: SocketAddr,
        report: &hawk_wire::Report<'_>,
        (now, wall): (Moment, UnixNanos),
    ) -> Option<NonZeroU64> {
        let index = self.row(roster, key)?;
        self.flush_at.get_or_insert(now.after(FLUSH));
        let batch = self.producer.batch();
        batch.add_report(
            index,
            peer,
            &store::ReportRecord {
                received_at: wall,
                content: &report.content,
                rand: report.rand,
                timestamp: report.timestamp,
            },
        );
        let number = NonZeroU64::new(batch.number());
        self.unsubmitted += 1;
        if self.unsubmitted >= SUBMIT_EVERY && self.producer.in_flight() < MAX_IN_FLIGHT {
            self.submit(now);
        }
        number
    }

    /// Makes the writer commit the open batch for a health check, and returns its number;
    /// `None` while the store is down.
    pub(super) fn append_probe(&mut self, now: Moment) -> Option<NonZeroU64> {
        if self.producer.health() == Health::Down {
            return None;
        }
        self.flush_at.get_or_insert(now.after(FLUSH));
        let batch = self.producer.batch();
        batch.probe();
        NonZeroU64::new(batch.number())
    }

    /// Appends a heartbeat.
    pub(super) fn append_heartbeat(&mut self, roster: &Roster, key: AgentKey, now: Moment) {
        match self.row(roster, key) {
            Some(index) => {
                self.producer.batch().add_heartbeats(index, 1);
                self.flush_at.get_or_insert(now.after(FLUSH));
            }
            None => {
                let row = self.row_of(roster.reference(key));
                row.uncounted = row.uncounted.saturating_add(1);
            }
        }
    }

    /// Appends the change of state that the agent just made.
    pub(super) fn append_event(&mut self, roster: &Roster, key: AgentKey) {
        let Some(entry) = roster.get(key) else {
            return;
        };
        let event = event_of(entry);
        let reference = roster.reference(key);
        let index = self.row(roster, key);
        // Events are stored in their order: behind deferred ones.
        match index.filter(|_| self.deferred.is_empty()) {
            Some(index) => self
                .producer
                .batch()
                .add_event(reference, Some(index), &event),
            None if self.deferred.len() < MAX_DEFERRED => {
                self.row_of(reference).deferred_events += 1;
                if let Some(index) = index {
                    self.producer.batch().set_later_events(index, true);
                }
                let event = DeferredEvent::new(reference, &event);
                self.deferred.push_back(DeferredChange::Event(event));
            }
            None => self.lost += 1,
        }
    }

    /// Removes the row of an agent that is about to be removed from the roster.
    pub(super) fn remove_agent(&mut self, roster: &Roster, key: AgentKey) {
        let Some(entry) = roster.get(key) else {
            return;
        };
        let (reference, name) = (roster.reference(key), entry.name.as_deref());
        if self.producer.health() == Health::Up && self.deferred.is_empty() {
            let batch = self.producer.batch();
            batch.remove_agent(reference, name, entry.address);
        } else if self.deferred.len() < MAX_DEFERRED {
            self.deferred.push_back(DeferredChange::Removal {
                reference,
                name: name.map(Box::from),
                address: entry.address,
            });
        }
    }

    /// Returns the next completed commit. The writer keeps agents and events of a discarded
    /// batch.
    pub(super) fn next_completed(&mut self) -> Option<CompletedCommit> {
        let batch = self.producer.next_completed()?;
        let commit = NonZeroU64::new(batch.number()).map(CommitId);
        let fate = if batch.is_committed() {
            Fate::Kept
        } else {
            Fate::Discarded
        };
        self.producer.recycle(batch);
        commit.map(|commit| CompletedCommit { commit, fate })
    }

    /// Appends what was deferred while the store was down, as far as the batch has room, and
    /// all agents if the writer requests that.
    pub(super) fn catch_up(&mut self, roster: &Roster, wall: UnixNanos) {
        if let Some(rewrite) = self.producer.take_rewrite() {
            self.rewrite = Some(rewrite);
            for reference in roster.references() {
                self.mark_unsaved(roster, reference);
            }
        }
        while self.producer.health() == Health::Up && self.producer.is_ready() {
            if let Some(deferred) = self.deferred.pop_front() {
                self.append_deferred(roster, deferred);
            } else if let Some(reference) = self.unsaved.pop() {
                if let Some(key) = roster.resolve(reference) {
                    self.row(roster, key);
                }
            } else {
                if let Some(rewrite) = self.rewrite.take() {
                    self.producer.batch().complete_agents(wall, rewrite);
                }
                break;
            }
        }
        if self.lost > 0 && self.producer.health() == Health::Up {
            let lost = std::mem::take(&mut self.lost);
            log::warn!("events lost while the store was unavailable: {lost}");
        }
    }

    fn append_deferred(&mut self, roster: &Roster, deferred: DeferredChange) {
        match deferred {
            DeferredChange::Event(deferred) => {
                let identity = match &deferred.name {
                    Some(name) => Identity::Name(name),
                    None => Identity::Address(deferred.address),
                };
                // An agent of the same name may have come after it was removed: then the row
                // is that agent's.
                let key = roster.resolve(deferred.reference);
                if key.is_some() {
                    let row = self.row_of(deferred.reference);
                    row.deferred_events = row.deferred_events.saturating_sub(1);
                }
                let key = key.or_else(|| roster.find(identity));
                let index = key.and_then(|key| self.row(roster, key));
                let batch = self.producer.batch();
                batch.add_event(deferred.reference, index, &deferred.event());
            }
            DeferredChange::Removal {
                reference,
                name,
                address,
            } => {
                let identity = match &name {
                    Some(name) => Identity::Name(name),
                    None => Identity::Address(address),
                };
                // A new agent of the same identity has a row of its own.
                if roster.find(identity).is_none() {
                    let batch = self.producer.batch();
                    batch.remove_agent(reference, name.as_deref(), address);
                }
            }
        }
    }

    /// Submits the open batch if it is due.
    pub(super) fn submit_if_due(&mut self, now: Moment) {
        let Some(batch) = self.producer.current() else {
            return;
        };
        if batch.is_urgent() || self.flush_at.is_none_or(|flush_at| flush_at <= now) {
            self.submit(now);
        }
    }

    /// Returns when the ledger needs a turn without a packet. `quiet_since` is when the
    /// quiescing began, if it did.
    pub(super) fn deadline(&self, quiet_since: Option<Moment>, now: Moment) -> Option<Moment> {
        let flush_at = self.producer.current().and(self.flush_at);
        let stalled_at = match self.producer.waiting_since() {
            Some(_) if self.is_stalled(now) => None,
            since => since.map(|since| since.after(STALLED)),
        };
        let stuck_at = quiet_since.map(|since| since.after(STALLED));
        let stuck_at = stuck_at.filter(|stuck_at| *stuck_at > now);
        [flush_at, stalled_at, stuck_at].into_iter().flatten().min()
    }

    /// Submits everything, then parks the writer. Called in each turn, because not all may
    /// fit into one batch.
    pub(super) fn quiesce(&mut self, roster: &Roster, now: Moment, wall: UnixNanos) {
        self.catch_up(roster, wall);
        if self.producer.current().is_some() {
            self.submit(now);
        }
        if self.deferred.is_empty() && self.unsaved.is_empty() {
            self.producer.park();
        }
    }

    /// Returns whether everything is written and the writer is parked. The quiescing began
    /// at `since`.
    pub(super) fn is_quiet(&self, since: Moment, now: Moment) -> Result<bool, StoreDown> {
        if self.producer.health() == Health::Down {
            return Err(StoreDown::Unavailable);
        }
        let nothing_left = self.deferred.is_empty() && self.unsaved.is_empty();
        if nothing_left && self.producer.is_parked() {
            return Ok(true);
        }
        // The writer may hang in something other than a batch.
        let is_stuck = self.producer.in_flight() == 0 && now.since(since) >= STALLED;
        if is_stuck || self.is_stalled(now) {
            return Err(StoreDown::Stalled);
        }
        Ok(false)
    }

    /// Returns the store's counters since the first start.
    pub(super) fn counters(&self) -> StoreCounters {
        self.producer.counters().after(self.counted_before)
    }

    /// Waits until every batch is committed or discarded, for `patience` at most.
    pub(super) fn flush(&mut self, now: Moment, patience: Duration) {
        const LOOK_AGAIN: Duration = Duration::from_millis(1);
        self.producer.submit(now);
        let deadline = Moment::now().after(patience);
        while self.producer.in_flight() > 0 && Moment::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
            self.producer.collect(Moment::now());
        }
    }

    pub(super) fn finish(self, now: Moment, patience: Duration) -> Result<(), Unfinished> {
        match self.producer.finish(now, patience) {
            true => Ok(()),
            false => Err(Unfinished(patience)),
        }
    }

    pub(super) fn statistics(&self, now: Moment) -> StoreStatistics {
        StoreStatistics {
            state: match self.producer.health() {
                Health::Down => StoreState::Down,
                Health::Up if self.is_stalled(now) => StoreState::Stalled,
                Health::Up => StoreState::Up,
            },
            counters: self.counters(),
        }
    }

    /// Brings the agent's row in the open batch up to date, and returns its index. `None`
    /// while the store is down: the row is written later.
    fn row(&mut self, roster: &Roster, key: AgentKey) -> Option<AgentIndex> {
        let reference = roster.reference(key);
        if self.producer.health() == Health::Down {
            self.mark_unsaved(roster, reference);
            return None;
        }
        let agent = agent_of(roster.get(key)?);
        let number = self.producer.batch().number();
        let row = self.row_of(reference);
        row.unsaved = false;
        let has_later_events = row.deferred_events > 0;
        if row.batch == number {
            let index = AgentIndex(row.index);
            let batch = self.producer.batch();
            batch.update_agent(index, &agent);
            batch.set_later_events(index, has_later_events);
            return Some(index);
        }
        let uncounted = std::mem::take(&mut row.uncounted);
        let batch = self.producer.batch();
        let index = batch.add_agent(reference, &agent);
        batch.add_heartbeats(index, uncounted);
        batch.set_later_events(index, has_later_events);
        let row = self.row_of(reference);
        (row.batch, row.index) = (number, index.0);
        Some(index)
    }

    fn mark_unsaved(&mut self, roster: &Roster, reference: u64) {
        if !std::mem::replace(&mut self.row_of(reference).unsaved, true) {
            if self.unsaved.len() >= 2 * roster.len() {
                // Some of these agents were removed.
                self.unsaved
                    .retain(|other| roster.resolve(*other).is_some());
            }
            self.unsaved.push(reference);
        }
    }

    /// Returns the row of the agent with this reference.
    fn row_of(&mut self, reference: u64) -> &mut AgentRow {
        let slot = slot(reference);
        if slot >= self.rows.len() {
            self.rows.resize(slot + 1, AgentRow::default());
        }
        let row = &mut self.rows[slot];
        if row.reference != reference {
            *row = AgentRow {
                reference,
                ..AgentRow::default()
            };
        }
        row
    }

    fn submit(&mut self, now: Moment) {
        self.flush_at = None;
        self.unsubmitted = 0;
        self.producer.submit(now);
    }
}

/// Returns the roster slot of an agent's reference.
fn slot(reference: u64) -> usize {
    // The lower half is the key.
    #[expect(clippy::cast_possible_truncation)]
    let number = reference as u32;
    (number as usize).saturating_sub(1)
}

/// Returns an agent as the store keeps it.
fn agent_of(entry: &Entry) -> store::AgentRecord<&str> {
    let nanos = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    store::AgentRecord {
        name: entry.name.as_deref(),
        address: entry.address,
        version: &entry.version,
        first_seen: entry.first_seen,
        last_seen: entry.last_seen,
        online: entry.online,
        changed_at: entry.changed_at,
        interval: nanos(entry.interval()),
        hours: Some(entry.hours()),
        last_hour: entry.last_hour(),
        watched: entry.watched,
        report_interval: nanos(entry.report_interval()),
        cloned_at: entry.cloned_at().map_or(0, UnixNanos::as_nanos),
    }
}

/// Returns the last change of an agent's state as the store keeps it.
fn event_of(entry: &Entry) -> store::EventRecord<&str> {
    store::EventRecord {
        name: entry.name.as_deref(),
        address: entry.address,
        version: &entry.version,
        last_seen: entry.last_seen,
        at: entry.changed_at,
        online: entry.online,
        established: entry.is_established(),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use super::*;
    use crate::roster;
    use crate::store::{Lane, Reader, Retention, Store};
    use hawk_time::Clock;

    const NOW: Moment = Moment::from_nanos(1);
    const WALL: UnixNanos = UnixNanos::from_nanos(7);

    /// Writes the agent "web-01" to the store at `path`: its row, or a change of its state behind
    /// an event of another agent that was deferred.
    fn write(path: &Path, online: bool, is_change: bool) {
        let config = roster::Config {
            offline_after: None,
            start_grace: Duration::ZERO,
            capacity: 9,
        };
        let mut roster = Roster::new(config, NOW);
        let address = [10, 0, 0, 7].into();
        let mut entry = Entry::new(Identity::Name("web-01"), address, NOW, WALL);
        entry.online = online;
        let key = roster.insert(entry, NOW);
        let store = Store::open(path).unwrap();
        let (producer, writer) = store.with_inline_writer(Retention::UNLIMITED, Clock::System);
        let mut ledger = ReportLedger::new(producer);
        let mut turns = 0..3;
        writer.run(|_| {
            ledger.producer.collect(NOW);
            while ledger.next_completed().is_some() {}
            match turns.next() {
                Some(0) if is_change => {
                    let other = DeferredEvent {
                        reference: 0,
                        name: Some("other".into()),
                        address,
                        version: "".into(),
                        last_seen: WALL,
                        at: WALL,
                        online,
                        established: false,
                    };
                    ledger.deferred.push_back(DeferredChange::Event(other));
                    ledger.append_event(&roster, key);
                    ledger.append_heartbeat(&roster, key, NOW);
                }
                Some(0) => drop(ledger.row(&roster, key)),
                Some(1) => ledger.catch_up(&roster, WALL),
                _ => return ControlFlow::Break(()),
            }
            ledger.submit(NOW);
            ControlFlow::Continue(())
        });
    }

    #[test]
    fn a_change_behind_deferred_events_is_one_event() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hawk.db");
        write(&path, false, false);
        write(&path, true, true);
        let reader = Reader::open(path).unwrap();
        let (events, _) = reader.notices(Lane::Others, 0, 9).unwrap();
        let names: Vec<_> = events.iter().map(|event| event.name.as_deref()).collect();
        assert_eq!(names, [Some("other"), Some("web-01")]);
    }
}
