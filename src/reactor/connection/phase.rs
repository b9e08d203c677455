//! How far a connection has come.

use hawk_pool::WaitTicket;

use crate::stats::Cause;
use hawk_time::Moment;

/// How far a connection has come, and what it has only there.
#[derive(Debug)]
pub(super) enum Phase {
    /// Packets come and replies go.
    Open(Open),
    /// The agent's end of file is read; its last replies go out.
    Finishing,
    /// We close it: what is unsent goes out, what comes in is discarded.
    Closing(Cause, Moment),
    /// As before, and our end of file is sent.
    Lingering(Cause, Moment),
}

/// What few open connections have.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// Its place in the queue for a receive buffer.
    ticket: Option<WaitTicket>,
    /// How many more bytes may be read; `None` while the server is not stopping.
    allowance: Option<u32>,
}

const SIMPLY_OPEN: Phase = Phase::Open(Open {
    ticket: None,
    allowance: None,
});

/// The phase of one connection. Nearly all of them are open, and have none of what
/// few have: then there is only an empty pointer. That it is allocated costs an end,
/// or a wait for a buffer, a hundredth of what the kernel takes for it.
#[derive(Debug, Default)]
pub(super) struct Course(Option<Box<Phase>>);

impl Course {
    pub(super) fn phase(&self) -> &Phase {
        self.0.as_deref().unwrap_or(&SIMPLY_OPEN)
    }

    /// Goes on to `phase`. What it had in the one before is gone.
    pub(super) fn enter(&mut self, phase: Phase) {
        match &mut self.0 {
            Some(now) => **now = phase,
            None => self.0 = Some(Box::new(phase)),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.0.as_deref(), None | Some(Phase::Open(_)))
    }

    /// Whether it is open and has none of what few have.
    pub(super) const fn is_simply_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the agent has ended, and we have not.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.0.as_deref(), Some(Phase::Finishing))
    }

    /// Whether we close it.
    pub(super) fn is_ending(&self) -> bool {
        let phase = self.0.as_deref();
        matches!(phase, Some(Phase::Closing(..) | Phase::Lingering(..)))
    }

    /// Whether it waits for a receive buffer.
    pub(super) fn waits(&self) -> bool {
        matches!(self.0.as_deref(), Some(Phase::Open(open)) if open.ticket.is_some())
    }

    /// Gives it a place in the queue for a receive buffer.
    pub(super) fn wait(&mut self, ticket: WaitTicket) {
        if let Some(open) = self.open() {
            open.ticket = Some(ticket);
        }
    }

    /// Takes its place in that queue.
    pub(super) fn take_ticket(&mut self) -> Option<WaitTicket> {
        let Some(Phase::Open(open)) = self.0.as_deref_mut() else {
            return None;
        };
        let ticket = open.ticket.take();
        if open.allowance.is_none() {
            self.0 = None;
        }
        ticket
    }

    /// How many more bytes may be read, if the server stops.
    pub(super) fn allowance(&self) -> Option<u32> {
        match self.0.as_deref() {
            Some(Phase::Open(open)) => open.allowance,
            _ => None,
        }
    }

    /// The server stops: no more than `bytes` may still be read.
    pub(super) fn set_allowance(&mut self, bytes: u64) {
        if let Some(open) = self.open() {
            open.allowance = Some(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Notes that `bytes` were read.
    pub(super) fn use_up(&mut self, bytes: usize) {
        if let Some(Phase::Open(open)) = self.0.as_deref_mut() {
            let used = u32::try_from(bytes).unwrap_or(u32::MAX);
            open.allowance = open.allowance.map(|left| left.saturating_sub(used));
        }
    }

    fn open(&mut self) -> Option<&mut Open> {
        match &mut **self.0.get_or_insert_with(|| Box::new(SIMPLY_OPEN)) {
            Phase::Open(open) => Some(open),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_simply_open_has_nothing_allocated() {
        let mut course = Course::default();
        assert!(course.is_open() && !course.waits() && course.allowance().is_none());
        course.use_up(5);
        assert!(course.take_ticket().is_none() && course.0.is_none());
    }

    #[test]
    fn a_place_in_the_queue_is_left_with_the_phase_and_an_allowance_outlives_it() {
        let config = hawk_pool::Config {
            classes: vec![16],
            limit: 32,
        };
        let pool = hawk_pool::Pool::new(&config).unwrap();
        let mut course = Course::default();
        course.wait(pool.wait());
        assert!(course.waits() && pool.has_waiters());
        assert!(course.take_ticket().is_some() && course.0.is_none());

        course.wait(pool.wait());
        course.set_allowance(100);
        assert!(course.take_ticket().is_some());
        course.use_up(30);
        assert_eq!(course.allowance(), Some(70));

        course.wait(pool.wait());
        course.enter(Phase::Closing(Cause::Shutdown, Moment::from_nanos(1)));
        assert!(!pool.has_waiters() && !course.is_open() && course.is_ending());
        course.wait(pool.wait());
        assert!(
            !pool.has_waiters(),
            "who is on the way out reads nothing more"
        );
    }
}
