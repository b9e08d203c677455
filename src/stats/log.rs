//! The statistics in the log, and their rates.

use std::fmt;
use std::time::Duration;

use super::{ReactorCounters, SessionCounters, Statistics};
use hawk_time::Moment;

/// The target of the lines in the log: `RUST_LOG=hawk::stats=off` silences them.
const TARGET: &str = "hawk::stats";

/// The counts of one moment from which rates are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The moment.
    pub at: Moment,
    /// Packets taken.
    pub packets: u64,
    /// Bytes read from agents.
    pub bytes_in: u64,
    /// Bytes written to agents.
    pub bytes_out: u64,
}

/// Averages over the time between two moments, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    packets: f64,
    bytes_in: f64,
    bytes_out: f64,
}

impl Totals {
    pub(super) const fn new(
        at: Moment,
        reactor: &ReactorCounters,
        sessions: &SessionCounters,
    ) -> Self {
        Self {
            at,
            packets: sessions.heartbeats + sessions.reports,
            bytes_in: reactor.bytes_in,
            bytes_out: reactor.bytes_out,
        }
    }

    /// Returns the rates since `earlier`.
    #[must_use]
    pub fn rates_since(&self, earlier: &Self) -> Rates {
        let span = self.at.since(earlier.at);
        // A server that was restarted in between has counted less.
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), span);
        Rates {
            packets: rate(self.packets, earlier.packets),
            bytes_in: rate(self.bytes_in, earlier.bytes_in),
            bytes_out: rate(self.bytes_out, earlier.bytes_out),
        }
    }
}

/// As they stand at the end of the server's line.
impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            packets,
            bytes_in,
            bytes_out,
        } = self;
        write!(
            f,
            "packets_per_s={packets:.1} bytes_in_per_s={bytes_in:.0} bytes_out_per_s={bytes_out:.0}"
        )
    }
}

/// Logs the statistics, and omits lines that have not changed since they were last logged.
#[derive(Debug)]
pub struct StatsLog {
    /// The counts at the last call of [`log`](Self::log), and at the call before it.
    last: Totals,
    last_but_one: Totals,
    /// The lines of the last call, without rates.
    lines: Vec<String>,
}

impl StatsLog {
    /// Returns a log without lines yet.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        let zero = Totals {
            at: now,
            packets: 0,
            bytes_in: 0,
            bytes_out: 0,
        };
        Self {
            last: zero,
            last_but_one: zero,
            lines: Vec::new(),
        }
    }

    /// Excludes these counts of a predecessor from the next rates.
    pub const fn resume(&mut self, reactor: &ReactorCounters, sessions: &SessionCounters) {
        self.last = Totals::new(self.last.at, reactor, sessions);
        self.last_but_one = self.last;
    }

    /// Logs the lines: all of them if `all`, otherwise those that changed. Rates count from
    /// the last call.
    pub fn log(&mut self, statistics: &Statistics, all: bool) {
        let totals = statistics.totals();
        let rates = totals.rates_since(&self.last);
        self.last_but_one = std::mem::replace(&mut self.last, totals);
        let lines = statistics.lines();
        for (index, line) in lines.iter().enumerate() {
            if all || self.lines.get(index) != Some(line) {
                match index {
                    0 => log::info!(target: TARGET, "{line} {rates}"),
                    _ => log::info!(target: TARGET, "{line}"),
                }
            }
        }
        self.lines = lines;
    }

    /// Returns the lines for a client, with the time at which they were true, from which the
    /// client computes rates of its own. Leaves the log as it is.
    ///
    /// Rates count from the call before the last of [`log`](Self::log), so that they cover an
    /// interval at least.
    #[must_use]
    pub fn answer(&self, statistics: &Statistics) -> Vec<String> {
        let rates = statistics.totals().rates_since(&self.last_but_one);
        let mut lines = statistics.lines();
        if let Some(server) = lines.first_mut() {
            *server = format!("{server} {rates}");
        }
        lines.insert(
            0,
            format!("clock monotonic_ns={}", statistics.at.as_nanos()),
        );
        lines
    }
}

#[expect(clippy::cast_precision_loss)] // For people to read.
fn per_second(count: u64, span: Duration) -> f64 {
    if span.is_zero() {
        return 0.0;
    }
    count as f64 / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{AgentStatistics, ServerStatistics};
    use hawk_wire::Reply;

    fn second(second: u64) -> Moment {
        Moment::from_nanos(1).after(Duration::from_secs(second))
    }

    fn statistics(at: u64, reports: u64) -> Statistics {
        let mut sessions = SessionCounters::default();
        (0..reports).for_each(|_| sessions.answered(Reply::Report));
        let pool = hawk_pool::Pool::new(&hawk_pool::Config {
            classes: vec![1, 2],
            limit: 4,
        });
        let mut statistics = Statistics::new(
            second(at),
            ServerStatistics {
                sessions,
                ..ServerStatistics::default()
            },
        );
        statistics.agents = Some(AgentStatistics::default());
        statistics.pool = pool.unwrap().stats().classes;
        statistics
    }

    /// The lines for a client, and their rate of packets.
    fn answer(log: &StatsLog, statistics: &Statistics) -> (Vec<String>, String) {
        let lines = log.answer(statistics);
        let (_, rates) = lines[1].split_once(" packets_per_s=").unwrap();
        let packets = rates.split(' ').next().unwrap().to_owned();
        (lines, packets)
    }

    #[test]
    fn rates_count_from_the_calls_of_the_log_which_clients_do_not_disturb() {
        let mut log = StatsLog::new(second(0));
        let (lines, rate) = answer(&log, &statistics(5, 20));
        let heads: Vec<_> = lines
            .iter()
            .map(|line| line.split('=').next().unwrap())
            .collect();
        assert_eq!(
            heads,
            [
                "clock monotonic_ns",
                "stats connections",
                "agents known",
                "pool class",
                "pool class"
            ]
        );
        assert_eq!(rate, "4.0");
        log.log(&statistics(10, 20), false);
        // The next line of the log has 30 reports in 10 s. A client an instant after the last
        // one does not get the rates of that instant.
        assert_eq!(answer(&log, &statistics(10, 20)).1, "2.0");
        let totals = statistics(20, 50).totals();
        let rates = totals.rates_since(&log.last).to_string();
        assert!(rates.starts_with("packets_per_s=3.0 "), "{rates}");
        log.log(&statistics(20, 50), false);
        let (_, rate) = answer(&log, &statistics(25, 50));
        assert_eq!(
            rate, "2.0",
            "30 reports in the 15 s since the call before the last"
        );

        let restarted = statistics(26, 0).totals().rates_since(&totals).to_string();
        assert!(restarted.starts_with("packets_per_s=0.0 "), "{restarted}");
    }
}
