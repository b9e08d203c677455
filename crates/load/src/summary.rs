//! The figures of a run, as JSON, as text and as a line of progress.

use std::fmt::{self, Display, Formatter};
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::chaos::Counts;
use super::engine::rate;
use super::tally::{Fault, Tally, name};
use super::{Config, Traffic};
use hawk_time::Moment;
use hawk_wire::Encoding;

/// All figures of a run: serialized they are the JSON file, displayed the table for people.
/// Durations are in the unit that their name ends with.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The server, as the user wrote it.
    pub address: String,
    /// The requested load in words.
    pub load: String,
    /// `classic` or `compact`.
    pub encoding: &'static str,
    /// Connections that carried the traffic.
    pub connections: u32,
    /// Connections that only sent heartbeats.
    pub idle: u32,
    /// The outcomes of the chaotic connections; `None` without them.
    pub chaos: Option<ChaosSummary>,
    /// How long the opening of the connections took.
    pub opened_in_seconds: f64,
    /// Frames that idle connections sent meanwhile. Each was checked; none is part of the other
    /// figures.
    pub sent_before: Frames,
    /// From the start of the traffic to the last reply.
    pub seconds: f64,
    /// Frames sent.
    pub sent: Frames,
    /// Right replies.
    pub answered: u64,
    /// Right replies per second.
    pub per_second: f64,
    /// Latency of the right replies.
    pub latency: Latency,
    /// Latency from the intended send time; empty without a reply.
    pub histogram: Vec<Bucket>,
    /// Faults by cause; empty if there were none.
    pub errors: Vec<ErrorCount>,
    /// The resources of this client.
    pub client: Client,
    /// The limit on p99 from the intended send time; `None` without one.
    pub max_p99_nanoseconds: Option<u64>,
    /// No errors, and p99 within its limit.
    pub passed: bool,
}

/// The outcomes of the chaotic connections.
#[derive(Clone, Debug, Serialize)]
pub struct ChaosSummary {
    /// Connections at a time.
    pub connections: u32,
    /// The seed of their behaviour.
    pub seed: u64,
    /// Counts of each conduct that occurred.
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

impl Frames {
    /// Returns the number of frames of both kinds.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.reports + self.heartbeats
    }
}

/// Latency of the replies from two points.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// From when the frame was due: the wait of an agent.
    pub from_intended: Quantiles,
    /// From when the frame was sent: the time of the server.
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
    /// The upper bound of its latencies.
    pub up_to_nanoseconds: u64,
    /// Number of replies.
    pub count: u64,
}

/// The faults of one cause.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorCount {
    /// Their kind.
    pub fault: Fault,
    /// The cause in words.
    pub cause: String,
    /// Their number.
    pub count: u64,
}

/// The resources that this client used, and whether they sufficed.
#[derive(Clone, Debug, Serialize)]
pub struct Client {
    /// Processor time of the thread that measures, user and kernel.
    pub cpu_seconds: f64,
    /// The same as a share of one core.
    pub cpu_percent: f64,
    /// Peak resident memory in bytes; `None` if the system does not report it.
    pub peak_memory_bytes: Option<u64>,
    /// Frames that left more than a millisecond late.
    pub late_sends: u64,
    /// Why the figures measure this client instead of the server; `None` if they do not.
    pub bottleneck: Option<String>,
    /// A remark on the accuracy of the figures; `None` if there is none.
    pub note: Option<String>,
}

/// Figures of the engine that are not in the tally.
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

/// Share of a core, in percent, from which on this client counts as the bottleneck.
const FULL_CORE: f64 = 95.0;

