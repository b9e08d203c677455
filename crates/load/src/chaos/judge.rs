//! The lines that are due to a chaotic agent, and the check of each line.
//!
//! A decoder of all sent bytes finds exactly the lines that are due, for any damage: it is the
//! decoder of the server, and chunking does not change its result. It does not see the server's
//! timeouts. After a pause the server may have closed the connection or dropped the partial frame,
//! so bytes sent after a pause may have a reply or not.

use std::collections::VecDeque;

use crate::tally::Fault;
use hawk_wire::{Busy, Decoder, Input, MAX_REPLY_LINE, PacketDecoder, Refusal, Reply, Step};

/// Checks both directions of one connection.
#[derive(Debug, Default)]
pub(super) struct Judge {
    decoder: Decoder,
    packets: PacketDecoder,
    /// Bytes sent and not decoded yet.
    window: Vec<u8>,
    /// Whether the server stops reading the stream at this point.
    given_up: bool,
    due: VecDeque<Reply>,
    /// Number of lines that became due before the first doubt; `None` without a doubt.
    certain: Option<u64>,
    /// Number of lines received.
    pub(super) lines: u64,
    /// The beginning of the next line.
    partial: Vec<u8>,
    /// Whether the server refused the connection because of a limit.
    pub(super) turned_away: bool,
}

/// A violation of the protocol by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) fault: Fault,
    pub(super) cause: String,
    /// The number of frames concerned, at least 1.
    pub(super) count: u64,
}

impl Breach {
    pub(super) fn new(fault: Fault, cause: impl Into<String>) -> Self {
        Self {
            fault,
            cause: cause.into(),
            count: 1,
        }
    }

    /// Returns the breach of a line that no server of this protocol sends.
    fn unknown(line: &[u8]) -> Self {
        let line = line.escape_ascii();
        Self::new(Fault::Wrong, format!("unknown line \"{line}\""))
    }
}

