//! How batches pass between the reactor thread and the writer thread.
//!
//! The reactor thread fills a batch through a [`BatchProducer`] while the writer commits
//! another. Both share a [`BatchSlot`] and lock it only to move pointers, so neither waits for
//! the other's work. The writer takes the submitted batch as soon as it has committed the one
//! before; the reactor need not be awake for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::{Batch, Lock};
use crate::stats::StoreCounters;
use hawk_time::Moment;

/// Whether reports can be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// No failure is known.
    #[default]
    Up,
    /// The last attempt failed, and none has succeeded since.
    Down,
}

/// The reactor's end: fills batches, submits them, and collects them after their commit.
pub struct BatchProducer {
    slot: Arc<BatchSlot>,
    /// The right to write the store, shared with the writer.
    lock: Arc<Lock>,
    /// The current batch; `None` until something is added in this turn.
    current: Option<Batch>,
    /// Number of the last submitted batch, and whether it was full.
    submitted: (u64, bool),
    /// Completed batches that the caller has not taken yet, in order.
    completed: Vec<Batch>,
    /// Empty batches, kept for their memory.
    blank: Vec<Batch>,
    next_number: u64,
    /// Number of batches that were submitted and not yet collected.
    in_flight: u32,
    /// Time of the last sign of life of the writer while batches are in flight.
    waiting_since: Option<Moment>,
    health: Health,
    /// The number of a requested rewrite that was not taken yet.
    requested_rewrite: Option<u64>,
}

impl BatchProducer {
    pub(super) fn new(slot: Arc<BatchSlot>, lock: Arc<Lock>) -> Self {
        Self {
            slot,
            lock,
            current: None,
            submitted: (0, false),
            completed: Vec::new(),
            blank: Vec::new(),
            next_number: 1,
            in_flight: 0,
            waiting_since: None,
            health: Health::Up,
            requested_rewrite: None,
        }
    }

