//! The phase of a connection, from open to lingering.

use hawk_pool::WaitTicket;

use crate::stats::Cause;
use hawk_time::Moment;

/// The phase of a connection: in its table entry, in a [view](super::ConnectionView) and in
/// the state that moves to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionPhase {
    /// Packets are read and answered.
    Open,
    /// The agent's end of file was read; the last replies are being written.
    Finishing,
    /// The server closes the connection: it writes the unsent replies and discards input.
    Closing {
        /// Why it is closed.
        cause: Cause,
        /// When it is cut off.
        until: Moment,
    },
    /// The server has sent its end of file and discards input until the agent's.
    Lingering {
        /// Why it is closed.
        cause: Cause,
        /// When it is cut off.
        until: Moment,
    },
}

impl ConnectionPhase {
    /// Returns why the server closes the connection and when it is cut off; `None` while
    /// packets are read and answered.
    #[must_use]
    pub const fn ending(self) -> Option<(Cause, Moment)> {
        match self {
            Self::Open | Self::Finishing => None,
            Self::Closing { cause, until } | Self::Lingering { cause, until } => {
                Some((cause, until))
            }
        }
    }
}

/// The phase of one connection, with what an open connection rarely has.
///
/// `None` means plain open, the common case; the box is allocated only for the rare states.
/// The allocation costs a hundredth of the system calls of a close or of a wait for a buffer.
#[derive(Debug, Default)]
pub(super) struct PhaseCell(Option<Box<RareState>>);

#[derive(Debug)]
struct RareState {
    phase: ConnectionPhase,
    /// The place in the queue for a receive buffer. Only in [`ConnectionPhase::Open`].
    ticket: Option<WaitTicket>,
    /// Bytes that may still be read; `None` unless the server stops. Only in
    /// [`ConnectionPhase::Open`].
    allowance: Option<u32>,
}

impl PhaseCell {
    pub(super) fn get(&self) -> ConnectionPhase {
        let rare = self.0.as_ref();
        rare.map_or(ConnectionPhase::Open, |rare| rare.phase)
    }

    /// Enters `phase`. Drops the ticket and the allowance.
    pub(super) fn enter(&mut self, phase: ConnectionPhase) {
        *self.rare() = RareState {
            phase,
            ticket: None,
            allowance: None,
        };
    }

    pub(super) fn is_open(&self) -> bool {
        self.get() == ConnectionPhase::Open
    }

    /// Returns whether the connection is open, without a ticket or an allowance.
    pub(super) const fn is_plain_open(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether the server closes the connection.
    pub(super) fn is_ending(&self) -> bool {
        self.get().ending().is_some()
    }

    /// Returns whether the connection waits for a receive buffer.
    pub(super) fn waits(&self) -> bool {
        self.0.as_ref().is_some_and(|rare| rare.ticket.is_some())
    }

    /// Stores a place in the queue for a receive buffer, if the connection is open.
    pub(super) fn wait(&mut self, ticket: WaitTicket) {
        if self.is_open() {
            self.rare().ticket = Some(ticket);
        }
    }

    /// Takes the place in that queue.
    pub(super) fn take_ticket(&mut self) -> Option<WaitTicket> {
        let rare = self.0.as_mut()?;
        let ticket = rare.ticket.take();
        if rare.phase == ConnectionPhase::Open && rare.allowance.is_none() {
            self.0 = None;
        }
        ticket
    }

    /// Returns how many bytes may still be read; `None` unless the server stops.
    pub(super) fn allowance(&self) -> Option<u32> {
        self.0.as_ref()?.allowance
    }

    /// Limits reading to `bytes`, if the connection is open: the server stops.
    pub(super) fn set_allowance(&mut self, bytes: u64) {
        if self.is_open() {
            self.rare().allowance = Some(u32::try_from(bytes).unwrap_or(u32::MAX));
        }
    }

    /// Subtracts `bytes` that were read from the allowance.
    pub(super) fn use_up(&mut self, bytes: usize) {
        if let Some(rare) = &mut self.0 {
            let used = u32::try_from(bytes).unwrap_or(u32::MAX);
            rare.allowance = rare.allowance.map(|left| left.saturating_sub(used));
        }
    }

    fn rare(&mut self) -> &mut RareState {
        self.0.get_or_insert_with(|| {
            Box::new(RareState {
                phase: ConnectionPhase::Open,
                ticket: None,
                allowance: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_open_connection_allocates_nothing() {
        let mut phase = PhaseCell::default();
        assert!(phase.is_open() && !phase.waits() && phase.allowance().is_none());
        phase.use_up(5);
        assert!(phase.take_ticket().is_none() && phase.0.is_none());
    }

    #[test]
    fn a_ticket_is_dropped_with_the_phase_and_an_allowance_outlives_the_ticket() {
        let config = hawk_pool::Config {
            classes: vec![16],
            limit: 32,
        };
        let pool = hawk_pool::Pool::new(&config).unwrap();
        let mut phase = PhaseCell::default();
        phase.wait(pool.wait());
        assert!(phase.waits() && pool.has_waiters());
        assert!(phase.take_ticket().is_some() && phase.0.is_none());

        phase.wait(pool.wait());
        phase.set_allowance(100);
        assert!(phase.take_ticket().is_some());
        phase.use_up(30);
        assert_eq!(phase.allowance(), Some(70));

        phase.wait(pool.wait());
        phase.enter(ConnectionPhase::Closing {
            cause: Cause::Shutdown,
            until: Moment::from_nanos(1),
        });
        assert!(!pool.has_waiters() && !phase.is_open() && phase.is_ending());
        phase.wait(pool.wait());
        assert!(!pool.has_waiters(), "a closing connection reads no packet");
    }
}
