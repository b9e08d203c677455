//! Where batches change hands between the reactor's thread and the writer's.
//!
//! Both sides hold the lock only to move a pointer or two, so neither ever
//! waits for the other's work. The writer takes what lies ready the moment it
//! is done with what it had; the reactor need not be awake for that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::Batch;
use crate::stats::StoreCounters;

/// Whether reports can be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// As far as is known.
    #[default]
    Up,
    /// The last attempt failed, and none has succeeded since.
    Down,
}

/// The slot between the two threads.
#[derive(Default)]
pub(super) struct BatchSlot {
    state: Mutex<SlotState>,
    /// Rings when something was put in for the writer, or when it has ended.
    bell: Condvar,
    /// The number of the last batch that the writer took.
    taken: AtomicU64,
    /// Whether something came back since the reactor last looked.
    news: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct SlotState {
    offered: Option<Batch>,
    done: Vec<Batch>,
    health: Health,
    counters: StoreCounters,
    /// The writer is waiting for the bell.
    idle: bool,
    /// The writer is to look for something else than a batch.
    nudged: bool,
    /// Another file is open than before.
    is_file_replaced: bool,
    /// The operator says that the clock is right.
    clock_is_right: bool,
    /// The writer is to touch nothing once it is done with what was offered.
    park: bool,
    /// It does, and waits for the bell.
    parked: bool,
    stop: Option<Stop>,
    /// All that was offered is committed, and nothing more will be.
    committed: bool,
    ended: bool,
}

/// How the writer is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Once all is written, and with the log moved into the file.
    Finish,
    /// At once, and without touching the file: another process writes it.
    Leave,
}

/// What the writer is to do next.
pub(super) enum Next {
    /// Commit this.
    Batch(Batch),
    /// Nothing came in the time it was ready to wait.
    Nothing,
    /// Nothing, and the file is not to be touched: see [`BatchSlot::park_writer`].
    Park,
    /// End: nothing will come any more.
    Stop(Stop),
}

impl BatchSlot {
    fn slots(&self) -> MutexGuard<'_, SlotState> {
        // Whoever panics with the lock leaves whole pointers behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reactor's side.
impl BatchSlot {
    /// Whom to wake when something comes back; the first call counts.
    pub(super) fn wake_with(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _first_counts = self.wake.set(Box::new(wake));
    }

    /// Offers a batch. There must be none on offer.
    pub(super) fn offer(&self, batch: Batch) {
        let mut slots = self.slots();
        debug_assert!(slots.offered.is_none(), "one batch at a time");
        slots.offered = Some(batch);
        let idle = std::mem::take(&mut slots.idle);
        // Let go first: whoever is woken wants it at once.
        drop(slots);
        if idle {
            self.bell.notify_all();
        }
    }

    /// Takes back what was offered, unless the writer has it already.
    pub(super) fn take_back(&self) -> Option<Batch> {
        self.slots().offered.take()
    }

    /// Whether the writer has taken the batch of this number.
    pub(super) fn has_taken(&self, number: u64) -> bool {
        self.taken.load(Ordering::Acquire) >= number
    }

    /// What has come back, appended to `done` in its order, and how the store is.
    /// `None` if there is no news.
    pub(super) fn collect(&self, done: &mut Vec<Batch>) -> Option<Health> {
        if !self.news.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut slots = self.slots();
        done.append(&mut slots.done);
        Some(slots.health)
    }

    /// Whether another file was opened since this was last asked.
    pub(super) fn take_file_replaced(&self) -> bool {
        std::mem::take(&mut self.slots().is_file_replaced)
    }

    /// What the writer has done by now.
    pub(super) fn counters(&self) -> StoreCounters {
        self.slots().counters
    }

    /// Wakes the writer for work other than a batch.
    pub(super) fn nudge(&self) {
        self.slots().nudged = true;
        self.bell.notify_all();
    }

    /// Passes on that the clock is right, to the next look for what is too old.
    pub(super) fn confirm_clock(&self) {
        self.slots().clock_is_right = true;
    }

    /// Has the writer touch nothing from the moment on at which it has committed what
    /// was offered, until [`unpark`](Self::unpark).
    pub(super) fn park(&self) {
        self.slots().park = true;
        self.bell.notify_all();
    }

    /// Has the writer go on.
    pub(super) fn unpark(&self) {
        self.slots().park = false;
        self.bell.notify_all();
    }

    /// Whether the writer touches nothing any more.
    pub(super) fn is_parked(&self) -> bool {
        self.slots().parked
    }

    /// Tells the writer to end, and waits for that; false if it takes longer than
    /// `patience` to commit what it was given. What it does after that loses nothing if it
    /// is broken off.
    pub(super) fn end_writer(&self, how: Stop, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut slots = self.slots();
        slots.stop = Some(how);
        self.bell.notify_all();
        while !slots.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return slots.committed;
            }
            let waited = self.bell.wait_timeout(slots, left);
            slots = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// The writer's side.
impl BatchSlot {
    /// Tells how things are, and gives back what is finished.
    pub(super) fn give_back(
        &self,
        finished: Option<Batch>,
        health: Health,
        counters: StoreCounters,
    ) {
        let mut slots = self.slots();
        let news = finished.is_some() || slots.health != health;
        slots.done.extend(finished);
        slots.health = health;
        slots.counters = counters;
        drop(slots);
        if news {
            self.tell();
        }
    }

    /// Takes what lies ready, waiting for at most `patience`.
    pub(super) fn take(&self, patience: Duration) -> Next {
        let deadline = Instant::now() + patience;
        let mut slots = self.slots();
        loop {
            if slots.stop == Some(Stop::Leave) {
                return Next::Stop(Stop::Leave);
            }
            if let Some(batch) = slots.offered.take() {
                self.taken.store(batch.number(), Ordering::Release);
                drop(slots);
                if batch.is_full() {
                    // Just this may be what the reactor waits for.
                    self.tell();
                }
                return Next::Batch(batch);
            }
            if let Some(how) = slots.stop {
                return Next::Stop(how);
            }
            if slots.park {
                return Next::Park;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if std::mem::take(&mut slots.nudged) || left.is_zero() {
                return Next::Nothing;
            }
            slots.idle = true;
            let waited = self.bell.wait_timeout(slots, left);
            slots = waited.unwrap_or_else(PoisonError::into_inner).0;
            slots.idle = false;
        }
    }

    /// Notes that another file is open than before.
    pub(super) fn note_file_replaced(&self) {
        self.slots().is_file_replaced = true;
    }

    /// Whether the clock was confirmed since this was last asked.
    pub(super) fn take_confirmation(&self) -> bool {
        std::mem::take(&mut self.slots().clock_is_right)
    }

    /// Waits until the writer is to go on, or to end; true if it is to go on.
    pub(super) fn park_writer(&self) -> bool {
        let mut slots = self.slots();
        slots.parked = true;
        drop(slots);
        self.tell();
        slots = self.slots();
        while slots.park && slots.offered.is_none() && slots.stop.is_none() {
            slots = self
                .bell
                .wait(slots)
                .unwrap_or_else(PoisonError::into_inner);
        }
        slots.parked = false;
        // It may be to be parked again, once it is done with what is on offer.
        (!slots.park || slots.offered.is_some()) && slots.stop != Some(Stop::Leave)
    }

    /// The writer has committed all there was, and only closes the file.
    pub(super) fn all_committed(&self) {
        self.slots().committed = true;
    }

    /// The writer has ended.
    pub(super) fn end(&self) {
        self.slots().ended = true;
        self.bell.notify_all();
    }

    fn tell(&self) {
        self.news.store(true, Ordering::Release);
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }
}
