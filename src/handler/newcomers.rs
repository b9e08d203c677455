//! New agents: finding a place for each, and logging when there is none.

use super::PacketHandler;
use crate::roster::{AgentKey, Entry, Identity, NoPlace};
use crate::session::Sender;
use hawk_time::log_limited;

impl PacketHandler {
    /// Inserts a new agent, and removes another one first if there are too many. `None`:
    /// there is no place for it.
    #[cold]
    pub(super) fn meet(&mut self, sender: Sender<'_>, identity: Identity<'_>) -> Option<AgentKey> {
        let address = sender.peer.ip().to_canonical();
        match self.roster.make_room(address, self.now) {
            Ok(None) => {}
            Ok(Some(surplus)) => self.evict(surplus),
            Err(reason) => {
                self.log_refusal(sender, reason);
                return None;
            }
        }
        let mut entry = Entry::new(identity, address, self.now, self.wall);
        // The session's own, so that there is no other.
        entry.name = sender.agent.cloned();
        Some(self.roster.insert(entry, self.now))
    }

    #[cold]
    fn log_refusal(&mut self, sender: Sender<'_>, reason: NoPlace) {
        let why = match reason {
            NoPlace::TooFast => "its address brings too many new ones at once",
            NoPlace::ShareTaken => {
                "its address has its share of the places; to enlarge it, raise --max-agents"
            }
            NoPlace::Full => {
                "all places are taken by agents that are established or connected; raise \
                 --max-agents"
            }
        };
        log_limited!(warn, self.refusals, self.now, left_out =>
            "new agent refused: {why} peer={} agent={:?} max_agents={} left_out={left_out}",
            sender.peer,
            sender.agent.map_or("", |name| &**name),
            self.config.roster.capacity);
    }
}
