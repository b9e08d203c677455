//! Counters: plain numbers, which only grow unless stated otherwise.

use hawk_wire::{Refusal, Reply};

/// What the reactor counted since the first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReactorCounters {
    /// Connections accepted, including those refused at a limit.
    pub accepted: u64,
    /// Failed calls of accept(2), mostly for lack of descriptors.
    pub accept_errors: u64,
    /// Bytes read from agents.
    pub bytes_in: u64,
    /// Bytes written to agents.
    pub bytes_out: u64,
    /// Calls of read(2) that returned bytes.
    pub reads: u64,
    /// Times that a connection was paused by store back-pressure; in the lines `held`.
    pub held: u64,
    /// Times that a connection used up its rate.
    pub rate_limited: u64,
    /// Times that the limit of unsent replies was reached.
    pub output_limited: u64,
    /// Calls of write(2) that wrote bytes.
    pub writes: u64,
    /// Connections closed.
    pub(crate) closed: CountByCause,
}

/// Connections closed by cause, in the order of [`Cause::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountByCause(pub(crate) [u64; Cause::ALL.len()]);

impl ReactorCounters {
    /// Counts a connection that was closed.
    pub fn closed(&mut self, cause: Cause) {
        // `ALL` has the order of the declaration.
        self.closed.0[cause as usize] += 1;
    }

    /// Connections closed, by cause.
    pub fn closings(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.closed.0)
    }

    /// Connections closed for `cause`.
    #[must_use]
    pub const fn closed_by(&self, cause: Cause) -> u64 {
        self.closed.0[cause as usize]
    }
}

/// Why a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The agent closed it, after every reply.
    AgentClosed,
    /// The agent or the network reset it.
    ConnectionLost,
    /// No frame passed within the idle timeout.
    IdleTimeout,
    /// A partial frame was not completed within the frame timeout.
    FrameTimeout,
    /// The agent did not read its replies.
    OutputTimeout,
    /// Too much junk since the last frame that passed.
    JunkLimit,
    /// The server is at its limit of connections.
    TooManyConnections,
    /// Its address is at its limit of connections.
    TooManyFromAddress,
    /// Its address may not connect.
    NotAllowed,
    /// The server stops.
    Shutdown,
}

impl Cause {
    /// All causes.
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

    /// Returns the cause as one word, for counters, logs and snapshots.
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

/// What the sessions counted since the first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Heartbeats answered, including probes.
    pub heartbeats: u64,
    /// Reports answered as taken, including probes of the store.
    pub reports: u64,
    /// Replies `busy`.
    pub busy: u64,
    /// Bytes that belonged to no frame that passed.
    pub junk_bytes: u64,
    /// Unfinished candidates dropped as junk at the frame deadline.
    pub candidates_dropped: u64,
    /// Frames refused.
    pub(crate) refusals: CountByRefusal,
}

/// Frames refused by reason, in the order of [`Refusal::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CountByRefusal(pub(crate) [u64; Refusal::ALL.len()]);

impl SessionCounters {
    /// Counts a frame by its reply: a report counts as taken once that is answered.
    pub fn answered(&mut self, reply: Reply) {
        match reply {
            Reply::Heartbeat => self.heartbeats += 1,
            Reply::Report => self.reports += 1,
            // `ALL` has the order of the declaration.
            Reply::Error(refusal) => self.refusals.0[refusal as usize] += 1,
            Reply::Busy(_) => self.busy += 1,
        }
    }

    /// Frames refused, by reason.
    pub fn refusals(&self) -> impl Iterator<Item = (Refusal, u64)> {
        Refusal::ALL.into_iter().zip(self.refusals.0)
    }

    /// Frames refused.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refusals.0.iter().sum()
    }
}

/// What the store's writer counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounters {
    /// Transactions committed.
    pub commits: u64,
    /// Reports in them.
    pub reports: u64,
    /// Batches discarded.
    pub failed: u64,
    /// Reports in them.
    pub discarded: u64,
    /// Reports removed for their age or for lack of room.
    pub expired: u64,
    /// Of these, reports younger than the retention time.
    pub expired_early: u64,
    /// Events removed because there were too many.
    pub dropped_events: u64,
    /// Agents removed because there were too many when the file was opened.
    pub dropped_agents: u64,
    /// Bytes in use of the file, now.
    pub bytes: u64,
    /// Bytes of the write-ahead log that the next checkpoint moves into the file, now.
    pub wal_bytes: u64,
    /// 1 while expiry by age is paused because the clock may be wrong, else 0.
    pub expiry_paused: u64,
}

impl StoreCounters {
    /// Adds the counts of earlier processes; sizes are those of the last commit.
    #[must_use]
    pub const fn after(self, before: Self) -> Self {
        let (bytes, wal_bytes) = match self.commits {
            0 => (before.bytes, before.wal_bytes),
            _ => (self.bytes, self.wal_bytes),
        };
        Self {
            commits: self.commits + before.commits,
            reports: self.reports + before.reports,
            failed: self.failed + before.failed,
            discarded: self.discarded + before.discarded,
            expired: self.expired + before.expired,
            expired_early: self.expired_early + before.expired_early,
            dropped_events: self.dropped_events + before.dropped_events,
            dropped_agents: self.dropped_agents + before.dropped_agents,
            bytes,
            wal_bytes,
            expiry_paused: self.expiry_paused,
        }
    }
}

/// What one consumer of events counted since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounters {
    /// Commands running now.
    pub running: usize,
    /// Events read and waiting now.
    pub waiting: usize,
    /// Commands that ended, successful or not.
    pub run: u64,
    /// Commands that could not be started, or did not exit with code 0.
    pub failed: u64,
    /// Commands killed after their timeout.
    pub timed_out: u64,
    /// Events dropped for lack of room in memory.
    pub dropped: u64,
    /// Events delivered.
    pub delivered: u64,
    /// Commands that repeated a failed one.
    pub retried: u64,
    /// Events that are no longer delivered.
    pub skipped: u64,
    /// Events that the store removed before they were delivered.
    pub missed: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closings_are_counted_under_their_own_cause() {
        let mut counters = ReactorCounters::default();
        for (times, cause) in Cause::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.closed(cause));
        }
        for (times, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(counters.closed_by(cause), times as u64, "{cause:?}");
        }
    }

    #[test]
    fn refusals_are_counted_under_their_own_cause() {
        let mut counters = SessionCounters::default();
        for (times, refusal) in Refusal::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counters.answered(Reply::Error(refusal)));
        }
        for ((refusal, count), (times, expected)) in counters
            .refusals()
            .zip(Refusal::ALL.into_iter().enumerate())
        {
            assert_eq!((refusal, count), (expected, times as u64));
        }
        let total: u64 = (0..Refusal::ALL.len() as u64).sum();
        assert_eq!(counters.refused_total(), total);
    }
}