    /// Calls `wake` whenever a batch is completed or the health changes. The first call counts.
    pub fn wake_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _first_counts = self.slot.wake.set(Box::new(wake));
    }

    /// Whether the current batch takes more. False while a full batch waits for the writer.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.current {
            Some(batch) => !batch.is_full(),
            None => !self.submitted.1 || self.is_submitted_taken(),
        }
    }

    /// Returns the current batch. Takes the submitted batch back if the writer has not taken
    /// it, otherwise begins a batch.
    pub fn batch(&mut self) -> &mut Batch {
        let batch = match self.current.take() {
            Some(batch) => batch,
            None => self.take_back().unwrap_or_else(|| {
                let mut batch = self.blank.pop().unwrap_or_default();
                batch.reset(self.next_number);
                self.next_number += 1;
                batch
            }),
        };
        self.current.insert(batch)
    }

    /// Returns the current batch if it was begun.
    #[must_use]
    pub const fn current(&self) -> Option<&Batch> {
        self.current.as_ref()
    }

    /// Submits the current batch to the writer.
    pub fn submit(&mut self, now: Moment) {
        let Some(batch) = self.current.take() else {
            return;
        };
        self.submitted = (batch.number(), batch.is_full());
        if self.in_flight == 0 {
            self.waiting_since = Some(now);
        }
        self.in_flight += 1;
        let mut state = self.slot.state();
        debug_assert!(state.submitted.is_none(), "one batch at a time");
        state.submitted = Some(batch);
        let is_idle = std::mem::take(&mut state.is_idle);
        // Unlocked first: the writer needs the lock as soon as it wakes.
        drop(state);
        if is_idle {
            self.slot.writer_wake.notify_all();
        }
    }

    /// Returns the number of batches that were submitted and not yet collected.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Collects completed batches, for [`next_completed`](Self::next_completed).
    pub fn collect(&mut self, now: Moment) {
        if !self.slot.has_news.swap(false, Ordering::AcqRel) {
            return;
        }
        let before = self.completed.len();
        let mut state = self.slot.state();
        self.completed.append(&mut state.completed);
        self.health = state.health;
        self.requested_rewrite = state.requested_rewrite.take().or(self.requested_rewrite);
        drop(state);
        let back = u32::try_from(self.completed.len() - before).unwrap_or(u32::MAX);
        if back > 0 {
            self.in_flight = self.in_flight.saturating_sub(back);
            self.waiting_since = (self.in_flight > 0).then_some(now);
        }
    }

    /// Returns the next completed batch, in the order of submission. The caller gives it back
    /// with [`recycle`](Self::recycle).
    pub fn next_completed(&mut self) -> Option<Batch> {
        (!self.completed.is_empty()).then(|| self.completed.remove(0))
    }

    /// Keeps the memory of a completed batch.
    pub fn recycle(&mut self, batch: Batch) {
        self.blank.push(batch);
    }

    /// Returns the number of a rewrite of all agents that the writer has requested since the last
    /// call: it opened another file, because the file before was moved, removed or replaced, or
    /// it failed before all agents were in that file.
    pub const fn take_rewrite(&mut self) -> Option<u64> {
        self.requested_rewrite.take()
    }

    /// Returns the health of the store as of the last [`collect`](Self::collect).
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Returns the time since which batches are in flight and none was completed.
    #[must_use]
    pub const fn waiting_since(&self) -> Option<Moment> {
        self.waiting_since
    }

    /// Returns the writer's counters.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.slot.counters()
    }

    /// Confirms to the writer that the clock is right.
    pub fn confirm_clock(&self) {
        self.slot.state().is_clock_confirmed = true;
    }

    /// Commits everything that was added, and ends the writer; false if that takes longer than
    /// `patience`.
    #[must_use]
    pub fn finish(mut self, now: Moment, patience: Duration) -> bool {
        self.submit(now);
        self.slot.end_writer(Stop::Finish, patience)
    }

    /// Returns the right to write, for the successor process.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Parks the writer after the submitted batch commits: it then removes nothing and leaves
    /// the log as it is. A batch that is submitted later is still committed.
    pub fn park(&self) {
        self.slot.set_park(true);
    }

    /// Resumes the writer after [`park`](Self::park).
    pub fn unpark(&self) {
        self.slot.set_park(false);
    }

    /// Whether the writer is parked and all batches were collected and taken.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        let all_back = self.current.is_none() && self.in_flight == 0 && self.completed.is_empty();
        all_back && self.slot.state().is_parked
    }

    /// Ends the writer and leaves the file as it is, to the successor process. Drops batches
    /// that are not committed. False if that takes longer than `patience`.
    #[must_use]
    pub fn leave(self, patience: Duration) -> bool {
        self.slot.end_writer(Stop::Leave, patience)
    }

    fn is_submitted_taken(&self) -> bool {
        self.slot.taken.load(Ordering::Acquire) >= self.submitted.0
    }

    /// Takes the submitted batch back if the writer has not taken it.
    fn take_back(&mut self) -> Option<Batch> {
        if self.is_submitted_taken() {
            return None;
        }
        let batch = self.slot.state().submitted.take()?;
        self.in_flight -= 1;
        Some(batch)
    }
}

/// The state that the reactor thread and the writer thread share.
#[derive(Default)]
pub(super) struct BatchSlot {
    state: Mutex<SlotState>,
    /// Notified when the writer has something to do, and when it ends.
    writer_wake: Condvar,
    /// Number of the last batch that the writer took.
    taken: AtomicU64,
    /// Whether the reactor has something to collect.
    has_news: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct SlotState {
    submitted: Option<Batch>,
    completed: Vec<Batch>,
    health: Health,
    counters: StoreCounters,
    /// The writer waits on `writer_wake`.
    is_idle: bool,
    /// The writer has work other than a batch.
    is_nudged: bool,
    /// Number of rewrites of all agents that were requested.
    rewrites: u64,
    /// The number of the last, if the reactor has not collected it.
    requested_rewrite: Option<u64>,
    /// The operator confirmed the clock.
    is_clock_confirmed: bool,
    /// The writer parks once the submitted batch is committed.
    park: bool,
    /// The writer is parked.
    is_parked: bool,
    stop: Option<Stop>,
    /// All batches are committed, and the writer only closes the file.
    is_committed: bool,
    has_ended: bool,
}

/// How the writer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// After it has committed everything and moved the log into the file.
    Finish,
    /// At once, and without touching the file: the successor process writes it.
    Leave,
}

