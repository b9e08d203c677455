//! Agents and what the handler knows beside them, field by field.

use super::Damage;
use super::fields::layout;
use crate::handler::KeeperState;
use crate::roster::{AgentState, Counters as AgentCounters, MAX_VERSION};
use crate::store::Counters as StoreCounters;
use crate::wire::AgentName;

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
} retired 0x88, 0x89 }

layout! { KeeperState {
    0x82 amnesty: must,
    0x83 held_since: may,
    0x84 store: may,
    0x05 agents: may,
    0x11 open_files: may,
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
} }

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
