//! Agents that are removed to make room for others.

use std::time::Duration;

use super::PacketHandler;
use crate::roster::AgentKey;
use hawk_time::log_limited;

/// The interval of log lines about agents that a bound removes.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(3600);

impl PacketHandler {
    /// Removes an agent to make room for another one, from the store as well; its reports
    /// stay.
    pub(super) fn evict(&mut self, key: AgentKey) {
        if self.roster.get(key).is_some_and(|entry| entry.online) {
            self.roster.mark_offline(key, self.wall);
            self.tell(key);
        }
        if let Some(books) = &mut self.books {
            books.remove_agent(&self.roster, key);
        }
        self.roster.remove(key);
        log_limited!(warn, self.evictions, self.now, left_out =>
            "too many agents: the longest silent agent that is not established was removed to \
             make room; if these are agents of yours, raise --max-agents max_agents={} \
             established={} evicted={} left_out={left_out}",
            self.config.roster.capacity,
            self.roster.established(),
            self.roster.counters().evicted);
    }
}