/// The writer's next task.
pub(super) enum Next {
    /// Commit this batch.
    Batch(Batch),
    /// No batch was submitted within the given time.
    Nothing,
    /// Park: see [`BatchSlot::park_writer`].
    Park,
    /// End.
    Stop(Stop),
}

impl BatchSlot {
    fn state(&self) -> MutexGuard<'_, SlotState> {
        // A thread that panics with the lock leaves whole values behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counters(&self) -> StoreCounters {
        self.state().counters
    }

    /// Wakes the writer for work other than a batch.
    pub(super) fn nudge(&self) {
        self.state().is_nudged = true;
        self.writer_wake.notify_all();
    }

    pub(super) fn set_park(&self, park: bool) {
        self.state().park = park;
        self.writer_wake.notify_all();
    }

    /// Ends the writer and waits for its end; false if it takes longer than `patience` to
    /// commit its batches. An interruption after that loses nothing.
    fn end_writer(&self, how: Stop, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        state.stop = Some(how);
        self.writer_wake.notify_all();
        while !state.has_ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return state.is_committed;
            }
            let waited = self.writer_wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Publishes the writer's state, and completes a batch.
    pub(super) fn complete(&self, batch: Option<Batch>, health: Health, counters: StoreCounters) {
        let mut state = self.state();
        let is_news = batch.is_some() || state.health != health;
        state.completed.extend(batch);
        state.health = health;
        state.counters = counters;
        drop(state);
        if is_news {
            self.wake_reactor();
        }
    }

    /// Returns the writer's next task; waits for at most `patience`.
    pub(super) fn take(&self, patience: Duration) -> Next {
        let deadline = Instant::now() + patience;
        let mut state = self.state();
        loop {
            if state.stop == Some(Stop::Leave) {
                return Next::Stop(Stop::Leave);
            }
            if let Some(batch) = state.submitted.take() {
                self.taken.store(batch.number(), Ordering::Release);
                drop(state);
                if batch.is_full() {
                    // The reactor may have stopped reading until a full batch is taken.
                    self.wake_reactor();
                }
                return Next::Batch(batch);
            }
            if let Some(how) = state.stop {
                return Next::Stop(how);
            }
            if state.park {
                return Next::Park;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if std::mem::take(&mut state.is_nudged) || left.is_zero() {
                return Next::Nothing;
            }
            state.is_idle = true;
            let waited = self.writer_wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            state.is_idle = false;
        }
    }

    /// Requests a rewrite of all agents: the file lacks some of them.
    pub(super) fn request_rewrite(&self) {
        let mut state = self.state();
        state.rewrites += 1;
        state.requested_rewrite = Some(state.rewrites);
    }

    /// Returns the number of the last requested rewrite; 0 before the first.
    pub(super) fn last_rewrite(&self) -> u64 {
        self.state().rewrites
    }

    /// Whether the clock was confirmed since the last call.
    pub(super) fn take_confirmation(&self) -> bool {
        std::mem::take(&mut self.state().is_clock_confirmed)
    }

    /// Parks the writer until it is resumed, a batch is submitted or a stop is ordered. True
    /// if the writer may touch the file again.
    pub(super) fn park_writer(&self) -> bool {
        self.state().is_parked = true;
        self.wake_reactor();
        let mut state = self.state();
        while state.park && state.submitted.is_none() && state.stop.is_none() {
            let waited = self.writer_wake.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state.is_parked = false;
        // It may have to park again, after the submitted batch.
        (!state.park || state.submitted.is_some()) && state.stop != Some(Stop::Leave)
    }

    /// Notes that all batches are committed.
    pub(super) fn note_committed(&self) {
        self.state().is_committed = true;
    }

    /// Notes the end of the writer.
    pub(super) fn end(&self) {
        self.state().has_ended = true;
        self.writer_wake.notify_all();
    }

    fn wake_reactor(&self) {
        self.has_news.store(true, Ordering::Release);
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{AgentRecord, ReportRecord};
    use hawk_time::UnixNanos;

    const NOW: Moment = Moment::from_nanos(1);

    /// Returns both ends, on one thread.
    fn both() -> (BatchProducer, Arc<BatchSlot>) {
        let slot = Arc::new(BatchSlot::default());
        let folder = tempfile::tempdir().unwrap();
        let lock = Arc::new(Lock::take(&folder.path().join("hawk.db")).unwrap());
        (BatchProducer::new(Arc::clone(&slot), lock), slot)
    }

    fn add_report(batch: &mut Batch) {
        let time = UnixNanos::from_nanos(1);
        let agent = AgentRecord {
            version: "",
            ..AgentRecord::sample(None, time)
        };
        let index = batch.add_agent(1, &agent);
        let report = ReportRecord::sample(time);
        batch.add_report(index, ([10, 0, 0, 7], 1).into(), &report);
    }

    fn take(slot: &BatchSlot) -> Batch {
        match slot.take(Duration::ZERO) {
            Next::Batch(batch) => batch,
            _ => panic!("no batch is submitted"),
        }
    }

    fn complete(slot: &BatchSlot, batch: Batch, health: Health) {
        slot.complete(Some(batch), health, StoreCounters::default());
    }

    #[test]
    fn a_batch_is_filled_until_the_writer_takes_it() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        producer.submit(NOW);
        assert_eq!(producer.batch().number(), 1, "the writer has not taken it");
        add_report(producer.batch());
        producer.submit(NOW);
        let first = take(&slot);
        assert_eq!(first.reports.len(), 2);
        add_report(producer.batch());
        assert_eq!(producer.batch().number(), 2);
        producer.submit(NOW);
        complete(&slot, first, Health::Up);
        let second = take(&slot);
        complete(&slot, second, Health::Down);
        producer.collect(NOW);
        let done = std::iter::from_fn(|| producer.next_completed().map(|batch| batch.number()));
        assert_eq!(done.collect::<Vec<_>>(), [1, 2]);
        assert_eq!(producer.health(), Health::Down);
    }

    #[test]
    fn no_batch_is_begun_while_a_full_batch_waits() {
        let (mut producer, slot) = both();
        while producer.is_ready() {
            add_report(producer.batch());
        }
        producer.submit(NOW);
        assert!(!producer.is_ready());
        let full = take(&slot);
        assert!(producer.is_ready(), "the next batch can be filled");
        add_report(producer.batch());
        complete(&slot, full, Health::Up);
    }

    #[test]
    fn the_time_of_the_wait_for_the_writer_is_reported() {
        let (mut producer, slot) = both();
        assert_eq!(producer.waiting_since(), None);
        add_report(producer.batch());
        producer.submit(NOW);
        let later = NOW.after(Duration::from_secs(5));
        producer.collect(later);
        assert_eq!(producer.waiting_since(), Some(NOW));
        let batch = take(&slot);
        add_report(producer.batch());
        producer.submit(later);
        complete(&slot, batch, Health::Up);
        producer.collect(later);
        assert_eq!(producer.waiting_since(), Some(later), "for the second");
        complete(&slot, take(&slot), Health::Up);
        producer.collect(later);
        assert_eq!(producer.waiting_since(), None);
    }

    #[test]
    fn the_memory_of_a_batch_is_reused() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        producer.submit(NOW);
        complete(&slot, take(&slot), Health::Up);
        producer.collect(NOW);
        let batch = producer.next_completed().unwrap();
        let room = batch.reports.capacity();
        producer.recycle(batch);
        assert!(producer.batch().is_empty());
        assert_eq!(producer.batch().number(), 2);
        assert_eq!(producer.batch().reports.capacity(), room);
    }

    #[test]
    fn finish_submits_the_current_batch() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        let writer = std::thread::spawn(move || {
            let mut taken = 0;
            loop {
                match slot.take(Duration::from_secs(60)) {
                    Next::Batch(batch) => {
                        taken += batch.reports.len();
                        complete(&slot, batch, Health::Up);
                    }
                    Next::Nothing | Next::Park => panic!("no stop was ordered"),
                    Next::Stop(how) => break assert_eq!(how, Stop::Finish),
                }
            }
            slot.end();
            taken
        });
        assert!(producer.finish(NOW, Duration::from_secs(60)));
        assert_eq!(writer.join().unwrap(), 1);
        // Without a writer.
        assert!(!both().0.finish(NOW, Duration::ZERO));
    }
}
