//! Agents that share a name by mistake.

use super::PacketHandler;
use crate::roster::AgentKey;
use crate::session::Sender;
use hawk_time::log_limited;

impl PacketHandler {
    /// Two machines use one agent's name.
    #[cold]
    pub(super) fn warn_of_clone(&mut self, key: AgentKey, sender: Sender<'_>) {
        if let Some(entry) = self.roster.get(key) {
            log_limited!(warn, self.clone_log, self.now, left_out =>
                "agent cloned: connections from two addresses use its name alternately; give each \
                 machine a name of its own agent={:?} peer={} left_out={left_out}",
                entry.name.as_deref().unwrap_or_default(),
                sender.peer);
        }
    }
}
