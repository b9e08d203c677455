//! Where events pass from the reactor's thread to the one that runs commands.
//!
//! Both sides hold the lock for moments only, so neither ever waits for the
//! other's work. The bell is a descriptor, because the runner waits for the ends
//! of its commands at the same time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::Event;
use super::queue::{Agent, Job};
use crate::time::Moment;

/// Events that wait, at most. At a few commands a second these are an hour's
/// work; who comes later would be told of a world that has changed since.
pub(super) const MAX_WAITING: usize = 10_000;

/// What they may take, in bytes of JSON. An event of a well-behaved agent has some
/// 200, so the number above is reached first; it is escaped text that may have more.
pub(super) const MAX_WAITING_BYTES: usize = 16 * 1024 * 1024;

/// What was done since the start, and what there is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Commands that run now.
    pub(super) running: usize,
    /// Events that wait now.
    pub(super) waiting: usize,
    /// Commands that have ended, however.
    pub(super) run: u64,
    /// Those that failed: that could not be started, or did not end with exit
    /// code 0.
    pub(super) failed: u64,
    /// Those that were killed because their time was over.
    pub(super) timed_out: u64,
    /// Events that there was no room for.
    pub(super) dropped: u64,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With exit code 0.
    Well,
    /// Otherwise, or it could not be started.
    Failed,
    /// It was killed because its time was over.
    TimedOut,
}

/// The mailbox between the two threads.
pub(super) struct Mailbox {
    slots: Mutex<Slots>,
    bell: OwnedFd,
}

#[derive(Default)]
struct Slots {
    inbox: Vec<Job>,
    counters: Counters,
    /// Bytes of JSON in all that waits, here and with the runner.
    bytes: usize,
    give_up_at: Option<Moment>,
    /// Nobody will take anything out any more.
    closed: bool,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            slots: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    pub(super) fn counters(&self) -> Counters {
        self.slots().counters
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // Whoever panics with the lock leaves whole jobs behind.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reactor's side.
impl Mailbox {
    /// Puts an event in; false if there was no room.
    pub(super) fn put(&self, event: &Event<'_>) -> bool {
        let mut slots = self.slots();
        if slots.closed || slots.counters.waiting >= MAX_WAITING || slots.bytes >= MAX_WAITING_BYTES
        {
            slots.counters.dropped += 1;
            return false;
        }
        let job = Job {
            agent: Agent::of(event),
            online: event.online,
            line: event.to_line(),
        };
        slots.counters.waiting += 1;
        slots.bytes += job.line.len();
        slots.inbox.push(job);
        let first = slots.inbox.len() == 1;
        drop(slots);
        if first {
            self.ring();
        }
        true
    }

    /// No more will come; the runner is to have ended by `give_up_at`.
    pub(super) fn stop(&self, give_up_at: Moment) {
        self.slots().give_up_at = Some(give_up_at);
        self.ring();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.slots().give_up_at.is_some()
    }

    fn ring(&self) {
        // It fails only when it has rung 2^64 times unheard, and is heard then.
        let _heard = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

/// The runner's side.
impl Mailbox {
    /// What to wait for: it is readable while the bell rings.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes all there is, into the empty `jobs`. If the runner is to end: by when.
    pub(super) fn empty(&self, jobs: &mut Vec<Job>) -> Option<Moment> {
        // Before the look: what comes after it rings once more. It fails if the
        // bell does not ring.
        let _silenced = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        let mut slots = self.slots();
        std::mem::swap(&mut slots.inbox, jobs);
        slots.give_up_at
    }

    /// A command was started for an event, or an attempt was made.
    pub(super) fn started(&self, job: &Job) {
        let mut slots = self.slots();
        slots.bytes -= job.line.len();
        slots.counters.waiting -= 1;
        slots.counters.running += 1;
    }

    pub(super) fn ended(&self, how: Ending) {
        let mut slots = self.slots();
        let counters = &mut slots.counters;
        counters.running -= 1;
        counters.run += 1;
        match how {
            Ending::Well => {}
            Ending::Failed => counters.failed += 1,
            Ending::TimedOut => counters.timed_out += 1,
        }
    }

    /// The runner has ended. What still waits is dropped; how much that was.
    pub(super) fn close(&self) -> usize {
        let mut slots = self.slots();
        slots.closed = true;
        slots.bytes = 0;
        slots.inbox.clear();
        let left = std::mem::take(&mut slots.counters.waiting);
        slots.counters.dropped += left as u64;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::tests::event;

    fn rings(mailbox: &Mailbox) -> bool {
        let mut bell = [rustix::event::PollFd::from_borrowed_fd(
            mailbox.bell(),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut bell, Some(&rustix::event::Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_bell_rings_until_the_mailbox_is_emptied() {
        let mailbox = Mailbox::new().unwrap();
        assert!(!rings(&mailbox));
        assert!(mailbox.put(&event("a", "")) && mailbox.put(&event("b", "")));
        assert!(rings(&mailbox));
        let mut jobs = Vec::new();
        assert_eq!(mailbox.empty(&mut jobs), None);
        assert_eq!(jobs.len(), 2);
        assert!(!rings(&mailbox));
        let soon = Moment::from_nanos(7);
        mailbox.stop(soon);
        assert!(rings(&mailbox) && mailbox.is_stopping());
        assert_eq!(mailbox.empty(&mut Vec::new()), Some(soon));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let mailbox = Mailbox::new().unwrap();
        assert!((0..MAX_WAITING).all(|_| mailbox.put(&event("a", ""))));
        assert!(!mailbox.put(&event("a", "")));
        // What the runner has taken, and not begun, counts as well.
        let mut jobs = Vec::new();
        mailbox.empty(&mut jobs);
        assert!(!mailbox.put(&event("a", "")));
        mailbox.started(&jobs[0]);
        assert!(mailbox.put(&event("a", "")));
        mailbox.ended(Ending::TimedOut);
        let expected = Counters {
            waiting: MAX_WAITING,
            run: 1,
            timed_out: 1,
            dropped: 2,
            ..Counters::default()
        };
        assert_eq!(mailbox.counters(), expected);
        assert_eq!(mailbox.close(), MAX_WAITING);
        assert!(!mailbox.put(&event("a", "")), "nobody takes it out");
    }

    #[test]
    fn long_events_are_bounded_by_their_bytes() {
        let mailbox = Mailbox::new().unwrap();
        let version = "x".repeat(1 << 20);
        let taken = (0..100).filter(|_| mailbox.put(&event("a", &version)));
        assert_eq!(taken.count(), MAX_WAITING_BYTES >> 20);
    }
}
