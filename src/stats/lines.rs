//! The statistics as lines of `key=value` pairs, as documented in docs/operations.md.

use std::fmt;

use super::{
    AgentStatistics, HookCounters, HookStatistics, RestartStatistics, ServerStatistics, Statistics,
    StoreCounters, StoreState, StoreStatistics, TakeOverStatistics,
};

/// Implements `Display` for a struct: its fields in the order given, each under its own name.
/// A field that is left out does not compile.
macro_rules! display_pairs {
    ($of:ident: $first:ident $($field:ident)*) => {
        impl fmt::Display for $of {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self { $first, $($field),* } = self;
                write!(f, concat!(stringify!($first), "={}"), $first)?;
                $(write!(f, concat!(" ", stringify!($field), "={}"), $field)?;)*
                Ok(())
            }
        }
    };
}

display_pairs! { AgentStatistics:
    known online established refused evicted unwatched cloned stood_still_ms
}

display_pairs! { StoreCounters:
    commits reports failed discarded expired expired_early dropped_events dropped_agents bytes
    wal_bytes expiry_paused
}

display_pairs! { HookCounters:
    running waiting run failed timed_out dropped delivered retried skipped missed
}

display_pairs! { TakeOverStatistics: connections state_bytes precopy_us quiesce_us pause_us }

impl Statistics {
    /// Returns the lines, without rates. The server's is the first.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("stats {}", self.server)];
        lines.extend(self.agents.map(|agents| format!("agents {agents}")));
        lines.extend(self.store.map(|StoreStatistics { state, counters }| {
            format!("store state={} {counters}", state.name())
        }));
        let hook =
            |HookStatistics { name, counters }: &HookStatistics| format!("{name} {counters}");
        lines.extend(self.hooks.iter().map(hook));
        lines.extend(self.restart.map(|restart| format!("restart {restart}")));
        lines.extend(self.pool.iter().map(|class| format!("pool {class}")));
        lines
    }
}

impl StoreState {
    const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Stalled => "stalled",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for RestartStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            generation,
            rolled_back,
            take_over,
        } = self;
        write!(
            f,
            "version={version} generation={generation} rolled_back={rolled_back}"
        )?;
        match take_over {
            Some(take_over) => write!(f, " {take_over}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for ServerStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            unsent,
            pending,
            log_left_out,
            reactor,
            sessions,
        } = self;
        write!(
            f,
            "connections={connections} accepted={} accept_errors={} heartbeats={} reports={} \
             busy={} errors={}",
            reactor.accepted,
            reactor.accept_errors,
            sessions.heartbeats,
            sessions.reports,
            sessions.busy,
            sessions.refused_total(),
        )?;
        // The long lists omit zeros.
        for (refusal, count) in sessions.refusals().filter(|(_, count)| *count > 0) {
            write!(f, " error_{}={count}", refusal.name())?;
        }
        for (cause, count) in reactor.closings().filter(|(_, count)| *count > 0) {
            write!(f, " closed_{}={count}", cause.name())?;
        }
        write!(
            f,
            " junk_bytes={} candidates_dropped={} bytes_in={} bytes_out={} reads={} writes={} \
             held={} rate_limited={} unsent={unsent} owed={pending} output_limited={} \
             log_left_out={log_left_out}",
            sessions.junk_bytes,
            sessions.candidates_dropped,
            reactor.bytes_in,
            reactor.bytes_out,
            reactor.reads,
            reactor.writes,
            reactor.held,
            reactor.rate_limited,
            reactor.output_limited,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Cause, ReactorCounters, SessionCounters};
    use hawk_wire::{Refusal, Reply};

    #[test]
    fn the_server_line_is_key_value_and_names_causes() {
        let mut reactor = ReactorCounters {
            accepted: 3,
            ..ReactorCounters::default()
        };
        reactor.closed(Cause::IdleTimeout);
        let mut sessions = SessionCounters::default();
        sessions.answered(Reply::Report);
        sessions.answered(Reply::Error(Refusal::BadBase64));
        let line = ServerStatistics {
            connections: 2,
            unsent: 7,
            pending: 1,
            log_left_out: 3,
            reactor,
            sessions,
        };
        assert_eq!(
            line.to_string(),
            "connections=2 accepted=3 accept_errors=0 heartbeats=0 reports=1 busy=0 errors=1 \
             error_bad_base64=1 closed_idle_timeout=1 junk_bytes=0 candidates_dropped=0 \
             bytes_in=0 bytes_out=0 reads=0 writes=0 held=0 rate_limited=0 \
             unsent=7 owed=1 output_limited=0 log_left_out=3"
        );
    }

    #[test]
    fn every_part_has_a_line() {
        let statistics = Statistics {
            at: hawk_time::Moment::from_nanos(1),
            server: ServerStatistics::default(),
            agents: Some(AgentStatistics::default()),
            store: Some(StoreStatistics {
                state: StoreState::Stalled,
                counters: StoreCounters::default(),
            }),
            hooks: ["hook", "events"]
                .map(|name| HookStatistics {
                    name,
                    counters: HookCounters::default(),
                })
                .to_vec(),
            restart: Some(RestartStatistics {
                version: "1.2.3",
                generation: 2,
                rolled_back: 0,
                take_over: Some(TakeOverStatistics {
                    connections: 9,
                    state_bytes: 8,
                    precopy_us: 7,
                    quiesce_us: 6,
                    pause_us: 5,
                }),
            }),
            pool: Vec::new(),
        };
        let hook = "running=0 waiting=0 run=0 failed=0 timed_out=0 dropped=0 delivered=0 \
                    retried=0 skipped=0 missed=0";
        let (each, gathered) = (format!("hook {hook}"), format!("events {hook}"));
        assert_eq!(
            statistics.lines()[1..],
            [
                "agents known=0 online=0 established=0 refused=0 evicted=0 unwatched=0 cloned=0 \
                 stood_still_ms=0",
                "store state=stalled commits=0 reports=0 failed=0 discarded=0 expired=0 \
                 expired_early=0 dropped_events=0 dropped_agents=0 bytes=0 wal_bytes=0 \
                 expiry_paused=0",
                each.as_str(),
                gathered.as_str(),
                "restart version=1.2.3 generation=2 rolled_back=0 connections=9 state_bytes=8 \
                 precopy_us=7 quiesce_us=6 pause_us=5",
            ]
        );
    }
}
