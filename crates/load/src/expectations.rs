//! The replies that a connection still expects, and whether the received replies are right.
//!
//! Uses no socket and no clock: it takes bytes and returns verdicts. Replies come in the
//! order of the frames, so a queue of the frames sent is sufficient. A run of frames that
//! left in one write is one entry of the queue, and a run of equal lines is compared in one
//! step: a line costs a few nanoseconds, so that one thread is faster than the server that
//! it measures.

use std::collections::VecDeque;
use std::sync::LazyLock;

use hawk_time::Moment;
use hawk_wire::{MAX_REPLY_LINE, PacketKind, Reply};

/// Frames of one kind that were due and sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What they carry.
    pub kind: PacketKind,
    /// How many they are.
    pub count: u32,
    /// When they were due.
    pub intended: Moment,
    /// When they were sent.
    pub sent: Moment,
}

/// Receives the verdicts on replies.
pub trait Verdicts {
    /// So many frames of this batch were answered as they should be.
    fn right(&mut self, batch: &Batch, count: u32);
    /// A frame of this kind was answered with another line.
    fn wrong(&mut self, kind: PacketKind, line: &[u8]);
    /// A line came that answers nothing.
    fn extra(&mut self, line: &[u8]);
}

/// The replies that one connection expects.
#[derive(Debug, Default)]
pub struct Expectations {
    due: VecDeque<Batch>,
    partial: Partial,
}

/// The line that answers a good packet of this kind, newline included.
const fn expected_line(kind: PacketKind) -> &'static [u8] {
    match kind {
        PacketKind::Heartbeat => Reply::Heartbeat.line(),
        PacketKind::Report => Reply::Report.line(),
    }
}

/// Lines compared at once. A read of 64 KiB holds 2,800 report lines; more in
/// one piece gain nothing, and this much stays in the nearest cache.
const RUN: usize = 256;

static REPORTS: LazyLock<Vec<u8>> = LazyLock::new(|| expected_line(PacketKind::Report).repeat(RUN));
static HEARTBEATS: LazyLock<Vec<u8>> =
    LazyLock::new(|| expected_line(PacketKind::Heartbeat).repeat(RUN));

impl Expectations {
    /// Notes that the frames of `batch` are on their way.
    pub fn expect(&mut self, batch: Batch) {
        self.due.push_back(batch);
    }

    /// Takes bytes as they came from the connection; returns how many frames they
    /// completed, rightly or wrongly.
    pub fn receive(&mut self, mut bytes: &[u8], verdicts: &mut impl Verdicts) -> u32 {
        let mut completed = 0;
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.partial.append(bytes);
                return 0;
            };
            let mut line = std::mem::take(&mut self.partial);
            line.append(&bytes[..end]);
            completed += self.match_line(line.text(), verdicts);
            bytes = &bytes[end + 1..];
        }
        while !bytes.is_empty() {
            let (count, length) = self.match_run(bytes, verdicts);
            completed += count;
            bytes = &bytes[length..];
            if count > 0 {
                continue;
            }
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.partial.append(bytes);
                break;
            };
            completed += self.match_line(&bytes[..end], verdicts);
            bytes = &bytes[end + 1..];
        }
        completed
    }

    /// Ends the stream: an unfinished line counts as the line it is. Returns how
    /// many frames that completed, as [`receive`](Self::receive) does.
    pub fn end_of_file(&mut self, verdicts: &mut impl Verdicts) -> u32 {
        if self.partial.is_empty() {
            return 0;
        }
        let line = std::mem::take(&mut self.partial);
        match self.next_kind() {
            Some(kind) => {
                verdicts.wrong(kind, line.text());
                1
            }
            None => {
                verdicts.extra(line.text());
                0
            }
        }
    }

    /// Returns the number of frames without a reply, and drops them.
    pub fn drain(&mut self) -> u64 {
        self.due.drain(..).map(|batch| u64::from(batch.count)).sum()
    }

    /// The fast path: how many lines at the front of `bytes`, and bytes of them,
    /// are just what the oldest batch waits for.
    #[inline]
    fn match_run(&mut self, bytes: &[u8], verdicts: &mut impl Verdicts) -> (u32, usize) {
        let Some(batch) = self.due.front_mut() else {
            return (0, 0);
        };
        let line = expected_line(batch.kind);
        let lines: &[u8] = match batch.kind {
            PacketKind::Report => &REPORTS,
            PacketKind::Heartbeat => &HEARTBEATS,
        };
        let most = (bytes.len() / line.len())
            .min(batch.count as usize)
            .min(RUN);
        let whole = most * line.len();
        let right = if bytes[..whole] == lines[..whole] {
            most
        } else {
            let pieces = bytes.chunks_exact(line.len()).take(most);
            pieces.take_while(|piece| *piece == line).count()
        };
        if right == 0 {
            return (0, 0);
        }
        let count = u32::try_from(right).unwrap_or(batch.count);
        verdicts.right(batch, count);
        batch.count -= count;
        if batch.count == 0 {
            self.due.pop_front();
        }
        (count, right * line.len())
    }

    /// The general path: one line, its newline cut off.
    fn match_line(&mut self, line: &[u8], verdicts: &mut impl Verdicts) -> u32 {
        let Some(&batch) = self.due.front() else {
            verdicts.extra(line);
            return 0;
        };
        self.next_kind();
        if expected_line(batch.kind).strip_suffix(b"\n") == Some(line) {
            verdicts.right(&batch, 1);
        } else {
            verdicts.wrong(batch.kind, line);
        }
        1
    }

    /// Takes the oldest frame off the queue.
    fn next_kind(&mut self) -> Option<PacketKind> {
        let batch = self.due.front_mut()?;
        let kind = batch.kind;
        batch.count -= 1;
        if batch.count == 0 {
            self.due.pop_front();
        }
        Some(kind)
    }
}

