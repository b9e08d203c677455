//! The layouts of all state in a snapshot: connections, sessions, agents and counters.
//!
//! A tag is never reused for another field. A new field that an older build can do without
//! gets a tag without [`REQUIRED`](super::fields::REQUIRED).

use std::num::NonZeroU32;

use super::DecodeError;
use super::fields::{Fields, Value, codes, layout, put_with, skip};
use crate::handler::HandlerState;
use crate::reactor::{ConnectionPhase, ConnectionState, MovedId};
use crate::roster::{AgentState, Counters as AgentCounters, JudgedBy, MAX_VERSION, PresenceState};
use crate::session::{Bucket, Clocks, SessionState, StopReason, Tag};
use crate::stats::{
    Cause, CountByCause, CountByRefusal, ReactorCounters, SessionCounters, StoreCounters,
};
use hawk_time::Moment;
use hawk_wire::{AgentName, DecoderState, Refusal};

layout! { ConnectionState {
    0x81 session: must,
    0x82 phase: must,
    0x83 write_failed: may,
    0x84 undecoded: may,
} }

impl Value for MovedId {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        u64::read(bytes).map(Self)
    }
}

/// The fields of a phase: its number, and while the server closes the connection, why and
/// when it is cut off.
#[derive(Clone, Copy)]
struct PhaseFields {
    stage: u8,
    ending: Option<EndingFields>,
}

layout! { PhaseFields {
    0x81 stage: must,
    0x82 ending: may,
} }

#[derive(Clone, Copy, PartialEq)]
struct EndingFields {
    cause: Cause,
    until: Moment,
}

layout! { EndingFields {
    0x81 cause: must,
    0x82 until: must,
} }

const OPEN: u8 = 1;
const FINISHING: u8 = 2;
const CLOSING: u8 = 3;
const LINGERING: u8 = 4;

impl Value for ConnectionPhase {
    fn write(&self, out: &mut Vec<u8>) {
        let (stage, ending) = match *self {
            Self::Open => (OPEN, None),
            Self::Finishing => (FINISHING, None),
            Self::Closing { cause, until } => (CLOSING, Some(EndingFields { cause, until })),
            Self::Lingering { cause, until } => (LINGERING, Some(EndingFields { cause, until })),
        };
        PhaseFields { stage, ending }.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let PhaseFields { stage, ending } = Value::read(bytes)?;
        match (stage, ending) {
            (OPEN, None) => Ok(Self::Open),
            (FINISHING, None) => Ok(Self::Finishing),
            (CLOSING, Some(EndingFields { cause, until })) => Ok(Self::Closing { cause, until }),
            (LINGERING, Some(EndingFields { cause, until })) => {
                Ok(Self::Lingering { cause, until })
            }
            _ => Err(DecodeError::Value),
        }
    }
}

layout! { SessionState {
    0x81 peer: must,
    0x82 agent: may,
    0x83 decoder: must,
    0x84 clocks: must,
    0x85 bucket: may,
    0x86 buffered: may,
    0x87 unsent: may,
    0x88 frames: may,
    0x89 tag: may,
} check check_session }

layout! { DecoderState {
    0x81 clean: may,
    0x82 junk: may,
    0x83 boundary: may,
} }

layout! { Clocks {
    0x81 last_passed: must,
    0x82 begun: may,
    0x83 stopped: may,
    0x84 last_heartbeat: may,
    0x85 intervals: may,
    0x06 last_report: may,
} }

/// Refuses a decoder state that claims more bytes than there are, and an invalid agent name.
fn check_session(state: &SessionState) -> Result<(), DecodeError> {
    let of = "SessionState";
    if state.decoder.clean as usize > state.buffered.len() {
        let field = "decoder";
        return Err(DecodeError::Field { of, field });
    }
    check_name(state.agent.as_deref(), of, "agent")
}

fn check_name(
    name: Option<&str>,
    of: &'static str,
    field: &'static str,
) -> Result<(), DecodeError> {
    match name.map(AgentName::new) {
        Some(Err(_)) => Err(DecodeError::Field { of, field }),
        _ => Ok(()),
    }
}

impl Value for Bucket {
    fn write(&self, out: &mut Vec<u8>) {
        self.full_at().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        Moment::read(bytes).map(Self::from_full_at)
    }
}

impl Value for Tag {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.get().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let number = NonZeroU32::new(u32::read(bytes)?);
        number.map(Self).ok_or(DecodeError::Value)
    }
}

codes! { StopReason { 1 Buffer, 2 Store, 3 Rate, 4 Output } }

