//! The statistics as log lines: `key=value` pairs, for people and programs.

use std::fmt::Write as _;
use std::time::Duration;

use hawk_pool::Pool;

use super::Counters;
use crate::session::Tally;
use crate::time::Moment;

/// Under what name the lines are logged: `RUST_LOG=hawk::stats=off` silences
/// them, wherever in the source they come from.
const TARGET: &str = "hawk::stats";

/// What the reactor knows to tell.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    /// Connections there are.
    pub connections: usize,
    /// Bytes of replies that agents have not read.
    pub unsent: usize,
    /// Replies that wait for a commit.
    pub owed: usize,
    /// Log lines that were left out, because stderr was not read in time.
    pub log_left_out: u64,
    /// Its own doings.
    pub counters: &'a Counters,
    /// What came in.
    pub tally: &'a Tally,
    /// Its receive buffers.
    pub pool: &'a Pool,
}

/// Writes the statistics' log lines and remembers the last ones, so that a
/// quiet server does not repeat itself.
#[derive(Debug)]
pub struct StatsLog {
    last: Moment,
    packets: u64,
    bytes_in: u64,
    bytes_out: u64,
    server_line: String,
    handler_lines: Vec<String>,
    pool: hawk_pool::Stats,
    logged_pool: Vec<hawk_pool::ClassStats>,
}

impl StatsLog {
    /// A log in which nothing has been said so far.
    #[must_use]
    pub fn new(now: Moment) -> Self {
        Self {
            last: now,
            packets: 0,
            bytes_in: 0,
            bytes_out: 0,
            server_line: String::new(),
            handler_lines: Vec::new(),
            pool: hawk_pool::Stats::default(),
            logged_pool: Vec::new(),
        }
    }

    /// Logs the server's line, those of its handler, and one for each class of the
    /// pool: all of them if `all`, otherwise those that changed since they were
    /// last logged.
    pub fn log(
        &mut self,
        now: Moment,
        all: bool,
        figures: &Figures<'_>,
        handler_lines: Vec<String>,
    ) {
        let Figures {
            counters,
            tally,
            pool,
            ..
        } = *figures;
        let line = server_line(figures);
        let rates = self.rates(now, counters, tally);
        if all || line != self.server_line {
            log::info!(target: TARGET, "stats {line} {rates}");
            self.server_line = line;
        }
        for (index, line) in handler_lines.iter().enumerate() {
            if all || self.handler_lines.get(index) != Some(line) {
                log::info!(target: TARGET, "{line}");
            }
        }
        self.handler_lines = handler_lines;
        pool.read_stats(&mut self.pool);
        for (index, class) in self.pool.classes.iter().enumerate() {
            if all || self.logged_pool.get(index) != Some(class) {
                log::info!(target: TARGET, "pool {class}");
            }
        }
        self.logged_pool.clone_from(&self.pool.classes);
    }

    /// The rates since the last call.
    fn rates(&mut self, now: Moment, counters: &Counters, tally: &Tally) -> String {
        let span = now.since(self.last);
        let packets = tally.heartbeats + tally.reports;
        let line = format!(
            "packets_per_s={:.1} bytes_in_per_s={:.0} bytes_out_per_s={:.0}",
            per_second(packets - self.packets, span),
            per_second(counters.bytes_in - self.bytes_in, span),
            per_second(counters.bytes_out - self.bytes_out, span),
        );
        self.last = now;
        self.packets = packets;
        self.bytes_in = counters.bytes_in;
        self.bytes_out = counters.bytes_out;
        line
    }
}

/// All that was counted, without the rates.
#[must_use]
pub(crate) fn server_line(figures: &Figures<'_>) -> String {
    let Figures {
        connections,
        unsent,
        owed,
        log_left_out,
        counters,
        tally,
        ..
    } = *figures;
    let mut line = format!(
        "connections={connections} accepted={} accept_errors={} heartbeats={} reports={} busy={} errors={}",
        counters.accepted,
        counters.accept_errors,
        tally.heartbeats,
        tally.reports,
        tally.busy,
        tally.refused_total(),
    );
    // Zeroes are left out of the long lists; what is listed happened.
    for (refusal, count) in tally.refusals().filter(|(_, count)| *count > 0) {
        append(&mut line, "error", refusal.name(), count);
    }
    for (cause, count) in counters.closings().filter(|(_, count)| *count > 0) {
        append(&mut line, "closed", cause.name(), count);
    }
    let rest = format!(
        " junk_bytes={} candidates_dropped={} bytes_in={} bytes_out={} reads={} writes={} held={} \
         rate_limited={} unsent={unsent} owed={owed} output_limited={} \
         log_left_out={log_left_out}",
        tally.junk_bytes,
        tally.candidates_dropped,
        counters.bytes_in,
        counters.bytes_out,
        counters.reads,
        counters.writes,
        counters.held,
        counters.rate_limited,
        counters.output_limited,
    );
    line + &rest
}

fn append(line: &mut String, group: &str, name: &str, count: u64) {
    // Writing into a string cannot fail.
    let _ = write!(line, " {group}_{name}={count}");
}

#[allow(clippy::cast_precision_loss)] // A rate for people to read.
fn per_second(count: u64, span: Duration) -> f64 {
    if span.is_zero() {
        return 0.0;
    }
    count as f64 / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Cause;
    use crate::wire::{Refusal, Reply};

    #[test]
    fn the_server_line_is_key_value_and_names_causes() {
        let mut counters = Counters {
            accepted: 3,
            ..Counters::default()
        };
        counters.closed(Cause::IdleTimeout);
        let mut tally = Tally::default();
        tally.answered(Reply::Report);
        tally.answered(Reply::Error(Refusal::BadBase64));
        let pool = Pool::new(&hawk_pool::Config {
            classes: vec![1],
            limit: 2,
        });
        let line = server_line(&Figures {
            connections: 2,
            unsent: 7,
            owed: 1,
            log_left_out: 3,
            counters: &counters,
            tally: &tally,
            pool: &pool.unwrap(),
        });
        assert_eq!(
            line,
            "connections=2 accepted=3 accept_errors=0 heartbeats=0 reports=1 busy=0 errors=1 \
             error_bad_base64=1 closed_idle_timeout=1 junk_bytes=0 candidates_dropped=0 \
             bytes_in=0 bytes_out=0 reads=0 writes=0 held=0 rate_limited=0 \
             unsent=7 owed=1 output_limited=0 log_left_out=3"
        );
    }

    #[test]
    fn rates_count_from_the_last_line() {
        let mut log = StatsLog::new(Moment::from_nanos(1));
        let mut tally = Tally::default();
        (0..20).for_each(|_| tally.answered(Reply::Report));
        let counters = Counters::default();
        let ten_seconds = Moment::from_nanos(1).after(Duration::from_secs(10));
        let rates = log.rates(ten_seconds, &counters, &tally);
        assert!(rates.starts_with("packets_per_s=2.0 "), "{rates}");
        let rates = log.rates(ten_seconds.after(Duration::from_secs(1)), &counters, &tally);
        assert!(rates.starts_with("packets_per_s=0.0 "), "{rates}");
    }
}
