//! The figures of a run, as they go into a JSON file.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::chaos::Counts;
use super::engine::rate;
use super::tally::Fault;
use super::tally::Tally;
use super::{Config, Traffic};
use hawk_time::Moment;
use hawk_wire::{Encoding, PacketKind};

/// All figures of a run. Durations are in the unit that their name ends with.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The server, as the user wrote it.
    pub address: String,
    /// What was asked for, in words.
    pub load: String,
    /// `classic` or `compact`.
    pub encoding: &'static str,
    /// Connections that carried the traffic.
    pub connections: u32,
    /// Connections that only sent heartbeats.
    pub idle: u32,
    /// The outcomes of chaotic connections; `None` without chaos.
    pub chaos: Option<ChaosSummary>,
    /// How long the opening of the connections took.
    pub opened_in_seconds: f64,
    /// What idle connections sent meanwhile, their first reports. Each was checked;
    /// none is part of the other figures.
    pub sent_before: Frames,
    /// From the start of the traffic to the last reply.
    pub seconds: f64,
    /// What was sent.
    pub sent: Frames,
    /// Right replies.
    pub answered: u64,
    /// Right replies per second.
    pub per_second: f64,
    /// How long replies took.
    pub latency: Latency,
    /// How many replies took how long from the intended send time.
    pub histogram: Vec<Bucket>,
    /// What went wrong, by cause.
    pub errors: Vec<ErrorCount>,
    /// How this client fared.
    pub client: Client,
    /// The limit on p99 from the intended send time, where one was given.
    pub max_p99_nanoseconds: Option<u64>,
    /// No errors, and p99 within its limit.
    pub passed: bool,
}

/// The chaotic connections of a run.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosSummary {
    /// Connections at a time.
    pub connections: u32,
    /// From which their behaviour was drawn.
    pub seed: u64,
    /// What became of them.
    pub conducts: Vec<Counts>,
}

/// Frames by kind.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Frames {
    /// Reports.
    pub reports: u64,
    /// Heartbeats.
    pub heartbeats: u64,
}

/// How long replies took, from two points.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// From when the frame was due: what an agent waits.
    pub from_intended: Quantiles,
    /// From when the frame was sent: what the server takes.
    pub from_sent: Quantiles,
}

/// Quantiles of a latency, in nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs)] // The names say it.
pub struct Quantiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p99_9: u64,
    #[serde(rename = "p99.99")]
    pub p99_99: u64,
    pub max: u64,
}

/// One bar of the histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// The longest latency in it.
    pub up_to_nanoseconds: u64,
    /// How many replies.
    pub count: u64,
}

/// How often something went wrong for one reason.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorCount {
    /// In which way.
    pub fault: Fault,
    /// Why.
    pub cause: String,
    /// How often.
    pub count: u64,
}

/// What this client used, and whether it was up to its task.
#[derive(Clone, Debug, Serialize)]
pub struct Client {
    /// Processor time of the thread that measures, user and kernel.
    pub cpu_seconds: f64,
    /// The same as a share of one core.
    pub cpu_percent: f64,
    /// Most memory resident at once, in bytes; `None` where the system does not
    /// say.
    pub peak_memory_bytes: Option<u64>,
    /// Frames that left more than a millisecond late.
    pub late_sends: u64,
    /// Why the figures measure this client instead of the server; `None` if they do not.
    pub bottleneck: Option<String>,
    /// A further remark on the figures, if any.
    pub note: Option<String>,
}

/// Figures of the engine besides the tally.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) opened_in: Duration,
    pub(super) sent_before: Frames,
    pub(super) started: Moment,
    pub(super) running: Duration,
    pub(super) cpu: Duration,
    pub(super) peak_memory: Option<u64>,
    pub(super) chaos: Option<Vec<Counts>>,
}

/// Frames that may leave late before the client counts as the bottleneck: the machine has
/// other work, too.
const MANY_LATE: u64 = 100;

/// Share of a core from which on the client itself is taken for the limit.
const FULL_CORE: f64 = 95.0;

impl Summary {
    pub(super) fn new(config: &Config, tally: &mut Tally, figures: Figures) -> Self {
        let sent = tally.sent_so_far();
        let span = match tally.last_reply {
            Some(last) => last.since(figures.started),
            None => figures.running,
        };
        let cpu_percent = 100.0 * figures.cpu.as_secs_f64() / figures.running.as_secs_f64();
        let client = Client {
            cpu_seconds: figures.cpu.as_secs_f64(),
            cpu_percent,
            peak_memory_bytes: figures.peak_memory,
            late_sends: tally.late_sends,
            bottleneck: bottleneck(cpu_percent, tally),
            note: note(tally),
        };
        let errors: Vec<_> = tally
            .faults()
            .map(|(fault, cause, count)| ErrorCount {
                fault,
                cause: cause.to_owned(),
                count,
            })
            .collect();
        let answered = tally.answered;
        let latencies = tally.latencies();
        Self {
            address: config.address.clone(),
            load: describe(config),
            encoding: match config.encoding {
                Encoding::Classic => "classic",
                Encoding::Compact => "compact",
            },
            connections: config.connections,
            idle: config.idle,
            chaos: config
                .chaos
                .zip(figures.chaos)
                .map(|(chaos, conducts)| ChaosSummary {
                    connections: chaos.connections,
                    seed: chaos.seed,
                    conducts,
                }),
            opened_in_seconds: figures.opened_in.as_secs_f64(),
            sent_before: figures.sent_before,
            seconds: span.as_secs_f64(),
            sent,
            answered,
            per_second: rate(answered, span),
            latency: Latency {
                from_intended: Quantiles::of(&latencies.intended),
                from_sent: Quantiles::of(&latencies.sent),
            },
            histogram: buckets(&latencies.intended),
            passed: errors.is_empty(),
            errors,
            client,
            max_p99_nanoseconds: None,
        }
    }

