//! What goes into the store, batch by batch, and what comes of it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::time::Duration;

use super::HandlerState;
use crate::roster::{AgentKey, Entry, Identity, Roster};
use crate::session::{CommitId, CompletedCommit, Fate, Wake};
use crate::stats::{StoreCounters, StoreState, StoreStatistics};
use crate::store::{self, AgentIndex, BatchProducer, Health};
use hawk_time::{Moment, UnixNanos};

/// What is known of agents is written together with reports, or this long after
/// it has changed: heartbeats alone cost a commit a second, however many.
const FLUSH: Duration = Duration::from_secs(1);

/// The store takes its time; beyond this, agents that wait for it are not blamed
/// for their silence.
const STALLED: Duration = Duration::from_secs(1);

/// After so many reports the writer may begin, even though the turn has more:
/// otherwise it would stand idle while a turn is read, and the turn's end would
/// find it with all the work ahead. So many cost it less than their sync.
const OFFER_EVERY: u32 = 256;

/// Not while so many batches are away: a turn may be long, and what the writer
/// is done with is collected after it. It bounds the memory.
const MOST_AWAY: u32 = 3;

/// Events that wait for the store to come back, at most: some 10 MB of memory, or 30 MB
/// if all names and versions are as long as they may be.
const MAX_WAITING: usize = 100_000;

/// The store did not finish in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store did not finish in {}: what was not acknowledged may be missing",
    humantime::format_duration(*.0)
)]
pub struct Unfinished(Duration);

/// Why not everything can be on disk now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreDown {
    /// It cannot be written.
    #[error("the store is unavailable; the log says why")]
    Unavailable,
    /// It takes its time.
    #[error(
        "the store has not answered for {} or longer; see what its disk does",
        humantime::format_duration(STALLED)
    )]
    Stalled,
}

/// Fills batches, and learns what became of them.
pub(super) struct Books {
    producer: BatchProducer,
    /// What was done before `producer` was there.
    before: StoreCounters,
    /// What the batches have of each agent, by its slot in the roster.
    marks: Vec<Mark>,
    /// Agents whose rows were not written because the store is down.
    unsaved: Vec<u64>,
    /// Events likewise, and removals of agents, oldest first.
    waiting: VecDeque<Waiting>,
    /// Events that there was no room for.
    lost: u64,
    /// When what is known of agents is to be written at the latest.
    flush_at: Option<Moment>,
    /// Reports since the writer was last offered any.
    not_offered: u32,
}

/// What the batches have of an agent.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    /// The agent's reference; another one is of an agent that had the slot before.
    reference: u64,
    /// The number of the last batch with a row of the agent, and where it stands there.
    batch: u64,
    index: u32,
    /// Heartbeats that no batch counts yet.
    uncounted: u32,
    /// The agent is in [`Books::unsaved`].
    unsaved: bool,
}

/// A change that waits for the store to come back.
enum Waiting {
    Event(WaitingEvent),
    Removal {
        reference: u64,
        name: Option<Box<str>>,
        address: IpAddr,
    },
}

struct WaitingEvent {
    reference: u64,
    name: Option<Box<str>>,
    address: IpAddr,
    version: Box<str>,
    last_seen: UnixNanos,
    at: UnixNanos,
    online: bool,
    established: bool,
}

impl WaitingEvent {
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

impl Books {
    pub(super) fn new(producer: BatchProducer) -> Self {
        Self {
            producer,
            before: StoreCounters::default(),
            marks: Vec::new(),
            unsaved: Vec::new(),
            waiting: VecDeque::new(),
            lost: 0,
            flush_at: None,
            not_offered: 0,
        }
    }

    /// Goes on after another process.
    pub(super) fn go_on_after(&mut self, state: &HandlerState) {
        self.before = state.store;
    }

    pub(super) fn wake_with(&self, wake: Wake) {
        self.producer.wake_with(move || wake.wake());
    }

    /// Looks for what came back.
    pub(super) fn collect(&mut self, now: Moment) {
        self.producer.collect(now);
    }

    /// Since when agents have been waiting for the store, if for long.
    pub(super) fn stalled_since(&self, now: Moment) -> Option<Moment> {
        let since = self.producer.waiting_since();
        since.filter(|since| now.since(*since) >= STALLED)
    }

    fn is_stalled(&self, now: Moment) -> bool {
        self.stalled_since(now).is_some()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.producer.is_ready()
    }

