//! The reactor's half of the store: fills batches and gets them back.

use std::sync::Arc;
use std::time::Duration;

use super::slot::{BatchSlot, Stop};
use super::{Batch, Health, Lock};
use crate::stats::StoreCounters;
use hawk_time::Moment;

/// Fills one batch while the writer commits another.
pub struct BatchProducer {
    slot: Arc<BatchSlot>,
    /// The right to write, which the writer holds with it.
    lock: Arc<Lock>,
    /// The batch at hand, taken back or begun in this turn.
    filling: Option<Batch>,
    /// The last batch that was handed over.
    offered: Offered,
    /// What came back and was not collected yet, in its order.
    done: Vec<Batch>,
    /// Empty batches, kept for their memory.
    blank: Vec<Batch>,
    next_number: u64,
    /// Batches that are neither filling nor back.
    in_flight: u32,
    /// Since when the writer owes us one without a word.
    waiting_since: Option<Moment>,
    health: Health,
    is_file_replaced: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Offered {
    number: u64,
    full: bool,
}

impl BatchProducer {
    pub(super) fn new(slot: Arc<BatchSlot>, lock: Arc<Lock>) -> Self {
        Self {
            slot,
            lock,
            filling: None,
            offered: Offered::default(),
            done: Vec::new(),
            blank: Vec::new(),
            next_number: 1,
            in_flight: 0,
            waiting_since: None,
            health: Health::Up,
            is_file_replaced: false,
        }
    }

    /// Has `wake` called whenever something comes back.
    pub fn wake_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.slot.wake_with(wake);
    }