/// The beginning of a reply line that has not arrived whole.
#[derive(Debug)]
struct Partial {
    kept: [u8; Self::CAPACITY],
    length: u8,
}

impl Partial {
    /// Longer than every reply, so that a line cut to this length equals none;
    /// what a foreign server says beyond it is of no interest.
    const CAPACITY: usize = 2 * MAX_REPLY_LINE;

    const fn is_empty(&self) -> bool {
        self.length == 0
    }

    fn text(&self) -> &[u8] {
        &self.kept[..usize::from(self.length)]
    }

    fn append(&mut self, bytes: &[u8]) {
        let from = usize::from(self.length);
        let taken = bytes.len().min(Self::CAPACITY - from);
        self.kept[from..from + taken].copy_from_slice(&bytes[..taken]);
        self.length += u8::try_from(taken).unwrap_or(0);
    }
}

impl Default for Partial {
    fn default() -> Self {
        Self {
            kept: [0; Self::CAPACITY],
            length: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Eq)]
    struct Found(Vec<String>);

    impl Verdicts for Found {
        fn right(&mut self, batch: &Batch, count: u32) {
            let kind = batch.kind;
            self.0
                .extend((0..count).map(|_| format!("right {kind:?} {}", batch.sent.as_nanos())));
        }
        fn wrong(&mut self, kind: PacketKind, line: &[u8]) {
            self.0
                .push(format!("wrong {kind:?}: {}", line.escape_ascii()));
        }
        fn extra(&mut self, line: &[u8]) {
            self.0.push(format!("extra: {}", line.escape_ascii()));
        }
    }

    fn batch(kind: PacketKind, count: u32, at: u64) -> Batch {
        Batch {
            kind,
            count,
            intended: Moment::from_nanos(at),
            sent: Moment::from_nanos(at),
        }
    }

    /// What three reports and a heartbeat make of `stream`, whatever the pieces
    /// it comes in, and how many frames were left over.
    #[track_caller]
    fn judge(stream: &[u8], expected: &[&str], expected_lost: u64) {
        for piece in 1..=stream.len().max(1) {
            let mut expectations = Expectations::default();
            expectations.expect(batch(PacketKind::Report, 2, 1));
            expectations.expect(batch(PacketKind::Report, 1, 2));
            expectations.expect(batch(PacketKind::Heartbeat, 1, 3));
            let mut found = Found::default();
            let mut completed = 0;
            for bytes in stream.chunks(piece) {
                completed += expectations.receive(bytes, &mut found);
            }
            completed += expectations.end_of_file(&mut found);
            let lost = expectations.drain();
            assert_eq!(found.0, expected, "in pieces of {piece}");
            assert_eq!(lost, expected_lost, "in pieces of {piece}");
            assert_eq!(u64::from(completed) + lost, 4, "in pieces of {piece}");
        }
    }

    const REPORT: &str = "Report data has recive\n";

    #[test]
    fn right_lines_in_order() {
        judge(
            format!("{REPORT}{REPORT}{REPORT}heartBeat\n").as_bytes(),
            &[
                "right Report 1",
                "right Report 1",
                "right Report 2",
                "right Heartbeat 3",
            ],
            0,
        );
    }

    #[test]
    fn a_wrong_line_completes_its_frame_and_the_next_ones_are_still_judged() {
        judge(
            format!("{REPORT}error: malformed JSON\n{REPORT}heartBeat\n").as_bytes(),
            &[
                "right Report 1",
                "wrong Report: error: malformed JSON",
                "right Report 2",
                "right Heartbeat 3",
            ],
            0,
        );
    }

    #[test]
    fn a_reply_that_does_not_come_is_lost() {
        judge(
            format!("{REPORT}{REPORT}").as_bytes(),
            &["right Report 1", "right Report 1"],
            2,
        );
        judge(b"", &[], 4);
    }

    #[test]
    fn a_line_that_answers_no_frame_is_extra() {
        judge(
            format!("{REPORT}{REPORT}{REPORT}heartBeat\nheartBeat\n{REPORT}").as_bytes(),
            &[
                "right Report 1",
                "right Report 1",
                "right Report 2",
                "right Heartbeat 3",
                "extra: heartBeat",
                "extra: Report data has recive",
            ],
            0,
        );
    }

    #[test]
    fn an_unfinished_line_is_wrong() {
        judge(
            b"Report data has reci",
            &["wrong Report: Report data has reci"],
            3,
        );
    }

    #[test]
    fn a_line_without_end_is_cut_and_wrong() {
        let mut stream = vec![b'x'; 10_000];
        stream.push(b'\n');
        let mut expectations = Expectations::default();
        expectations.expect(batch(PacketKind::Report, 1, 1));
        let mut found = Found::default();
        for bytes in stream.chunks(100) {
            expectations.receive(bytes, &mut found);
        }
        let cut = "x".repeat(Partial::CAPACITY);
        assert_eq!(found.0, [format!("wrong Report: {cut}")]);
    }

    #[test]
    fn runs_longer_than_one_comparison() {
        let count = 3 * RUN + 7;
        let mut expectations = Expectations::default();
        expectations.expect(batch(PacketKind::Report, u32::try_from(count).unwrap(), 1));
        let mut found = Found::default();
        let completed = expectations.receive(REPORT.repeat(count).as_bytes(), &mut found);
        assert_eq!(completed as usize, count);
        assert_eq!(found.0.len(), count);
        assert_eq!(expectations.drain(), 0);
    }
}