impl Summary {
    pub(super) fn new(config: &Config, tally: &mut Tally, figures: Figures) -> Self {
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
            .faults
            .iter()
            .map(|(fault, cause, count)| ErrorCount {
                fault,
                cause: cause.to_owned(),
                count,
            })
            .collect();
        let per_second = rate(tally.answered, span);
        let latencies = tally.latencies();
        let latency = Latency {
            from_intended: Quantiles::of(&latencies.intended),
            from_sent: Quantiles::of(&latencies.sent),
        };
        let histogram = buckets(&latencies.intended);
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
            sent: tally.sent,
            answered: tally.answered,
            per_second,
            latency,
            histogram,
            passed: errors.is_empty(),
            errors,
            client,
            max_p99_nanoseconds: None,
        }
    }

    /// Sets a limit on p99 from the intended send time. A run above it, or without a reply, has not
    /// passed.
    pub fn limit_p99(&mut self, limit: Duration) {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        self.max_p99_nanoseconds = Some(limit);
        self.passed &= self.missed_p99().is_none();
    }

    /// Returns the limit on p99 if it is exceeded, or if there is no reply.
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

/// Returns the load in words.
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
            let kind = name(kind);
            format!("{connections} connections, {depth} {kind}s in flight on each")
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

/// Returns why the figures measure this client instead of the server, if they do.
fn bottleneck(cpu_percent: f64, tally: &Tally) -> Option<String> {
    let sent = tally.sent.total();
    if cpu_percent >= FULL_CORE {
        return Some(format!(
            "this client used {cpu_percent:.0} % of a core, all that one thread can"
        ));
    }
    let late = tally.late_sends;
    (late >= MANY_LATE && late > sent / 20)
        .then(|| format!("this client fell behind its schedule: {}", lateness(tally)))
}

/// Returns a remark if late frames change the 99th percentile.
fn note(tally: &Tally) -> Option<String> {
    let sent = tally.sent.total();
    // 1 %, as the 99th percentile is the figure of most interest.
    (tally.late_sends > sent / 100).then(|| {
        let lateness = lateness(tally);
        format!("{lateness}; latency from the intended send contains that delay")
    })
}

fn lateness(tally: &Tally) -> String {
    let sent = tally.sent.total();
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

/// Columns of the longest bar.
const BAR: u64 = 40;

/// Least width of a column with counts.
const COUNT: usize = 9;

/// Writes a row of the table: its name in the first column, then its text.
fn row(f: &mut Formatter<'_>, name: &str, text: impl Display) -> fmt::Result {
    writeln!(f, "{name:<12}{text}")
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        row(f, "server", &self.address)?;
        let load = format_args!("{}; {} encoding", self.load, self.encoding);
        row(f, "load", load)?;
        let mut opened = format!("{:.3} s", self.opened_in_seconds);
        if self.idle > 0 {
            let sent = self.sent_before;
            let (reports, heartbeats) = (grouped(sent.reports), grouped(sent.heartbeats));
            opened += &format!(
                "; idle connections sent {reports} reports, {heartbeats} heartbeats by then"
            );
        }
        row(f, "opened in", opened)?;
        let [all, reports, heartbeats] =
            [self.sent.total(), self.sent.reports, self.sent.heartbeats].map(grouped);
        let sent = format_args!("{all} frames: {reports} reports, {heartbeats} heartbeats");
        row(f, "sent", sent)?;
        let (answered, rate) = (grouped(self.answered), rounded(self.per_second));
        row(
            f,
            "answered",
            format_args!("{answered} in {:.3} s", self.seconds),
        )?;
        row(f, "throughput", format_args!("{rate} replies/s\n"))?;
        row(f, "latency", "from intended send    from actual send")?;
        let (intended, actual) = (self.latency.from_intended, self.latency.from_sent);
        for (name, intended, actual) in [
            ("p50", intended.p50, actual.p50),
            ("p90", intended.p90, actual.p90),
            ("p99", intended.p99, actual.p99),
            ("p99.9", intended.p99_9, actual.p99_9),
            ("p99.99", intended.p99_99, actual.p99_99),
            ("max", intended.max, actual.max),
        ] {
            let (intended, actual) = (milliseconds(intended), milliseconds(actual));
            row(f, name, format_args!("{intended:>15} ms{actual:>17} ms"))?;
        }
        if !self.histogram.is_empty() {
            writeln!(f)?;
            f.write_str(&bars(&self.histogram))?;
        }
        writeln!(f)?;
        if let Some(chaos) = &self.chaos {
            write_chaos(f, chaos)?;
        }
        if self.errors.is_empty() {
            row(f, "errors", "none")?;
        }
        for (number, error) in self.errors.iter().enumerate() {
            let head = if number == 0 { "errors" } else { "" };
            let (count, fault, cause) = (grouped(error.count), error.fault, &error.cause);
            row(f, head, format_args!("{count} {fault}: {cause}"))?;
        }
        if let Some(limit) = self.max_p99_nanoseconds {
            let verdict = match self.missed_p99() {
                Some(_) => "missed",
                None => "met",
            };
            let limit = milliseconds(limit);
            let text = format_args!("{limit} ms from intended send: {verdict}");
            row(f, "p99 limit", text)?;
        }
        let client = &self.client;
        let (seconds, percent) = (client.cpu_seconds, client.cpu_percent);
        let mut used = format!("{seconds:.3} s of CPU, {percent:.1} % of a core");
        if let Some(bytes) = client.peak_memory_bytes {
            // MiB, the unit of the system's own tools.
            let tenths = bytes * 10 / (1024 * 1024);
            used += &format!(", {}.{} MiB at most", tenths / 10, tenths % 10);
        }
        row(f, "client", used)?;
        match (&client.bottleneck, &client.note) {
            (Some(bottleneck), _) => {
                let text = format_args!("the client was the bottleneck: {bottleneck}");
                row(f, "", text)
            }
            (None, Some(note)) => row(f, "note", note),
            (None, None) => Ok(()),
        }
    }
}