impl Judge {
    /// Takes bytes that the kernel has taken for sending.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        self.decode(Input::Open);
    }

    /// Takes note of the end of the sent stream.
    pub(super) fn sent_all(&mut self) {
        self.decode(Input::Ended);
    }

    /// Takes note of a pause: lines that become due later are optional.
    pub(super) fn doubt(&mut self) {
        self.certain
            .get_or_insert(self.lines + self.due.len() as u64);
    }

    /// Checks received bytes.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Breach> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            match self.partial.strip_suffix(b"\n") {
                Some(line) => {
                    let reply = Reply::parse(line).ok_or_else(|| Breach::unknown(line))?;
                    self.partial.clear();
                    self.complete(reply)?;
                }
                None if self.partial.len() >= MAX_REPLY_LINE => {
                    return Err(Breach::unknown(&self.partial));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Checks the end of the received stream. `answering` says that the sent stream had ended before;
    /// otherwise the server may end the connection at any time.
    pub(super) fn end_of_file(&mut self, answering: bool) -> Result<(), Breach> {
        if !self.partial.is_empty() {
            let cause = format!("unfinished line \"{}\"", self.partial.escape_ascii());
            return Err(Breach::new(Fault::Wrong, cause));
        }
        let due = self.lines + self.due.len() as u64;
        let count = self.certain.unwrap_or(due).saturating_sub(self.lines);
        match answering && !self.turned_away && count > 0 {
            true => Err(Breach {
                count,
                ..Breach::new(Fault::Lost, "no reply by the end of the stream")
            }),
            false => Ok(()),
        }
    }

    fn complete(&mut self, got: Reply) -> Result<(), Breach> {
        let is_first = self.lines == 0;
        self.lines += 1;
        if let Reply::Busy(Busy::TooManyConnections | Busy::TooManyFromAddress) = got
            && is_first
        {
            self.turned_away = true;
            self.given_up = true;
            self.due.clear();
            return Ok(());
        }
        let text = |reply: Reply| reply.line().trim_ascii_end().escape_ascii();
        let unavailable = Reply::Busy(Busy::StoreUnavailable);
        match self.due.pop_front() {
            Some(due) if got == due || (got == unavailable && due == Reply::Report) => Ok(()),
            Some(due) => {
                let cause = format!("\"{}\" instead of \"{}\"", text(got), text(due));
                Err(Breach::new(Fault::Wrong, cause))
            }
            None => {
                let cause = format!("\"{}\" answers nothing", text(got));
                Err(Breach::new(Fault::Extra, cause))
            }
        }
    }

    fn decode(&mut self, input: Input) {
        let mut at = 0;
        while !self.given_up {
            let decoded = self.decoder.decode(&self.window[at..], input);
            at += decoded.consumed;
            self.due.push_back(match decoded.step {
                Step::Frame(data) => match self.packets.decode(data) {
                    Ok(packet) => packet.kind().reply(),
                    Err(refusal) => Reply::Error(refusal),
                },
                Step::ChecksumMismatch => Reply::Error(Refusal::ChecksumMismatch),
                Step::JunkLimit => {
                    self.given_up = true;
                    break;
                }
                Step::Incomplete => break,
            });
        }
        match self.given_up {
            true => self.window.clear(),
            false => drop(self.window.drain(..at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::script::{Conduct, Script};
    use crate::traffic::ContentSize;
    use hawk_wire::encode_frame;

    fn frame(data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(data, &mut out).unwrap();
        out
    }

    /// A judge of an empty frame, damage, and a heartbeat.
    fn judge() -> Judge {
        let mut judge = Judge::default();
        let mut bytes = frame(b"");
        bytes.extend_from_slice(b"\xFF\xFF\x00\x07junk");
        bytes.extend(frame(b"\x00{}"));
        bytes.iter().for_each(|byte| judge.sent(&[*byte]));
        judge
    }

    fn lost(count: u64) -> Result<(), Breach> {
        let breach = Breach::new(Fault::Lost, "no reply by the end of the stream");
        Err(Breach { count, ..breach })
    }

    fn extra_heartbeat() -> Result<(), Breach> {
        Err(Breach::new(Fault::Extra, "\"heartBeat\" answers nothing"))
    }

    const DUE: &[u8] = b"error: empty data\nheartBeat\n";

    #[test]
    fn the_lines_that_are_due_are_right_in_any_pieces() {
        for size in 1..=DUE.len() {
            let mut judge = judge();
            for piece in DUE.chunks(size) {
                judge.receive(piece).unwrap();
            }
            assert_eq!((judge.end_of_file(true), judge.lines), (Ok(()), 2));
        }
    }

    #[test]
    fn every_other_line_is_a_breach() {
        let due = "instead of \"error: empty data\"";
        let long = "x".repeat(32);
        for (line, cause) in [
            (&b"heartBeat\n"[..], format!("\"heartBeat\" {due}")),
            (
                b"busy: store unavailable\n",
                format!("\"busy: store unavailable\" {due}"),
            ),
            (b"heartbeat\n", "unknown line \"heartbeat\"".into()),
            (&[b'x'; MAX_REPLY_LINE], format!("unknown line \"{long}\"")),
        ] {
            let breach = Breach::new(Fault::Wrong, cause);
            assert_eq!(judge().receive(line), Err(breach));
        }
        let mut judge = judge();
        let extra = extra_heartbeat();
        assert_eq!(judge.receive(&[DUE, b"heartBeat\n"].concat()), extra);
    }

    #[test]
    fn lines_missing_at_the_end_are_lost_unless_the_server_closed() {
        let mut judge = judge();
        assert_eq!(judge.end_of_file(false), Ok(()));
        assert_eq!(judge.end_of_file(true), lost(2));
        judge.receive(&DUE[..DUE.len() - 1]).unwrap();
        let unfinished = Breach::new(Fault::Wrong, "unfinished line \"heartBeat\"");
        let unfinished = Err(unfinished);
        assert_eq!(judge.end_of_file(false), unfinished);
    }

    #[test]
    fn frames_sent_after_a_possible_timeout_may_be_answered_or_not() {
        for answered in [0, 1] {
            let mut judge = judge();
            judge.doubt();
            judge.sent(&frame(b""));
            judge.doubt();
            judge.receive(DUE).unwrap();
            judge
                .receive(&b"error: empty data\n".repeat(answered))
                .unwrap();
            assert_eq!(judge.end_of_file(true), Ok(()));
        }
        let mut judge = judge();
        judge.doubt();
        assert_eq!(judge.end_of_file(true), lost(2));
    }

    #[test]
    fn an_agent_may_be_turned_away_before_anything_else_and_nothing_follows() {
        let mut turned = judge();
        turned.receive(b"busy: too many connections\n").unwrap();
        turned.sent(&frame(b""));
        assert!(turned.turned_away);
        assert_eq!(turned.end_of_file(true), Ok(()));
        assert_eq!(turned.receive(b"heartBeat\n"), extra_heartbeat());

        let late = [b"error: empty data\n", &b"busy: too many connections\n"[..]].concat();
        assert!(judge().receive(&late).is_err());
    }

    #[test]
    fn a_report_may_be_put_off_by_the_store() {
        let mut judge = Judge::default();
        judge.sent(&frame(b"\x01{}"));
        judge.receive(b"busy: store unavailable\n").unwrap();
        assert_eq!(judge.end_of_file(true), Ok(()));
    }

    #[test]
    fn nothing_is_due_beyond_the_limit_of_junk() {
        let mut judge = Judge::default();
        judge.sent(&vec![b'x'; 300 * 1024]);
        judge.sent(&frame(b""));
        assert_eq!(judge.end_of_file(true), Ok(()));
    }

    #[test]
    fn each_whole_frame_between_corrupt_ones_gets_a_reply() {
        let mut judge = Judge::default();
        for life in (0..800).step_by(Conduct::ALL.len()) {
            let script = Script::draw(0, 0, life, ContentSize::Random);
            assert_eq!(script.conduct, Conduct::Corrupt);
            judge.sent(&script.bytes);
        }
        judge.sent_all();
        // 100 lives of 10 frames each, of which a half are whole.
        let taken = |reply: &&Reply| matches!(reply, Reply::Report | Reply::Heartbeat);
        let taken = judge.due.iter().filter(taken).count();
        assert!((400..800).contains(&taken), "{taken}");
        assert!(judge.due.len() > taken + 20, "of {}", judge.due.len());
    }
}
