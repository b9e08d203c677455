//! Counting and logging what bounds remove.

use std::time::Duration;

use super::retention::Removed;
use crate::stats::StoreCounters;
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};

/// The interval of log lines about each bound.
const LOG_INTERVAL: Duration = Duration::from_secs(3600);

/// Log lines about what bounds remove, each once an hour.
pub(super) struct Drops {
    reports: Throttle,
    events: Throttle,
    agents: Throttle,
}

impl Default for Drops {
    fn default() -> Self {
        let hourly = || Throttle::every(LOG_INTERVAL);
        Self {
            reports: hourly(),
            events: hourly(),
            agents: hourly(),
        }
    }
}

impl Drops {
    /// Counts what a committed step of retention has removed, and logs it.
    pub(super) fn count(&mut self, removed: Removed, counters: &mut StoreCounters, now: Moment) {
        let Removed {
            reports,
            early,
            events,
            agents,
        } = removed;
        counters.expired += reports;
        counters.expired_early += early;
        counters.dropped_events += events;
        counters.dropped_agents += agents;
        if early > 0 {
            log_limited!(warn, self.reports, now, _left_out =>
                "reports are removed before they are older than --retain, because of \
                 --retain-size or --retain-free expired_early={}",
                counters.expired_early);
        }
        if events > 0 {
            log_limited!(warn, self.events, now, _left_out =>
                "events are removed before they are older than --retain, because there are too \
                 many dropped_events={}",
                counters.dropped_events);
        }
        if agents > 0 {
            log_limited!(warn, self.agents, now, _left_out =>
                "agents that are not established are removed from the store, because there are \
                 more than --max-agents dropped_agents={}",
                counters.dropped_agents);
        }
    }
}
