//! Why connections end.

use crate::session::Timeout;

/// Why a connection ended; one cause, one name, one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The agent closed it, and has every reply.
    AgentClosed,
    /// It broke: reset by the agent or by the network.
    ConnectionLost,
    /// No frame passed for longer than the idle timeout.
    IdleTimeout,
    /// A frame was begun and not finished within the frame timeout.
    FrameTimeout,
    /// The agent did not read its replies.
    OutputTimeout,
    /// Too much junk since the last frame that passed.
    JunkLimit,
    /// The server has as many connections as it may have.
    TooManyConnections,
    /// Its address has as many connections as it may have.
    TooManyFromAddress,
    /// Its address may not connect.
    NotAllowed,
    /// The server stops.
    Shutdown,
}

impl Cause {
    /// Every cause there is.
    pub const ALL: [Self; 10] = [
        Self::AgentClosed,
        Self::ConnectionLost,
        Self::IdleTimeout,
        Self::FrameTimeout,
        Self::OutputTimeout,
        Self::JunkLimit,
        Self::TooManyConnections,
        Self::TooManyFromAddress,
        Self::NotAllowed,
        Self::Shutdown,
    ];

    /// The cause as one word, for counters and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AgentClosed => "agent_closed",
            Self::ConnectionLost => "connection_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::FrameTimeout => "frame_timeout",
            Self::OutputTimeout => "output_timeout",
            Self::JunkLimit => "junk_limit",
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::NotAllowed => "not_allowed",
            Self::Shutdown => "shutdown",
        }
    }
}

impl From<Timeout> for Cause {
    fn from(timeout: Timeout) -> Self {
        match timeout {
            Timeout::Idle => Self::IdleTimeout,
            Timeout::Frame => Self::FrameTimeout,
            Timeout::Output => Self::OutputTimeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Counters;

    #[test]
    fn closings_are_counted_under_their_own_cause() {
        let mut counters = Counters::default();
        for (times, cause) in Cause::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.closed(cause));
        }
        for (times, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(counters.closed_by(cause), times as u64, "{cause:?}");
        }
    }
}
