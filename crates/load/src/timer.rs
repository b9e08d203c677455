//! A timer that wakes the event loop on the microsecond.
//!
//! The timeout of a poll counts in milliseconds, which is many times what a
//! reply takes: frames would leave late, and their latency, measured from the
//! intended send time, would measure this client instead of the server.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use hawk_time::Moment;

/// Makes its token readable at the moment it is set to.
#[derive(Debug)]
pub(super) struct Timer {
    descriptor: OwnedFd,
    set_to: Option<Moment>,
}

impl Timer {
    /// A timer that is not set.
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(
            &mut SourceFd(&descriptor.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        Ok(Self {
            descriptor,
            set_to: None,
        })
    }

    /// Wakes the loop at `moment`, at once where that is past, and at no other.
    ///
    /// Setting it again also takes back an expiry that was not read, so that
    /// the next one is a new edge for the poll.
    pub(super) fn set(&mut self, moment: Moment) -> io::Result<()> {
        if self.set_to == Some(moment) {
            return Ok(());
        }
        // Zero would switch the timer off.
        let nanoseconds = moment.as_nanos().max(1);
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / NANOS_PER_SEC).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % NANOS_PER_SEC).unwrap_or(0),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &once)?;
        self.set_to = Some(moment);
        Ok(())
    }

    /// Takes note that the timer's event has come: it is not set any more.
    pub(super) fn expired(&mut self) {
        self.set_to = None;
    }
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_setting_wakes_once_it_is_due() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let mut timer = Timer::new(poll.registry(), Token(7)).unwrap();
        for span in [0, 2, 1] {
            let due = Moment::now().after(Duration::from_millis(span));
            timer.set(due).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert_eq!(
                events.iter().map(|e| e.token()).collect::<Vec<_>>(),
                [Token(7)]
            );
            assert!(Moment::now() >= due);
            timer.expired();
        }
        // A moment in the past would wake the loop repeatedly.
        let past = Moment::now();
        for _ in 0..2 {
            timer.set(past).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert!(!events.is_empty());
            timer.expired();
        }
    }
}
