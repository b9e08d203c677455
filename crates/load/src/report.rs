//! The figures of a run, as people read them.

use std::fmt::{self, Display, Formatter, Write as _};

use super::chaos::Counts;
use super::summary::{Bucket, ChaosSummary, Frames, Summary};

/// Displays a [`Summary`] as a table.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(pub &'a Summary);

/// Columns of the longest bar.
const BAR: u64 = 40;

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Summary { sent, latency, .. } = self.0;
        writeln!(f, "server      {}", self.0.address)?;
        writeln!(
            f,
            "load        {}; {} encoding",
            self.0.load, self.0.encoding
        )?;
        write!(f, "opened in   {:.3} s", self.0.opened_in_seconds)?;
        if self.0.idle > 0 {
            let Frames {
                reports,
                heartbeats,
            } = self.0.sent_before;
            let (reports, heartbeats) = (grouped(reports), grouped(heartbeats));
            write!(
                f,
                "; idle connections sent {reports} reports, {heartbeats} heartbeats by then"
            )?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "sent        {} frames: {} reports, {} heartbeats",
            grouped(sent.reports + sent.heartbeats),
            grouped(sent.reports),
            grouped(sent.heartbeats),
        )?;
        writeln!(
            f,
            "answered    {} in {:.3} s",
            grouped(self.0.answered),
            self.0.seconds,
        )?;
        writeln!(f, "throughput  {} replies/s", rounded(self.0.per_second))?;
        writeln!(f)?;
        writeln!(f, "latency     from intended send    from actual send")?;
        let (intended, actual) = (latency.from_intended, latency.from_sent);
        for (name, intended, actual) in [
            ("p50", intended.p50, actual.p50),
            ("p90", intended.p90, actual.p90),
            ("p99", intended.p99, actual.p99),
            ("p99.9", intended.p99_9, actual.p99_9),
            ("p99.99", intended.p99_99, actual.p99_99),
            ("max", intended.max, actual.max),
        ] {
            let (intended, actual) = (milliseconds(intended), milliseconds(actual));
            writeln!(f, "{name:<12}{intended:>15} ms{actual:>17} ms")?;
        }
        if !self.0.histogram.is_empty() {
            writeln!(f)?;
            f.write_str(&bars(&self.0.histogram))?;
        }
        writeln!(f)?;
        if let Some(chaos) = &self.0.chaos {
            write_chaos(f, chaos)?;
        }
        self.write_errors(f)?;
        let client = &self.0.client;
        write!(
            f,
            "client      {:.3} s of CPU, {:.1} % of a core",
            client.cpu_seconds, client.cpu_percent
        )?;
        if let Some(bytes) = client.peak_memory_bytes {
            // For people, in the unit of the system's own tools.
            let tenths = bytes * 10 / (1024 * 1024);
            write!(f, ", {}.{} MiB at most", tenths / 10, tenths % 10)?;
        }
        writeln!(f)?;
        if let Some(bottleneck) = &client.bottleneck {
            writeln!(f, "            the client was the bottleneck: {bottleneck}")?;
        } else if let Some(note) = &client.note {
            writeln!(f, "note        {note}")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn write_errors(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.errors.is_empty() {
            writeln!(f, "errors      none")?;
        }
        for (number, error) in self.0.errors.iter().enumerate() {
            let head = if number == 0 { "errors" } else { "" };
            let count = grouped(error.count);
            let fault = error.fault;
            writeln!(f, "{head:<12}{count} {fault}: {}", error.cause)?;
        }
        if let Some(limit) = self.0.max_p99_nanoseconds {
            let verdict = match self.0.missed_p99() {
                Some(_) => "missed",
                None => "met",
            };
            writeln!(
                f,
                "p99 limit   {} ms from intended send: {verdict}",
                milliseconds(limit)
            )?;
        }
        Ok(())
    }
}

/// Writes the outcomes of chaotic connections, a line for each conduct. Omits columns of
/// zeros.
fn write_chaos(f: &mut Formatter<'_>, chaos: &ChaosSummary) -> fmt::Result {
    let (connections, seed) = (grouped(chaos.connections.into()), chaos.seed);
    writeln!(f, "chaos       {connections} connections, --seed {seed}")?;
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

/// Least width of a column with counts.
const COUNT: usize = 9;

/// A histogram in text, a line for each bucket.
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
        // Writing into a String cannot fail.
        let _written = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Nanoseconds as milliseconds, to the microsecond.
fn milliseconds(nanoseconds: u64) -> String {
    let microseconds = nanoseconds.saturating_add(500) / 1_000;
    let (whole, rest) = (microseconds / 1_000, microseconds % 1_000);
    format!("{}.{rest:03}", grouped(whole))
}

/// A number with its thousands set apart.
pub(super) fn grouped(number: u64) -> String {
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

/// A rate without its fraction.
pub(super) fn rounded(rate: f64) -> String {
    // Rates are positive and far below 2^63.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let whole = rate.round() as u64;
    grouped(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
