//! The replies that are pending on a connection, and the check of each reply line.
//!
//! No socket and no clock: bytes come in, verdicts go out. Replies come in the order of the
//! frames, so a queue of the frames is the whole state. Frames that left in one write are one
//! entry of the queue, and a run of equal lines is compared at once: a line costs a few
//! nanoseconds, so that one thread outruns the server it measures.

use std::collections::VecDeque;
use std::sync::LazyLock;

use hawk_time::Moment;
use hawk_wire::{MAX_REPLY_LINE, PacketKind, Reply};

/// Frames of one kind that were due and sent together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The kind of their packets.
    pub kind: PacketKind,
    /// The number of frames without a reply, at least 1.
    pub count: u32,
    /// When they were due: the intended send time.
    pub intended: Moment,
    /// When they were sent.
    pub sent: Moment,
}

/// Receives the verdicts on replies.
pub trait Verdicts {
    /// Takes note that `count` frames of this batch got the right reply.
    fn right(&mut self, batch: &Batch, count: u32);
    /// Takes note that a frame of this kind got the reply `line`, which is wrong.
    fn wrong(&mut self, kind: PacketKind, line: &[u8]);
    /// Takes note of a `line` without a pending reply.
    fn extra(&mut self, line: &[u8]);
}

/// The pending replies of one connection.
#[derive(Debug, Default)]
pub struct Expectations {
    due: VecDeque<Batch>,
    /// The beginning of a line that has no end yet, at most [`LONGEST`] bytes of it.
    partial: Vec<u8>,
}

/// Bytes kept of a line: more than any reply has, so that a truncated line is never right.
const LONGEST: usize = 2 * MAX_REPLY_LINE;

/// Lines compared at once. A read of 64 KiB holds 2,800 report lines; more in
/// one piece gain nothing, and this much stays in the nearest cache.
const RUN: usize = 256;

static REPORTS: LazyLock<Vec<u8>> = LazyLock::new(|| Reply::Report.line().repeat(RUN));
static HEARTBEATS: LazyLock<Vec<u8>> = LazyLock::new(|| Reply::Heartbeat.line().repeat(RUN));

impl Expectations {
    /// Appends frames that are sent.
    pub fn expect(&mut self, batch: Batch) {
        self.due.push_back(batch);
    }

    /// Checks bytes as they came from the connection. Returns how many frames they completed,
    /// with a right or a wrong reply.
    pub fn receive(&mut self, mut bytes: &[u8], verdicts: &mut impl Verdicts) -> u32 {
        let mut completed = 0;
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.append_partial(bytes);
                return 0;
            };
            self.append_partial(&bytes[..end]);
            let line = std::mem::take(&mut self.partial);
            completed += self.match_line(&line, verdicts);
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
                self.append_partial(bytes);
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
                verdicts.wrong(kind, &line);
                1
            }
            None => {
                verdicts.extra(&line);
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
        let line = batch.kind.reply().line();
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
        if batch.kind.reply().line().strip_suffix(b"\n") == Some(line) {
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

    fn append_partial(&mut self, bytes: &[u8]) {
        let room = LONGEST - self.partial.len();
        self.partial.extend(bytes.iter().take(room));
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
        let cut = "x".repeat(LONGEST);
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
