//! State shared by the reactor's thread and the runner's thread.
//!
//! Both hold the lock for moments only. The bell is a descriptor, because the runner waits for
//! the ends of its commands at the same time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::stats::HookCounters;
use hawk_time::Moment;

/// Orders for the runner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Start no command.
    pub(super) pause: bool,
    /// `None`: serve.
    pub(super) stop: Option<Stop>,
}

/// The order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stop {
    /// Kill what still runs at this moment.
    pub(super) by: Moment,
    /// Deliver all waiting events first; otherwise wait for running commands only.
    pub(super) deliver: bool,
}

pub(super) struct Shared {
    slots: Mutex<Slots>,
    bell: OwnedFd,
}

#[derive(Default)]
struct Slots {
    orders: Orders,
    /// The runner has seen the order to pause, and no command runs.
    quiet: bool,
    counters: Vec<HookCounters>,
    dropped: u64,
}

impl Shared {
    pub(super) fn new(consumers: usize) -> io::Result<Self> {
        let slots = Slots {
            counters: vec![HookCounters::default(); consumers],
            ..Slots::default()
        };
        Ok(Self {
            slots: Mutex::new(slots),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the runner.
    pub(super) fn ring(&self) {
        // The write fails only if the counter is full; then the bell rings already.
        let _rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    pub(super) fn counters(&self) -> Vec<HookCounters> {
        let slots = self.slots();
        let with_dropped = |counters: &HookCounters| HookCounters {
            dropped: slots.dropped,
            ..*counters
        };
        slots.counters.iter().map(with_dropped).collect()
    }

    pub(super) fn count_dropped(&self) {
        self.slots().dropped += 1;
    }

    pub(super) fn pause(&self, pause: bool) {
        let mut slots = self.slots();
        slots.orders.pause = pause;
        slots.quiet = false;
        drop(slots);
        self.ring();
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.slots().quiet
    }

    pub(super) fn stop(&self, by: Moment, deliver: bool) {
        self.slots().orders.stop = Some(Stop { by, deliver });
        self.ring();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.slots().orders.stop.is_some()
    }

    /// Returns a descriptor that is readable while the bell rings.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell and returns the orders.
    pub(super) fn orders(&self) -> Orders {
        // First, so that a later order rings again. The read fails if the bell does not ring.
        let _silenced = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        self.slots().orders
    }

    /// Publishes the runner's counters.
    pub(super) fn publish(&self, counters: &[HookCounters]) {
        let mut slots = self.slots();
        slots.counters.copy_from_slice(counters);
        slots.quiet = slots.orders.pause && counters.iter().all(|one| one.running == 0);
    }
}