/// Writes the outcomes of chaos, a line for each conduct. Leaves out columns in which every count
/// is 0.
fn write_chaos(f: &mut Formatter<'_>, chaos: &ChaosSummary) -> fmt::Result {
    let (connections, seed) = (grouped(chaos.connections.into()), chaos.seed);
    row(
        f,
        "chaos",
        format_args!("{connections} connections, --seed {seed}"),
    )?;
    type Column = (&'static str, fn(&Counts) -> u64);
    let columns: [Column; 9] = [
        ("lives", |it| it.lives),
        ("lines", |it| it.lines),
        ("as planned", |it| it.as_planned),
        ("closed", |it| it.closed_by_server),
        ("reset", |it| it.reset_by_server),
        ("turned away", |it| it.turned_away),
        ("not made", |it| it.not_made),
        ("unfinished", |it| it.unfinished),
        ("wronged", |it| it.wronged),
    ];
    let occurs = |of: fn(&Counts) -> u64| chaos.conducts.iter().any(|it| of(it) > 0);
    let shown = || columns.iter().filter(|(_, of)| occurs(*of));
    write!(f, "{:12}{:10}", "", "")?;
    for (head, _) in shown() {
        write!(f, "  {head:>COUNT$}")?;
    }
    writeln!(f)?;
    for it in &chaos.conducts {
        write!(f, "{:12}{:10}", "", it.conduct.name())?;
        for (head, of) in shown() {
            let width = head.len().max(COUNT);
            write!(f, "  {:>width$}", grouped(of(it)))?;
        }
        writeln!(f)?;
    }
    writeln!(f)
}

/// Returns a histogram in text, a line for each bucket.
fn bars(buckets: &[Bucket]) -> String {
    let total: u64 = buckets.iter().map(|bucket| bucket.count).sum();
    let highest = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0);
    let mut text = String::new();
    for bucket in buckets {
        let share = u128::from(bucket.count) * 1_000 / u128::from(total.max(1));
        let columns = u128::from(bucket.count * BAR).div_ceil(u128::from(highest.max(1)));
        let bar = "█".repeat(usize::try_from(columns).unwrap_or(0));
        let up_to = milliseconds(bucket.up_to_nanoseconds);
        let line = format!(
            "≤ {up_to:>10} ms {:>12} {:>3}.{} %  {bar}",
            grouped(bucket.count),
            share / 10,
            share % 10
        );
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Returns nanoseconds as milliseconds, to the microsecond.
fn milliseconds(nanoseconds: u64) -> String {
    let microseconds = nanoseconds.saturating_add(500) / 1_000;
    let (whole, rest) = (microseconds / 1_000, microseconds % 1_000);
    format!("{}.{rest:03}", grouped(whole))
}

/// Returns a number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a rate without its fraction.
fn rounded(rate: f64) -> String {
    // Rates are positive and far below 2^63.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = rate.round() as u64;
    grouped(whole)
}

/// The progress of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// Whether connections are still being opened, and nothing else counts yet.
    pub(super) opening: bool,
    /// Established connections.
    pub(super) open: usize,
    /// Time since the traffic began.
    pub(super) elapsed: Duration,
    /// Frames sent.
    pub(super) sent: u64,
    /// Right replies.
    pub(super) answered: u64,
    /// Right replies per second, since the last tick.
    pub(super) rate: f64,
    /// The 99th percentile from the intended send time, since the last tick.
    pub(super) p99: Option<Duration>,
    /// Faults so far.
    pub(super) faults: u64,
}

/// Shows ticks on stderr.
#[derive(Debug)]
pub(super) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Shows a line that renews itself if stderr is a terminal, else a line for each tick.
    pub(super) fn on_stderr() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self { bar }
    }

    pub(super) fn show(&self, tick: &Tick) {
        let line = line(tick);
        if let Some(bar) = &self.bar {
            bar.set_message(line);
            bar.tick();
        } else {
            // A closed stderr does not end the run.
            let _written = writeln!(io::stderr().lock(), "{line}");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn line(tick: &Tick) -> String {
    if tick.opening {
        return format!("opening: {} connections", grouped(tick.open as u64));
    }
    let p99 = tick.p99.map_or("-".into(), |p99| {
        format!("{:.3} ms", p99.as_secs_f64() * 1e3)
    });
    let mut line = format!(
        "{:>4.0} s  sent {}  answered {}  {}/s  p99 {p99}",
        tick.elapsed.as_secs_f64(),
        grouped(tick.sent),
        grouped(tick.answered),
        rounded(tick.rate),
    );
    if tick.faults > 0 {
        line += &format!("  errors {}", grouped(tick.faults));
    }
    line
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

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(21_035_000), "21,035,000");
        assert_eq!(milliseconds(1_234_567_890), "1,234.568");
        assert_eq!(milliseconds(81_400), "0.081");
        assert_eq!(rounded(2103.5), "2,104");
    }

    #[test]
    fn bars_are_as_long_as_their_share() {
        let bucket = |up_to_nanoseconds, count| Bucket {
            up_to_nanoseconds,
            count,
        };
        let text = bars(&[
            bucket(50_000, 1_500),
            bucket(100_000, 0),
            bucket(200_000, 1),
            bucket(500_000, 375),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            format!("≤      0.050 ms        1,500  79.9 %  {}", "█".repeat(40))
        );
        assert_eq!(lines[1], "≤      0.100 ms            0   0.0 %");
        assert_eq!(lines[2], "≤      0.200 ms            1   0.0 %  █");
        assert!(lines[3].ends_with(&format!("19.9 %  {}", "█".repeat(10))));
        assert_eq!(bars(&[]), "");
    }

    #[test]
    fn a_line_says_how_far_it_is() {
        let mut tick = Tick {
            opening: false,
            open: 7,
            elapsed: Duration::from_millis(3_001),
            sent: 6_310,
            answered: 6_309,
            rate: 2_103.2,
            p99: Some(Duration::from_micros(81)),
            faults: 0,
        };
        assert_eq!(
            line(&tick),
            "   3 s  sent 6,310  answered 6,309  2,103/s  p99 0.081 ms"
        );
        (tick.faults, tick.p99) = (2, None);
        assert!(line(&tick).ends_with("p99 -  errors 2"));
        tick.opening = true;
        assert_eq!(line(&tick), "opening: 7 connections");
    }
}
