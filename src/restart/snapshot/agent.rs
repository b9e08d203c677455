//! Agents and what the handler knows beside them, field by field.

use super::Damage;
use super::fields::{Value, layout};
use crate::handler::HandlerState;
use crate::roster::{AgentState, Counters as AgentCounters, JudgedBy, MAX_VERSION, PresenceState};
use crate::stats::StoreCounters;
use hawk_wire::AgentName;

layout! { AgentState {
    0x81 name: may,
    0x82 address: must,
    0x83 version: may,
    0x84 first_seen: must,
    0x85 last_seen: must,
    0x86 online: may,
    0x87 changed_at: must,
    0x8A sessions: may,
    0x8B heard_at: must,
    0x8C last_heartbeat: may,
    0x8D intervals: may,
    0x21 hours: may,
    0x22 last_hour: may,
    0x0E presence: may,
} retired 0x88, 0x89 }

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

impl Value for JudgedBy {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Heartbeats => 0,
            Self::Reports => 1,
            Self::FormerReports => 2,
            Self::Nothing => 3,
        });
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        match bytes {
            [0] => Ok(Self::Heartbeats),
            [1] => Ok(Self::Reports),
            [2] => Ok(Self::FormerReports),
            [3] => Ok(Self::Nothing),
            _ => Err(Damage::Value),
        }
    }
}

/// Refuses an agent that was read and could not have been written.
pub(super) fn check(state: &AgentState) -> Result<(), Damage> {
    let of = "AgentState";
    if state.version.len() > MAX_VERSION {
        let field = "version";
        return Err(Damage::Field { of, field });
    }
    if let Some(Err(_)) = state.name.as_deref().map(AgentName::new) {
        let field = "name";
        return Err(Damage::Field { of, field });
    }
    Ok(())
}
