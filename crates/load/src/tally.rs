//! Counts, faults and latencies during a run.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::expectations::{Batch, Verdicts};
use super::summary::Frames;
use hawk_time::Moment;
use hawk_wire::{PacketKind, Reply};

/// Everything that is counted.
#[derive(Debug)]
pub(super) struct Tally {
    /// When the bytes that are being checked were read; the clock is read once per read.
    pub(super) clock: Moment,
    /// Frames sent.
    pub(super) sent: Frames,
    /// Right replies, late ones included.
    pub(super) answered: u64,
    /// When the last right reply came.
    pub(super) last_reply: Option<Moment>,
    /// Frames that left later than they were due by more than [`SLACK`].
    pub(super) late_sends: u64,
    /// By how much the latest one did.
    pub(super) latest_send: Duration,
    /// Latencies since the last call of [`turn`](Self::turn).
    recent: Latencies,
    total: Latencies,
    pub(super) faults: Faults,
    reply_timeout: Duration,
}

/// Latencies in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    /// From when the frame was due.
    pub(super) intended: Histogram<u64>,
    /// From when it was sent.
    pub(super) sent: Histogram<u64>,
}

/// How late a frame may leave before it counts as late: well above the few microseconds that the
/// timer takes, well below the latencies of interest.
const SLACK: Duration = Duration::from_millis(1);

impl Tally {
    pub(super) fn new(reply_timeout: Duration) -> Self {
        Self {
            clock: Moment::from_nanos(0),
            sent: Frames::default(),
            answered: 0,
            last_reply: None,
            late_sends: 0,
            latest_send: Duration::ZERO,
            recent: Latencies::new(),
            total: Latencies::new(),
            faults: Faults::default(),
            reply_timeout,
        }
    }

    /// Counts frames as sent.
    pub(super) fn sent(&mut self, batch: &Batch) {
        match batch.kind {
            PacketKind::Report => self.sent.reports += u64::from(batch.count),
            PacketKind::Heartbeat => self.sent.heartbeats += u64::from(batch.count),
        }
        let behind = batch.sent.since(batch.intended);
        if behind > SLACK {
            self.late_sends += u64::from(batch.count);
            self.latest_send = self.latest_send.max(behind);
        }
    }

    /// Resets counts and latencies at the start of the measurement, but keeps the faults. Returns the
    /// frames that were sent before.
    pub(super) fn restart(&mut self) -> Frames {
        let before = self.sent;
        let faults = std::mem::take(&mut self.faults);
        *self = Self {
            faults,
            clock: self.clock,
            ..Self::new(self.reply_timeout)
        };
        before
    }

    /// Ends an interval. Returns its 99th percentile from the intended send time; `None` without a
    /// reply.
    pub(super) fn turn(&mut self) -> Option<Duration> {
        let p99 = self.recent.intended.value_at_quantile(0.99);
        let p99 = (!self.recent.intended.is_empty()).then(|| Duration::from_nanos(p99));
        self.total.take(&mut self.recent);
        p99
    }

    /// Returns all latencies since the start.
    pub(super) fn latencies(&mut self) -> &Latencies {
        self.total.take(&mut self.recent);
        &self.total
    }
}

impl Verdicts for Tally {
    #[inline]
    fn right(&mut self, batch: &Batch, count: u32) {
        let count = u64::from(count);
        let since_sent = self.clock.since(batch.sent);
        self.answered += count;
        self.last_reply = Some(self.clock);
        self.recent
            .intended
            .saturating_record_n(nanoseconds(self.clock.since(batch.intended)), count);
        self.recent
            .sent
            .saturating_record_n(nanoseconds(since_sent), count);
        if since_sent > self.reply_timeout {
            let timeout = humantime::format_duration(self.reply_timeout);
            let cause = format!("reply after more than {timeout}");
            self.faults.add(Fault::Late, &cause, count);
        }
    }

    fn wrong(&mut self, kind: PacketKind, line: &[u8]) {
        let text = line.escape_ascii();
        let cause = match Reply::parse(line) {
            Some(Reply::Error(_) | Reply::Busy(_)) => text.to_string(),
            Some(Reply::Heartbeat | Reply::Report) => format!("\"{text}\" to a {}", name(kind)),
            None => format!("unknown line \"{text}\""),
        };
        self.faults.add(Fault::Wrong, &cause, 1);
    }

    fn extra(&mut self, line: &[u8]) {
        let text = line.escape_ascii();
        // A server at its limits sends a busy line to a new connection before any frame.
        let (fault, cause) = match Reply::parse(line) {
            Some(Reply::Busy(_)) => (Fault::Connection, format!("turned away: {text}")),
            _ => (Fault::Extra, format!("\"{text}\" answers nothing")),
        };
        self.faults.add(fault, &cause, 1);
    }
}

impl Latencies {
    #[expect(clippy::expect_used, reason = "the bounds are constants, and in order")]
    fn new() -> Self {
        // From 100 ns to an hour, to three digits.
        let empty = Histogram::new_with_bounds(100, 3_600_000_000_000, 3)
            .expect("the bounds are in order and three digits are allowed");
        Self {
            intended: empty.clone(),
            sent: empty,
        }
    }