/// One byte for the reason, then the moment.
impl Value for (StopReason, Moment) {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
        self.1.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (reason, since) = bytes.split_at_checked(1).ok_or(DecodeError::Value)?;
        Ok((Value::read(reason)?, Value::read(since)?))
    }
}

layout! { AgentState {
    0x81 name: may,
    0x82 address: must,
    0x83 version: may,
    0x84 first_seen: must,
    0x85 last_seen: must,
    0x86 online: may,
    0x87 changed_at: must,
    0x8A sessions: may,
    0x8B seen_at: must,
    0x8C last_heartbeat: may,
    0x8D intervals: may,
    0x21 hours: may,
    0x22 last_hour: may,
    0x0E presence: may,
} retired 0x88, 0x89 check check_agent }

layout! { PresenceState {
    0x01 absence: may,
    0x02 came_at: may,
    0x03 judged_by: may,
    0x04 paused: may,
    0x05 paused_since: may,
    0x06 last_report: may,
    0x07 report_interval: may,
    0x08 alike: may,
    0x09 alike_since: may,
    0x0A alike_range: may,
    0x0B cloned_at: may,
} }

layout! { HandlerState {
    0x82 amnesty: must,
    0x83 held_since: may,
    0x84 store: may,
    0x05 agents: may,
    0x11 open_files: may,
    0x06 stood_still_ms: may,
} retired 0x81 }

layout! { AgentCounters {
    0x01 refused: may,
    0x02 evicted: may,
} }

layout! { StoreCounters {
    0x81 commits: may,
    0x82 reports: may,
    0x83 failed: may,
    0x84 discarded: may,
    0x85 expired: may,
    0x86 bytes: may,
    0x87 wal_bytes: may,
    0x01 expired_early: may,
    0x02 dropped_events: may,
    0x03 dropped_agents: may,
    0x08 expiry_paused: may,
} }

codes! { JudgedBy { 0 Heartbeats, 1 Reports, 2 FormerReports, 3 Nothing } }

/// Refuses a version that is too long, and an invalid name.
fn check_agent(state: &AgentState) -> Result<(), DecodeError> {
    let of = "AgentState";
    if state.version.len() > MAX_VERSION {
        let field = "version";
        return Err(DecodeError::Field { of, field });
    }
    check_name(state.name.as_deref(), of, "name")
}

layout! { ReactorCounters {
    0x81 accepted: may,
    0x82 accept_errors: may,
    0x83 bytes_in: may,
    0x84 bytes_out: may,
    0x85 reads: may,
    0x86 writes: may,
    0x87 held: may,
    0x88 rate_limited: may,
    0x89 output_limited: may,
    0x8A closed: may,
} }

layout! { SessionCounters {
    0x81 heartbeats: may,
    0x82 reports: may,
    0x83 busy: may,
    0x84 junk_bytes: may,
    0x85 candidates_dropped: may,
    0x86 refusals: may,
} }

/// As its name, which is the same in every build.
impl Value for Cause {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name().as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut all = Self::ALL.into_iter();
        all.find(|cause| cause.name().as_bytes() == bytes)
            .ok_or(DecodeError::Value)
    }
}

impl Value for CountByCause {
    fn write(&self, out: &mut Vec<u8>) {
        write_named(&Cause::ALL.map(Cause::name), &self.0, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        read_named(&Cause::ALL.map(Cause::name), bytes).map(Self)
    }
}

impl Value for CountByRefusal {
    fn write(&self, out: &mut Vec<u8>) {
        write_named(&Refusal::ALL.map(Refusal::name), &self.0, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        read_named(&Refusal::ALL.map(Refusal::name), bytes).map(Self)
    }
}

/// The tag of a count with its name. A build that does not know the name skips the field.
const NAMED: u8 = 0x01;

/// Appends each count that is not zero: the count, then its name.
fn write_named<const N: usize>(names: &[&str; N], counts: &[u64; N], out: &mut Vec<u8>) {
    for (name, count) in names.iter().zip(counts).filter(|(_, count)| **count > 0) {
        put_with(out, NAMED, |out| {
            count.write(out);
            out.extend_from_slice(name.as_bytes());
        });
    }
}

/// Decodes the counts of known names.
fn read_named<const N: usize>(names: &[&str; N], bytes: &[u8]) -> Result<[u64; N], DecodeError> {
    let mut counts = [0; N];
    for field in Fields(bytes) {
        let (tag, bytes) = field?;
        if tag != NAMED {
            skip(tag, "counts by cause")?;
            continue;
        }
        let (count, name) = bytes.split_at_checked(8).ok_or(DecodeError::Value)?;
        let place = names.iter().position(|known| known.as_bytes() == name);
        if let Some(place) = place {
            counts[place] = u64::read(count)?;
        }
    }
    Ok(counts)
}