    /// Sets a limit on p99 from the intended send time: a run that misses it, or
    /// has no reply at all, has not passed.
    pub fn limit_p99(&mut self, limit: Duration) {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.max_p99_nanoseconds = Some(limit);
        self.passed &= self.missed_p99().is_none();
    }

    /// The limit on p99, if it is exceeded.
    #[must_use]
    pub fn missed_p99(&self) -> Option<Duration> {
        self.max_p99_nanoseconds
            .filter(|limit| self.answered == 0 || self.latency.from_intended.p99 > *limit)
            .map(Duration::from_nanos)
    }
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        // A histogram answers with the end of a bucket: never beyond the maximum.
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max());
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        }
    }
}

/// The load in words.
fn describe(config: &Config) -> String {
    let every = humantime::format_duration;
    let connections = config.connections;
    let heartbeats = format!("a heartbeat every {} on each", every(config.heartbeat));
    let mut text = match config.traffic {
        Traffic::Agents { senders, interval } => format!(
            "{connections} connections, {senders} senders of a report every {} and {heartbeats}",
            every(interval)
        ),
        Traffic::Rate(rate) => {
            format!("{connections} connections, {rate} reports/s in all and {heartbeats}")
        }
        Traffic::Saturate { depth, kind } => {
            let kind = match kind {
                PacketKind::Report => "reports",
                PacketKind::Heartbeat => "heartbeats",
            };
            format!("{connections} connections, {depth} {kind} in flight on each")
        }
    };
    if config.idle > 0 {
        let idle = config.idle;
        let every = every(config.heartbeat);
        text = match connections {
            0 => format!("{idle} idle connections with a heartbeat every {every}"),
            _ => format!("{text}; {idle} idle ones with a heartbeat every {every}"),
        };
    }
    text
}

/// The reason to mistrust the figures, if there is one.
fn bottleneck(cpu_percent: f64, tally: &Tally) -> Option<String> {
    let sent = tally.reports + tally.heartbeats;
    if cpu_percent >= FULL_CORE {
        return Some(format!(
            "this client used {cpu_percent:.0} % of a core, all that one thread can"
        ));
    }
    let late = tally.late_sends;
    (late >= MANY_LATE && late > sent / 20)
        .then(|| format!("this client fell behind its schedule: {}", lateness(tally)))
}

/// What is to be known of the figures, short of mistrusting them.
fn note(tally: &Tally) -> Option<String> {
    let sent = tally.reports + tally.heartbeats;
    // One in a hundred, as what is judged most is the 99th percentile.
    (tally.late_sends > sent / 100).then(|| {
        let lateness = lateness(tally);
        format!("{lateness}; latency from the intended send contains that delay")
    })
}

fn lateness(tally: &Tally) -> String {
    let sent = tally.reports + tally.heartbeats;
    let worst = tally.latest_send.as_secs_f64() * 1e3;
    let late = tally.late_sends;
    format!("{late} of {sent} frames left over a millisecond late, the worst by {worst:.1} ms")
}

/// Sums up a histogram in buckets that end at 1, 2 and 5 times powers of ten,
/// from the first that holds something to the last.
fn buckets(histogram: &Histogram<u64>) -> Vec<Bucket> {
    let mut found: Vec<Bucket> = Vec::new();
    let mut bounds = bounds();
    let mut up_to_nanoseconds = bounds.next().unwrap_or(u64::MAX);
    for value in histogram.iter_recorded() {
        // What counts is the value itself, not the end of its narrow bucket.
        let lowest = histogram.lowest_equivalent(value.value_iterated_to());
        let count = value.count_since_last_iteration();
        while lowest > up_to_nanoseconds {
            up_to_nanoseconds = bounds.next().unwrap_or(u64::MAX);
            if !found.is_empty() {
                found.push(Bucket {
                    up_to_nanoseconds,
                    count: 0,
                });
            }
        }
        match found.last_mut() {
            Some(bucket) => bucket.count += count,
            None => found.push(Bucket {
                up_to_nanoseconds,
                count,
            }),
        }
    }
    found
}

/// 1 µs, 2 µs, 5 µs, 10 µs and so on.
fn bounds() -> impl Iterator<Item = u64> {
    let powers = std::iter::successors(Some(1_000_u64), |power| power.checked_mul(10));
    powers.flat_map(|power| [1, 2, 5].map(|step| power.saturating_mul(step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_everything_once_and_leave_no_gap() {
        let mut histogram = Histogram::new_with_bounds(100, 1 << 40, 3).unwrap();
        for microseconds in [30, 40, 49, 60, 900, 901] {
            histogram.record(microseconds * 1_000).unwrap();
        }
        let found: Vec<_> = buckets(&histogram)
            .iter()
            .map(|it| (it.up_to_nanoseconds / 1_000, it.count))
            .collect();
        assert_eq!(found, [(50, 3), (100, 1), (200, 0), (500, 0), (1000, 2)]);
        assert_eq!(buckets(&Histogram::new(3).unwrap()), []);
    }

    #[test]
    fn bounds_rise() {
        assert_eq!(
            bounds().take(5).collect::<Vec<_>>(),
            [1_000, 2_000, 5_000, 10_000, 20_000]
        );
    }
}