    /// Has a report kept; in which batch. `None`: the store is down.
    pub(super) fn enter_report(
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
        self.not_offered += 1;
        if self.not_offered >= OFFER_EVERY && self.producer.in_flight() < MOST_AWAY {
            self.offer(now);
        }
        number
    }

    /// Makes the writer commit the current batch for a health check, and returns the batch's
    /// number. `None`: the store is down.
    pub(super) fn enter_probe(&mut self, now: Moment) -> Option<NonZeroU64> {
        if self.producer.health() == Health::Down {
            return None;
        }
        self.flush_at.get_or_insert(now.after(FLUSH));
        let batch = self.producer.batch();
        batch.probe();
        NonZeroU64::new(batch.number())
    }

    /// Notes a heartbeat.
    pub(super) fn enter_heartbeat(&mut self, roster: &Roster, key: AgentKey, now: Moment) {
        match self.row(roster, key) {
            Some(index) => {
                self.producer.batch().add_heartbeats(index, 1);
                self.flush_at.get_or_insert(now.after(FLUSH));
            }
            None => {
                let mark = self.mark(roster.reference(key));
                mark.uncounted = mark.uncounted.saturating_add(1);
            }
        }
    }

    /// Notes that the agent's state has just changed.
    pub(super) fn enter_event(&mut self, roster: &Roster, key: AgentKey) {
        let Some(entry) = roster.get(key) else {
            return;
        };
        let event = event_of(entry);
        let reference = roster.reference(key);
        let index = self.row(roster, key);
        // Events are stored in their order: behind waiting events.
        match index.filter(|_| self.waiting.is_empty()) {
            Some(index) => self
                .producer
                .batch()
                .add_event(reference, Some(index), &event),
            None if self.waiting.len() < MAX_WAITING => {
                let event = WaitingEvent::new(reference, &event);
                self.waiting.push_back(Waiting::Event(event));
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
        if self.producer.health() == Health::Up && self.waiting.is_empty() {
            let batch = self.producer.batch();
            batch.remove_agent(reference, name, entry.address);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(Waiting::Removal {
                reference,
                name: name.map(Box::from),
                address: entry.address,
            });
        }
    }

    /// The next batch that is over, and what follows from that. What a discarded batch has
    /// of agents and events stays with the writer.
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

    /// Once the store is back: writes what it has missed, as much as there is
    /// room for. Another file is to have all agents as they are.
    pub(super) fn catch_up(&mut self, roster: &Roster) {
        if self.producer.take_file_replaced() {
            for reference in roster.references() {
                self.leave_unsaved(roster, reference);
            }
        }
        while self.producer.health() == Health::Up && self.producer.is_ready() {
            if let Some(waiting) = self.waiting.pop_front() {
                self.enter_waiting(roster, waiting);
            } else if let Some(reference) = self.unsaved.pop() {
                if let Some(key) = roster.resolve(reference) {
                    self.row(roster, key);
                }
            } else {
                break;
            }
        }
        if self.lost > 0 && self.producer.health() == Health::Up {
            let lost = std::mem::take(&mut self.lost);
            log::warn!("events lost while the store was unavailable: {lost}");
        }
    }

    fn enter_waiting(&mut self, roster: &Roster, waiting: Waiting) {
        match waiting {
            Waiting::Event(waiting) => {
                let identity = match &waiting.name {
                    Some(name) => Identity::Name(name),
                    None => Identity::Address(waiting.address),
                };
                // An agent of the same name may have come after it was removed: then the row
                // is that agent's.
                let key = roster.resolve(waiting.reference);
                let key = key.or_else(|| roster.find(identity));
                let index = key.and_then(|key| self.row(roster, key));
                let batch = self.producer.batch();
                batch.add_event(waiting.reference, index, &waiting.event());
            }
            Waiting::Removal {
                reference,
                name,
                address,
            } => {
                let identity = match &name {
                    Some(name) => Identity::Name(name),
                    None => Identity::Address(address),
                };
                // It may have been met again meanwhile: then the row is its own.
                if roster.find(identity).is_none() {
                    let batch = self.producer.batch();
                    batch.remove_agent(reference, name.as_deref(), address);
                }
            }
        }
    }

    /// Offers the writer what there is, if it is time.
    pub(super) fn hand_over(&mut self, now: Moment) {
        let Some(batch) = self.producer.current() else {
            return;
        };
        if batch.is_urgent() || self.flush_at.is_none_or(|flush_at| flush_at <= now) {
            self.offer(now);
        }
    }

    /// When there is something to do without a packet. All is to be settled since
    /// `quiet_since`, if at all.
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

    /// Has everything written, and then nothing more; to be asked for again in each
    /// turn, for not all of it may fit into one batch.
    pub(super) fn settle_down(&mut self, roster: &Roster, now: Moment) {
        self.catch_up(roster);
        if self.producer.current().is_some() {
            self.offer(now);
        }
        if self.waiting.is_empty() && self.unsaved.is_empty() {
            self.producer.park();
        }
    }

    /// Whether everything is written and nothing more will be, as has been wanted since
    /// `since`.
    pub(super) fn is_settled_down(&self, since: Moment, now: Moment) -> Result<bool, StoreDown> {
        if self.producer.health() == Health::Down {
            return Err(StoreDown::Unavailable);
        }
        let nothing_left = self.waiting.is_empty() && self.unsaved.is_empty();
        if nothing_left && self.producer.is_parked() {
            return Ok(true);
        }
        // It may hang in something other than a batch.
        let is_stuck = self.producer.in_flight() == 0 && now.since(since) >= STALLED;
        if is_stuck || self.is_stalled(now) {
            return Err(StoreDown::Stalled);
        }
        Ok(false)
    }

    /// Has writing go on.
    pub(super) fn go_on(&self) {
        self.producer.unpark();
    }

    /// The right to write, to be shared with the process that goes on.
    pub(super) fn lock(&self) -> &store::Lock {
        self.producer.lock()
    }

    /// What was done in all.
    pub(super) fn counters(&self) -> StoreCounters {
        self.producer.counters().after(self.before)
    }

    /// Passes on that the operator says that the clock is right.
    pub(super) fn confirm_clock(&self) {
        self.producer.confirm_clock();
    }

    /// Leaves the file as it is; false if that takes longer than `patience`.
    pub(super) fn leave(self, patience: Duration) -> bool {
        self.producer.leave(patience)
    }

    /// Waits until everything that was entered is committed or discarded, for `patience` at
    /// most.
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

    /// The agent's row in the batch at hand, up to date. `None`: the store is
    /// down, and the row is written when it is back.
    fn row(&mut self, roster: &Roster, key: AgentKey) -> Option<AgentIndex> {
        let reference = roster.reference(key);
        if self.producer.health() == Health::Down {
            self.leave_unsaved(roster, reference);
            return None;
        }
        let agent = agent_of(roster.get(key)?);
        let number = self.producer.batch().number();
        let mark = self.mark(reference);
        mark.unsaved = false;
        if mark.batch == number {
            let index = AgentIndex(mark.index);
            self.producer.batch().update_agent(index, &agent);
            return Some(index);
        }
        let uncounted = std::mem::take(&mut mark.uncounted);
        let batch = self.producer.batch();
        let index = batch.add_agent(reference, &agent);
        batch.add_heartbeats(index, uncounted);
        let mark = self.mark(reference);
        (mark.batch, mark.index) = (number, index.0);
        Some(index)
    }

    fn leave_unsaved(&mut self, roster: &Roster, reference: u64) {
        if !std::mem::replace(&mut self.mark(reference).unsaved, true) {
            if self.unsaved.len() >= 2 * roster.len() {
                // Agents that were removed meanwhile.
                self.unsaved
                    .retain(|other| roster.resolve(*other).is_some());
            }
            self.unsaved.push(reference);
        }
    }

    /// What the batches have of the agent with this reference.
    fn mark(&mut self, reference: u64) -> &mut Mark {
        let slot = slot(reference);
        if slot >= self.marks.len() {
            self.marks.resize(slot + 1, Mark::default());
        }
        let mark = &mut self.marks[slot];
        if mark.reference != reference {
            *mark = Mark {
                reference,
                ..Mark::default()
            };
        }
        mark
    }

    fn offer(&mut self, now: Moment) {
        self.flush_at = None;
        self.not_offered = 0;
        self.producer.submit(now);
    }
}

/// The slot of the agent with this reference.
fn slot(reference: u64) -> usize {
    // The lower half is its key.
    #[expect(clippy::cast_possible_truncation)]
    let number = reference as u32;
    (number as usize).saturating_sub(1)
}

/// What the store keeps of an agent.
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

/// What the store keeps of the last change of an agent's state.
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
