//! What a snapshot consists of.

use std::time::Duration;

use super::Damage;
use super::fields::{Value, layout, put, put_with, skip};
use super::{agent, session};
use crate::handler::HandlerState;
use crate::reactor::{ConnectionState, MovedId};
use crate::roster::AgentState;
use crate::stats::{ReactorCounters, SessionCounters};
use hawk_time::Moment;

/// One piece of a process's state.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A connection that was not told of before. Its socket travels beside the snapshot.
    Opened {
        /// What it is called from now on.
        id: MovedId,
        /// All there is to know of it.
        state: ConnectionState,
    },
    /// A connection that was told of, as it is now.
    Changed {
        /// Which.
        id: MovedId,
        /// All there is to know of it.
        state: ConnectionState,
    },
    /// A connection that was told of has ended.
    Closed {
        /// Which.
        id: MovedId,
    },
    /// An agent, as it is now, whether it was told of before or not.
    Agent {
        /// What it is called.
        slot: u32,
        /// All there is to know of it.
        state: AgentState,
    },
    /// An agent that was told of is forgotten.
    Forgotten {
        /// Which.
        slot: u32,
    },
    /// What the handler knows beside its agents.
    Handler(HandlerState),
    /// What was counted.
    Counts {
        /// By the reactor.
        counters: ReactorCounters,
        /// Of what came in.
        tally: SessionCounters,
    },
    /// How the hand-over went until now.
    Freeze(Freeze),
}

/// How the hand-over went, as the predecessor saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// When it stood still: from then on agents wait.
    pub begun: Moment,
    /// The generation of the successor: the predecessor's, and one more.
    pub generation: u32,
    /// How long the pre-copy took.
    pub precopy: Duration,
    /// How long it took to commit what was in the store's hands; nothing without a store.
    pub quiesce: Duration,
    /// Bytes of all snapshots before this one.
    pub bytes: u64,
}

layout! { Freeze {
    0x81 begun: must,
    0x82 generation: must,
    0x03 precopy: may,
    0x04 quiesce: may,
    0x05 bytes: may,
} }

/// A connection in one of the records that have one.
struct Connection {
    id: MovedId,
    state: ConnectionState,
}

layout! { Connection {
    0x81 id: must,
    0x82 state: must,
} }

/// Something that is no more.
struct Gone {
    id: MovedId,
}

layout! { Gone {
    0x81 id: must,
} }

struct Agent {
    slot: u32,
    state: AgentState,
}

layout! { Agent {
    0x81 slot: must,
    0x82 state: must,
} }

struct Forgotten {
    slot: u32,
}

layout! { Forgotten {
    0x81 slot: must,
} }

struct Counts {
    counters: ReactorCounters,
    tally: SessionCounters,
}

layout! { Counts {
    0x81 counters: must,
    0x82 tally: must,
} }

const OPENED: u8 = 0x81;
const CHANGED: u8 = 0x82;
const CLOSED: u8 = 0x83;
const AGENT: u8 = 0x84;
const FORGOTTEN: u8 = 0x85;
const COUNTS: u8 = 0x86;
const HANDLER: u8 = 0x87;
const FREEZE: u8 = 0x88;

impl Record {
    /// Appends it, with its kind and its length.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Opened { id, state } => put_named(out, OPENED, id, state),
            Self::Changed { id, state } => put_named(out, CHANGED, id, state),
            Self::Closed { id } => put(out, CLOSED, &Gone { id: *id }),
            Self::Agent { slot, state } => put_named(out, AGENT, slot, state),
            Self::Forgotten { slot } => put(out, FORGOTTEN, &Forgotten { slot: *slot }),
            Self::Handler(state) => put(out, HANDLER, state),
            Self::Counts { counters, tally } => {
                let counts = Counts {
                    counters: *counters,
                    tally: *tally,
                };
                put(out, COUNTS, &counts);
            }
            Self::Freeze(freeze) => put(out, FREEZE, freeze),
        }
    }

    /// The record of this kind that `bytes` are; `None` if it is to be skipped.
    pub(super) fn read(kind: u8, bytes: &[u8]) -> Result<Option<Self>, Damage> {
        Ok(Some(match kind {
            OPENED => {
                let Connection { id, state } = read_connection(bytes)?;
                Self::Opened { id, state }
            }
            CHANGED => {
                let Connection { id, state } = read_connection(bytes)?;
                Self::Changed { id, state }
            }
            CLOSED => {
                let Gone { id } = Value::read(bytes)?;
                Self::Closed { id }
            }
            AGENT => {
                let Agent { slot, state } = Value::read(bytes)?;
                agent::check(&state)?;
                Self::Agent { slot, state }
            }
            FORGOTTEN => {
                let Forgotten { slot } = Value::read(bytes)?;
                Self::Forgotten { slot }
            }
            HANDLER => Self::Handler(Value::read(bytes)?),
            COUNTS => {
                let Counts { counters, tally } = Value::read(bytes)?;
                Self::Counts { counters, tally }
            }
            FREEZE => Self::Freeze(Value::read(bytes)?),
            unknown => {
                skip(unknown, "snapshot").map_err(|_| Damage::UnknownRecord(unknown))?;
                return Ok(None);
            }
        }))
    }
}

/// As [`Connection`] and [`Agent`] are laid out, without a copy of the state.
fn put_named(out: &mut Vec<u8>, kind: u8, name: &impl Value, state: &impl Value) {
    put_with(out, kind, |out| {
        put(out, 0x81, name);
        put(out, 0x82, state);
    });
}

fn read_connection(bytes: &[u8]) -> Result<Connection, Damage> {
    let connection = Connection::read(bytes)?;
    session::check(&connection.state.session)?;
    Ok(connection)
}