    #[expect(
        clippy::expect_used,
        reason = "all histograms here have the same bounds"
    )]
    fn take(&mut self, other: &mut Self) {
        for (all, some) in [
            (&mut self.intended, &mut other.intended),
            (&mut self.sent, &mut other.sent),
        ] {
            if !some.is_empty() {
                all.add(&*some)
                    .expect("histograms of the same bounds always add up");
                some.reset();
            }
        }
    }
}

/// Returns the name of a packet kind in text.
pub(super) const fn name(kind: PacketKind) -> &'static str {
    match kind {
        PacketKind::Heartbeat => "heartbeat",
        PacketKind::Report => "report",
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The kinds of fault in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// A frame without a reply.
    Lost,
    /// A frame with a wrong reply.
    Wrong,
    /// A line without a pending reply.
    Extra,
    /// A right reply after the reply timeout.
    Late,
    /// A frame that was due and dropped, as too many bytes were unsent.
    Unsent,
    /// A connection that was not made or did not last.
    Connection,
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Wrong => "wrong",
            Self::Extra => "extra",
            Self::Late => "late",
            Self::Unsent => "not sent",
            Self::Connection => "connection",
        })
    }
}

/// Faults, counted by cause.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults(BTreeMap<Fault, BTreeMap<String, u64>>);

/// Causes counted apart per kind of fault; a server that sends garbage could cause any number.
const MOST_CAUSES: usize = 20;

impl Faults {
    /// Counts `count` faults of one cause.
    pub(super) fn add(&mut self, fault: Fault, cause: &str, count: u64) {
        if count == 0 {
            return;
        }
        let causes = self.0.entry(fault).or_default();
        if let Some(counted) = causes.get_mut(cause) {
            *counted += count;
        } else {
            let cause = if causes.len() < MOST_CAUSES {
                cause
            } else {
                "other causes"
            };
            *causes.entry(cause.to_owned()).or_default() += count;
        }
    }

    /// Returns all faults, by kind and cause.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Fault, &str, u64)> {
        self.0.iter().flat_map(|(fault, causes)| {
            let causes = causes.iter();
            causes.map(|(cause, count)| (*fault, cause.as_str(), *count))
        })
    }

    /// Returns the number of faults.
    pub(super) fn count(&self) -> u64 {
        self.iter().map(|(_, _, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        Tally::new(Duration::from_millis(10))
    }

    fn batch(intended: u64, sent: u64) -> Batch {
        Batch {
            kind: PacketKind::Report,
            count: 5,
            intended: Moment::from_nanos(intended),
            sent: Moment::from_nanos(sent),
        }
    }

    fn faults(tally: &Tally) -> Vec<String> {
        let all = tally.faults.iter();
        all.map(|(fault, cause, count)| format!("{count} {fault:?}: {cause}"))
            .collect()
    }

    #[test]
    fn latency_counts_from_both_moments() {
        let mut tally = tally();
        tally.clock = Moment::from_nanos(9_000_000);
        tally.right(&batch(1_000_000, 8_000_000), 5);
        assert_eq!(tally.turn().unwrap().as_millis(), 8);
        let all = tally.latencies();
        assert_eq!((all.intended.len(), all.sent.len()), (5, 5));
        assert!(all.sent.equivalent(all.sent.max(), 1_000_000));
        assert_eq!(tally.turn(), None);
        assert_eq!(faults(&tally), Vec::<String>::new());
    }

    #[test]
    fn a_right_reply_after_the_timeout_is_late() {
        let mut tally = tally();
        tally.clock = Moment::from_nanos(20_000_000);
        tally.right(&batch(1, 10_000_000), 2);
        tally.right(&batch(1, 9_999_999), 2);
        assert_eq!(tally.answered, 4);
        assert_eq!(faults(&tally), ["2 Late: reply after more than 10ms"]);
    }

    #[test]
    fn a_frame_that_leaves_late_is_noted() {
        let mut tally = tally();
        tally.sent(&batch(1, 1_000_001));
        assert_eq!(tally.late_sends, 0);
        tally.sent(&batch(1, 1_000_002));
        assert_eq!((tally.late_sends, tally.sent.reports), (5, 10));
    }

    #[test]
    fn faults_are_distinguished_by_their_text_within_bounds() {
        let mut tally = tally();
        tally.wrong(PacketKind::Report, b"busy: too many connections");
        tally.wrong(PacketKind::Report, b"busy: too many connections");
        tally.wrong(PacketKind::Report, b"heartBeat");
        tally.wrong(PacketKind::Heartbeat, b"\x1b[2J");
        tally.extra(b"heartBeat");
        assert_eq!(
            faults(&tally),
            [
                "1 Wrong: \"heartBeat\" to a report",
                "2 Wrong: busy: too many connections",
                "1 Wrong: unknown line \"\\x1b[2J\"",
                "1 Extra: \"heartBeat\" answers nothing",
            ]
        );
        for number in 0..10_000 {
            tally.extra(format!("{number}").as_bytes());
        }
        assert_eq!(tally.faults.count(), 10_005);
        assert!(tally.faults.iter().count() <= 2 * MOST_CAUSES + 2);
        tally.sent(&batch(1, 1));
        assert_eq!(tally.restart().reports, 5);
        assert_eq!(tally.restart().reports, 0);
        assert_eq!(tally.faults.count(), 10_005);
    }
}
