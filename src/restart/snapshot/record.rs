//! The records of a snapshot.

use std::time::Duration;

use super::DecodeError;
use super::fields::{Value, layout, put, skip};
use crate::handler::HandlerState;
use crate::reactor::{ConnectionState, MovedId};
use crate::roster::AgentState;
use crate::stats::{ReactorCounters, SessionCounters};
use hawk_time::Moment;

/// One piece of a process's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A connection that no earlier record has. Its socket travels beside the snapshot.
    Opened(Connection),
    /// The new state of a connection that an earlier record has.
    Changed(Connection),
    /// The end of a connection that an earlier record has.
    Closed(ClosedConnection),
    /// The state of an agent, which an earlier record may have.
    Agent(Agent),
    /// The removal of an agent that an earlier record has.
    AgentRemoved(RemovedAgent),
    /// What the process has counted.
    Counts(Counts),
    /// The handler's state beside its agents.
    Handler(HandlerState),
    /// The figures of the hand-over up to the freeze: the last record of the last snapshot.
    Freeze(Freeze),
}

macro_rules! records {
    ($($kind:literal $name:ident),+ $(,)?) => {
        impl Record {
            /// Appends the record, with its kind and its length.
            pub(super) fn write(&self, out: &mut Vec<u8>) {
                match self { $( Self::$name(record) => put(out, $kind, record) ),+ }
            }

            /// Decodes a record of this `kind`. Returns `None` for an unknown kind that may be
            /// skipped.
            pub(super) fn read(kind: u8, bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
                match kind {
                    $( $kind => Value::read(bytes).map(|record| Some(Self::$name(record))), )+
                    unknown => skip(unknown, "snapshot")
                        .map(|()| None)
                        .map_err(|_| DecodeError::UnknownRecord(unknown)),
                }
            }
        }
    };
}

records! {
    0x81 Opened,
    0x82 Changed,
    0x83 Closed,
    0x84 Agent,
    0x85 AgentRemoved,
    0x86 Counts,
    0x87 Handler,
    0x88 Freeze,
}

/// A connection and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// The name of the connection in this and in all later records.
    pub id: MovedId,
    /// All of the connection's state that the kernel does not have.
    pub state: ConnectionState,
}

layout! { Connection {
    0x81 id: must,
    0x82 state: must,
} }

/// A connection that is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedConnection {
    /// The name of the connection in an earlier record.
    pub id: MovedId,
}

layout! { ClosedConnection {
    0x81 id: must,
} }

/// An agent and its state.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// The place of the agent in the roster.
    pub slot: u32,
    /// All of the agent's state.
    pub state: AgentState,
}

layout! { Agent {
    0x81 slot: must,
    0x82 state: must,
} }

/// An agent that was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemovedAgent {
    /// The place that the agent had in the roster.
    pub slot: u32,
}

layout! { RemovedAgent {
    0x81 slot: must,
} }

/// What a process and its predecessors have counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counts {
    /// The counters of the reactor.
    pub counters: ReactorCounters,
    /// The counts of received packets.
    pub tally: SessionCounters,
}

layout! { Counts {
    0x81 counters: must,
    0x82 tally: must,
} }

/// The figures of a hand-over up to the freeze, as the predecessor measured them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// When the predecessor stopped its event loop; from then on agents wait.
    pub begun: Moment,
    /// The successor's generation: the predecessor's plus one.
    pub generation: u32,
    /// The duration of the pre-copy.
    pub precopy: Duration,
    /// The duration of the store's last commit; zero without a store.
    pub quiesce: Duration,
    /// Bytes of all earlier snapshots.
    pub bytes: u64,
}

layout! { Freeze {
    0x81 begun: must,
    0x82 generation: must,
    0x03 precopy: may,
    0x04 quiesce: may,
    0x05 bytes: may,
} }
