//! A session, field by field.
//!
//! No tag is ever used anew for something else. A new field that an older build can do
//! without gets a tag without [`REQUIRED`](super::fields::REQUIRED).

use std::num::NonZeroU32;

use super::Damage;
use super::fields::{Value, layout};
use crate::session::{Bucket, Clocks, SessionState, StopReason, Tag};
use hawk_time::Moment;
use hawk_wire::{AgentName, DecoderState};

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
} }

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

/// Refuses a session that was read and could not have been written: what its decoder
/// remembers must be about the bytes that it has, and its name must be a name.
pub(super) fn check(state: &SessionState) -> Result<(), Damage> {
    let of = "SessionState";
    if state.decoder.clean as usize > state.buffered.len() {
        let field = "decoder";
        return Err(Damage::Field { of, field });
    }
    if let Some(Err(_)) = state.agent.as_deref().map(AgentName::new) {
        let field = "agent";
        return Err(Damage::Field { of, field });
    }
    Ok(())
}

impl Value for Bucket {
    fn write(&self, out: &mut Vec<u8>) {
        self.full_at().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        Moment::read(bytes).map(Self::from_full_at)
    }
}

impl Value for Tag {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.get().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let number = NonZeroU32::new(u32::read(bytes)?);
        number.map(Self).ok_or(Damage::Value)
    }
}

/// One byte for the reason, then the moment.
impl Value for (StopReason, Moment) {
    fn write(&self, out: &mut Vec<u8>) {
        let (reason, since) = self;
        out.push(match reason {
            StopReason::Buffer => 1,
            StopReason::Store => 2,
            StopReason::Rate => 3,
            StopReason::Output => 4,
        });
        since.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let (reason, since) = bytes.split_first().ok_or(Damage::Value)?;
        let reason = match reason {
            1 => StopReason::Buffer,
            2 => StopReason::Store,
            3 => StopReason::Rate,
            4 => StopReason::Output,
            _ => return Err(Damage::Value),
        };
        Ok((reason, Moment::read(since)?))
    }
}
