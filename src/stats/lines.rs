//! The statistics as log lines: `key=value` pairs, for people and programs.

use std::fmt::Write as _;
use std::time::Duration;

use hawk_pool::Pool;

use super::Counters;
use crate::session::Tally;
use hawk_time::Moment;

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

/// All statistics of a moment: the server's line, those of its handler, and one for
/// each class of its pool.
#[derive(Debug)]
pub struct Statistics {
    /// Without its rates, which are never the same twice.
    server: String,
    rates: String,
    others: Vec<String>,
}

impl Statistics {
    /// The lines.
    pub fn lines(self) -> impl Iterator<Item = String> {
        let server = format!("{} {}", self.server, self.rates);
        std::iter::once(server).chain(self.others)
    }
}

/// What was counted at a moment, as far as there are rates of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When that was.
    pub at: Moment,
    /// Packets taken.
    pub packets: u64,
    /// Bytes read from agents.
    pub bytes_in: u64,
    /// Bytes written to agents.
    pub bytes_out: u64,
}

impl Mark {
    const fn of(at: Moment, figures: &Figures<'_>) -> Self {
        let Figures {
            counters, tally, ..
        } = *figures;
        Self {
            at,
            packets: tally.heartbeats + tally.reports,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
        }
    }

    /// The rates since `earlier`, as they stand at the end of the server's line.
    #[must_use]
    pub fn rates_since(&self, earlier: &Self) -> String {
        let span = self.at.since(earlier.at);
        let rate = |now: u64, then: u64| per_second(now.saturating_sub(then), span);
        format!(
            "packets_per_s={:.1} bytes_in_per_s={:.0} bytes_out_per_s={:.0}",
            rate(self.packets, earlier.packets),
            rate(self.bytes_in, earlier.bytes_in),
            rate(self.bytes_out, earlier.bytes_out),
        )
    }
}

/// Makes the statistics' lines, and logs them. It remembers those it has logged last, so
/// that a quiet server does not repeat itself.
#[derive(Debug)]
pub struct StatsLog {
    /// What was counted when it last looked, and when it looked before that.
    last: Mark,
    last_but_one: Mark,
    server: String,
    others: Vec<String>,
}

impl StatsLog {
    /// A log in which nothing has been said so far.
    #[must_use]
    pub const fn new(now: Moment) -> Self {
        let nothing = Mark {
            at: now,
            packets: 0,
            bytes_in: 0,
            bytes_out: 0,
        };
        Self {
            last: nothing,
            last_but_one: nothing,
            server: String::new(),
            others: Vec::new(),
        }
    }

    /// The counts begin with these, so that the next rates are of what is new.
    pub const fn go_on_from(&mut self, counters: &Counters, tally: &Tally) {
        self.last = Mark {
            at: self.last.at,
            packets: tally.heartbeats + tally.reports,
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
        };
        self.last_but_one = self.last;
    }

    /// Logs the lines: all of them if `all`, otherwise those that changed since they
    /// were last logged. Rates count from the last call.
    pub fn log(
        &mut self,
        now: Moment,
        all: bool,
        figures: &Figures<'_>,
        handler_lines: Vec<String>,
    ) {
        let mark = Mark::of(now, figures);
        let Statistics {
            server,
            rates,
            others,
        } = statistics(figures, handler_lines, mark.rates_since(&self.last));
        self.last_but_one = std::mem::replace(&mut self.last, mark);
        if all || server != self.server {
            log::info!(target: TARGET, "{server} {rates}");
        }
        for (index, line) in others.iter().enumerate() {
            if all || self.others.get(index) != Some(line) {
                log::info!(target: TARGET, "{line}");
            }
        }
        self.server = server;
        self.others = others;
    }

    /// The same lines for somebody who asks. The log is not changed by it.
    ///
    /// Rates count from the log's last look but one, so that they are never those of an
    /// instant, however soon after a look somebody asks.
    #[must_use]
    pub fn look(
        &self,
        now: Moment,
        figures: &Figures<'_>,
        handler_lines: Vec<String>,
    ) -> Statistics {
        let rates = Mark::of(now, figures).rates_since(&self.last_but_one);
        statistics(figures, handler_lines, rates)
    }
}

fn statistics(figures: &Figures<'_>, handler_lines: Vec<String>, rates: String) -> Statistics {
    let mut others = handler_lines;
    let mut pool = hawk_pool::Stats::default();
    figures.pool.read_stats(&mut pool);
    others.extend(pool.classes.iter().map(|class| format!("pool {class}")));
    Statistics {
        server: format!("stats {}", server_line(figures)),
        rates,
        others,
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
    use hawk_wire::{Refusal, Reply};

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

    /// Lines of a log for somebody who asks, and their rates.
    fn look(log: &StatsLog, now: Moment, figures: &Figures<'_>) -> (Vec<String>, String) {
        let lines: Vec<_> = log
            .look(now, figures, vec!["agents known=0".into()])
            .lines()
            .collect();
        let (_, rates) = lines[0].split_once(" packets_per_s=").unwrap();
        let packets = rates.split(' ').next().unwrap().to_owned();
        (lines, packets)
    }

    #[test]
    fn rates_count_from_the_log_s_looks_which_asking_does_not_disturb() {
        let start = Moment::from_nanos(1);
        let mut log = StatsLog::new(start);
        let pool = Pool::new(&hawk_pool::Config {
            classes: vec![1, 2],
            limit: 4,
        });
        let pool = pool.unwrap();
        let counters = Counters::default();
        let tally = |reports| {
            let mut tally = Tally::default();
            (0..reports).for_each(|_| tally.answered(Reply::Report));
            tally
        };
        let figures = |tally| Figures {
            connections: 0,
            unsent: 0,
            owed: 0,
            log_left_out: 0,
            counters: &counters,
            tally,
            pool: &pool,
        };
        let second = |second| start.after(Duration::from_secs(second));
        let (none, some, more) = (tally(0), tally(20), tally(50));

        let (lines, rate) = look(&log, second(5), &figures(&some));
        let heads: Vec<_> = lines
            .iter()
            .map(|line| line.split('=').next().unwrap())
            .collect();
        assert_eq!(
            heads,
            [
                "stats connections",
                "agents known",
                "pool class",
                "pool class"
            ]
        );
        assert_eq!(rate, "4.0");
        log.log(second(10), false, &figures(&some), Vec::new());
        // The next line of the log has 30 reports in 10 s, and whoever asks an instant
        // after it has not those of that instant.
        let (_, rate) = look(&log, second(10), &figures(&some));
        assert_eq!(rate, "2.0");
        let mark = Mark::of(second(20), &figures(&more));
        assert!(
            mark.rates_since(&log.last)
                .starts_with("packets_per_s=3.0 ")
        );
        log.log(second(20), false, &figures(&more), Vec::new());
        let (_, rate) = look(&log, second(25), &figures(&more));
        assert_eq!(
            rate, "2.0",
            "30 reports in the 15 s since the last look but one"
        );

        // A server that started anew in between has counted less.
        let anew = Mark::of(second(26), &figures(&none));
        assert!(anew.rates_since(&mark).starts_with("packets_per_s=0.0 "));
    }
}