    /// Whether more can be taken now: not while a full batch waits for the writer.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.filling {
            Some(batch) => !batch.is_full(),
            None => !self.offered.full || self.offered_is_taken(),
        }
    }

    /// The batch at hand.
    pub fn batch(&mut self) -> &mut Batch {
        let batch = match self.filling.take() {
            Some(batch) => batch,
            None => self.reopen().unwrap_or_else(|| self.begin()),
        };
        self.filling.insert(batch)
    }

    /// The batch at hand, if there is one already.
    #[must_use]
    pub const fn current(&self) -> Option<&Batch> {
        self.filling.as_ref()
    }

    /// Offers what was brought together to the writer.
    pub fn submit(&mut self, now: Moment) {
        if let Some(batch) = self.filling.take() {
            self.offered = Offered {
                number: batch.number(),
                full: batch.is_full(),
            };
            if self.in_flight == 0 {
                self.waiting_since = Some(now);
            }
            self.in_flight += 1;
            self.slot.offer(batch);
        }
    }

    /// How many batches were handed over and not yet collected.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Looks for what came back; to be asked for with [`next_completed`]x).
    pub fn collect(&mut self, now: Moment) {
        let before = self.done.len();
        if let Some(health) = self.slot.collect(&mut self.done) {
            self.health = health;
            self.is_file_replaced |= self.slot.take_file_replaced();
        }
        let back = u32::try_from(self.done.len() - before).unwrap_or(u32::MAX);
        if back > 0 {
            self.in_flight = self.in_flight.saturating_sub(back);
            self.waiting_since = (self.in_flight > 0).then_some(now);
        }
    }

    /// The next batch that came back, in the order in which they were handed
    /// over. To be given back with [`recycle`](Self::recycle).
    pub fn next_completed(&mut self) -> Option<Batch> {
        (!self.done.is_empty()).then(|| self.done.remove(0))
    }

    /// Keeps the memory of a batch that is done with.
    pub fn recycle(&mut self, batch: Batch) {
        self.blank.push(batch);
    }

    /// Whether another file was opened since this was last asked, because the one before
    /// was moved, removed or replaced. It may have other rows of agents, or none.
    pub const fn take_file_replaced(&mut self) -> bool {
        std::mem::replace(&mut self.is_file_replaced, false)
    }

    /// How the store is, as of the last [`collect`](Self::collect).
    #[must_use]
    pub const fn health(&self) -> Health {
        self.health
    }

    /// Since when nothing has come back although something is to.
    #[must_use]
    pub const fn waiting_since(&self) -> Option<Moment> {
        self.waiting_since
    }

    /// What the writer has done by now.
    #[must_use]
    pub fn counters(&self) -> StoreCounters {
        self.slot.counters()
    }

    /// Passes on that the operator says that the clock is right.
    pub fn confirm_clock(&self) {
        self.slot.confirm_clock();
    }

    /// Has the writer commit all it was given, and end; false if it takes longer
    /// than `patience`.
    #[must_use]
    pub fn finish(mut self, now: Moment, patience: Duration) -> bool {
        self.submit(now);
        self.slot.end_writer(Stop::Finish, patience)
    }

    /// The right to write, to be shared with the process that goes on.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Has the writer touch nothing any more, not even to remove what is too old or to
    /// empty the log, as soon as it has committed all that was handed over. What is
    /// handed over later is committed all the same.
    pub fn park(&self) {
        self.slot.park();
    }

    /// Has the writer go on after [`park`](Self::park).
    pub fn unpark(&self) {
        self.slot.unpark();
    }

    /// Whether the writer is parked, and all that was handed over has come back and
    /// was asked for.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        let all_back = self.filling.is_none() && self.in_flight == 0 && self.done.is_empty();
        all_back && self.slot.is_parked()
    }

    /// Leaves the file, as it is, to the process that goes on: the writer ends without
    /// touching it. What was not committed is dropped. False if that takes longer
    /// than `patience`.
    #[must_use]
    pub fn leave(self, patience: Duration) -> bool {
        self.slot.end_writer(Stop::Leave, patience)
    }

    fn offered_is_taken(&self) -> bool {
        self.slot.has_taken(self.offered.number)
    }

    /// The batch on offer, if the writer has not taken it.
    fn reopen(&mut self) -> Option<Batch> {
        if self.offered_is_taken() {
            return None;
        }
        let batch = self.slot.take_back()?;
        self.in_flight -= 1;
        Some(batch)
    }

    fn begin(&mut self) -> Batch {
        let mut batch = self.blank.pop().unwrap_or_default();
        batch.reset(self.next_number);
        self.next_number += 1;
        batch
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::slot::Next;
    use super::*;
    use crate::store::{AgentRecord, ReportRecord};
    use hawk_time::UnixNanos;

    const NOW: Moment = Moment::from_nanos(1);

    /// A reactor's half and a writer's, on one thread.
    fn both() -> (BatchProducer, Arc<BatchSlot>) {
        let slot = Arc::new(BatchSlot::default());
        let folder = tempfile::tempdir().unwrap();
        let lock = Arc::new(Lock::take(&folder.path().join("hawk.db")).unwrap());
        (BatchProducer::new(Arc::clone(&slot), lock), slot)
    }

    fn add_report(batch: &mut Batch) {
        let time = UnixNanos::from_nanos(1);
        let agent = AgentRecord {
            name: None,
            address: [10, 0, 0, 7].into(),
            version: "",
            first_seen: time,
            last_seen: time,
            online: true,
            changed_at: time,
            interval: 0,
            hours: Some(1),
            last_hour: 0,
            watched: true,
            report_interval: 0,
            cloned_at: 0,
        };
        let index = batch.add_agent(1, &agent);
        let report = ReportRecord {
            received_at: time,
            content: "",
            rand: 0,
            timestamp: 0,
        };
        batch.add_report(index, ([10, 0, 0, 7], 1).into(), &report);
    }

    fn take(slot: &BatchSlot) -> Batch {
        match slot.take(Duration::ZERO) {
            Next::Batch(batch) => batch,
            _ => panic!("nothing is on offer"),
        }
    }

    fn give_back(slot: &BatchSlot, batch: Batch, health: Health) {
        slot.give_back(Some(batch), health, StoreCounters::default());
    }

    #[test]
    fn a_batch_is_filled_until_the_writer_takes_it() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        producer.submit(NOW);
        assert_eq!(producer.batch().number(), 1, "it is still on offer");
        add_report(producer.batch());
        producer.submit(NOW);
        let first = take(&slot);
        assert_eq!(first.reports.len(), 2);
        add_report(producer.batch());
        assert_eq!(producer.batch().number(), 2);
        producer.submit(NOW);
        give_back(&slot, first, Health::Up);
        let second = take(&slot);
        give_back(&slot, second, Health::Down);
        producer.collect(NOW);
        let done = std::iter::from_fn(|| producer.next_completed().map(|batch| batch.number()));
        assert_eq!(done.collect::<Vec<_>>(), [1, 2]);
        assert_eq!(producer.health(), Health::Down);
    }

    #[test]
    fn while_a_full_batch_waits_nothing_more_is_taken() {
        let (mut producer, slot) = both();
        while producer.is_ready() {
            add_report(producer.batch());
        }
        producer.submit(NOW);
        assert!(!producer.is_ready());
        let full = take(&slot);
        assert!(producer.is_ready(), "the next can be filled meanwhile");
        add_report(producer.batch());
        give_back(&slot, full, Health::Up);
    }

    #[test]
    fn the_wait_for_the_writer_is_known() {
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
        give_back(&slot, batch, Health::Up);
        producer.collect(later);
        assert_eq!(producer.waiting_since(), Some(later), "for the second");
        give_back(&slot, take(&slot), Health::Up);
        producer.collect(later);
        assert_eq!(producer.waiting_since(), None);
    }

    #[test]
    fn a_batch_is_used_again() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        producer.submit(NOW);
        give_back(&slot, take(&slot), Health::Up);
        producer.collect(NOW);
        let batch = producer.next_completed().unwrap();
        let room = batch.reports.capacity();
        producer.recycle(batch);
        assert!(producer.batch().is_empty());
        assert_eq!(producer.batch().number(), 2);
        assert_eq!(producer.batch().reports.capacity(), room);
    }

    #[test]
    fn finish_gives_the_writer_what_is_left() {
        let (mut producer, slot) = both();
        add_report(producer.batch());
        let writer = std::thread::spawn(move || {
            let mut taken = 0;
            loop {
                match slot.take(Duration::from_secs(60)) {
                    Next::Batch(batch) => {
                        taken += batch.reports.len();
                        give_back(&slot, batch, Health::Up);
                    }
                    Next::Nothing | Next::Park => panic!("it was not told to stop"),
                    Next::Stop(how) => break assert_eq!(how, Stop::Finish),
                }
            }
            slot.end();
            taken
        });
        assert!(producer.finish(NOW, Duration::from_secs(60)));
        assert_eq!(writer.join().unwrap(), 1);
        // Nobody there to take anything.
        assert!(!both().0.finish(NOW, Duration::ZERO));
    }
}
