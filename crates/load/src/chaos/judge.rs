//! The lines that are due to an agent that misbehaves, and whether the received lines are
//! right.
//!
//! The server's own decoder, run over all bytes sent, determines exactly which lines are due,
//! for any damage and any chunking. It does not determine timeouts: after a standstill the
//! server may have closed the connection or dropped the partial frame, so that later bytes may
//! be answered or not.

use std::collections::VecDeque;

use crate::tally::Fault;
use hawk_wire::{
    Busy, Decoder, Input, MAX_REPLY_LINE, Packet, PacketDecoder, Refusal, Reply, Step,
};

/// Sees both directions of one connection.
#[derive(Debug, Default)]
pub(super) struct Judge {
    decoder: Decoder,
    packets: PacketDecoder,
    /// What was sent and not decided yet.
    window: Vec<u8>,
    /// Whether the server gives the stream up at this point.
    given_up: bool,
    due: VecDeque<Reply>,
    /// Lines that became due before the first doubt.
    certain: Option<u64>,
    /// Lines that came, and the beginning of the next.
    lines: u64,
    partial: Vec<u8>,
    turned_away: bool,
}

/// What the server did to an agent that it may do to none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    /// A line that no server of this protocol says.
    Unknown(Vec<u8>),
    /// A line for which another was due.
    Wrong {
        /// What came.
        got: Reply,
        /// What was due.
        due: Reply,
    },
    /// A line although none was due.
    Extra(Reply),
    /// The stream ended within a line.
    Unfinished(Vec<u8>),
    /// The stream ended although so many lines were due.
    Lost(u64),
    /// Neither a reply nor the end of the stream came in time.
    LeftOpen,
    /// The server did not read on.
    Unread,
}

impl Judge {
    /// These bytes have been handed to the kernel.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        self.decode(Input::Open);
    }

    /// Our side of the stream has ended.
    pub(super) fn sent_all(&mut self) {
        self.decode(Input::Ended);
    }

    /// The server may lose patience from here on: what becomes due later may be
    /// answered, or not.
    pub(super) fn doubt(&mut self) {
        self.certain
            .get_or_insert(self.lines + self.due.len() as u64);
    }

    /// Takes bytes as they came.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<(), Breach> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            match self.partial.strip_suffix(b"\n") {
                Some(line) => {
                    let reply = Reply::parse(line).ok_or_else(|| Breach::Unknown(line.to_vec()))?;
                    self.partial.clear();
                    self.complete(reply)?;
                }
                None if self.partial.len() >= MAX_REPLY_LINE => {
                    return Err(Breach::Unknown(self.partial.clone()));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// The server has ended the stream; `answering` our end of it, or of its own
    /// accord, as it may at any time.
    pub(super) fn end_of_file(&mut self, answering: bool) -> Result<(), Breach> {
        if !self.partial.is_empty() {
            return Err(Breach::Unfinished(std::mem::take(&mut self.partial)));
        }
        let due = self.lines + self.due.len() as u64;
        let owed = self.certain.unwrap_or(due).saturating_sub(self.lines);
        match answering && !self.turned_away && owed > 0 {
            true => Err(Breach::Lost(owed)),
            false => Ok(()),
        }
    }

    /// Lines that came.
    pub(super) const fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether the server has said that it takes no newcomers.
    pub(super) const fn is_turned_away(&self) -> bool {
        self.turned_away
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
        let Some(due) = self.due.pop_front() else {
            return Err(Breach::Extra(got));
        };
        let unavailable = Reply::Busy(Busy::StoreUnavailable);
        match got == due || (got == unavailable && due == Reply::Report) {
            true => Ok(()),
            false => Err(Breach::Wrong { got, due }),
        }
    }

    fn decode(&mut self, input: Input) {
        let mut at = 0;
        while !self.given_up {
            let decoded = self.decoder.decode(&self.window[at..], input);
            at += decoded.consumed;
            self.due.push_back(match decoded.step {
                Step::Frame(data) => answer(&mut self.packets, data),
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

fn answer(packets: &mut PacketDecoder, data: &[u8]) -> Reply {
    match packets.decode(data) {
        Ok(Packet::Heartbeat(_)) => Reply::Heartbeat,
        Ok(Packet::Report(_)) => Reply::Report,
        Err(refusal) => Reply::Error(refusal),
    }
}

impl Breach {
    /// How it counts and what it is called.
    pub(super) fn told(&self) -> (Fault, String, u64) {
        let text = |reply: &Reply| reply.line().trim_ascii_end().escape_ascii().to_string();
        match self {
            Self::Unknown(line) => {
                let line = line.escape_ascii();
                (Fault::Wrong, format!("unknown line \"{line}\""), 1)
            }
            Self::Wrong { got, due } => {
                let (got, due) = (text(got), text(due));
                (Fault::Wrong, format!("\"{got}\" instead of \"{due}\""), 1)
            }
            Self::Extra(got) => {
                let cause = format!("\"{}\" answers nothing", text(got));
                (Fault::Extra, cause, 1)
            }
            Self::Unfinished(line) => {
                let line = line.escape_ascii();
                (Fault::Wrong, format!("unfinished line \"{line}\""), 1)
            }
            Self::Lost(count) => {
                let cause = "no reply by the end of the stream".to_owned();
                (Fault::Lost, cause, *count)
            }
            Self::LeftOpen => {
                let cause = "left open by the server after our end of file".to_owned();
                (Fault::Connection, cause, 1)
            }
            Self::Unread => {
                let cause = "not read by the server".to_owned();
                (Fault::Connection, cause, 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::script::{Conduct, Origin, Script};
    use crate::frames::ContentSize;
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

    const DUE: &[u8] = b"error: empty data\nheartBeat\n";

    #[test]
    fn the_lines_that_are_due_are_right_in_any_pieces() {
        for size in 1..=DUE.len() {
            let mut judge = judge();
            for piece in DUE.chunks(size) {
                judge.receive(piece).unwrap();
            }
            assert_eq!((judge.end_of_file(true), judge.lines()), (Ok(()), 2));
        }
    }

    #[test]
    fn every_other_line_is_a_breach() {
        let empty = Reply::Error(Refusal::Empty);
        let wrong = |got| Breach::Wrong { got, due: empty };
        for (line, breach) in [
            (&b"heartBeat\n"[..], wrong(Reply::Heartbeat)),
            (b"busy: store unavailable\n", {
                wrong(Reply::Busy(Busy::StoreUnavailable))
            }),
            (b"heartbeat\n", Breach::Unknown(b"heartbeat".to_vec())),
            (&[b'x'; MAX_REPLY_LINE], Breach::Unknown(vec![b'x'; 32])),
        ] {
            assert_eq!(judge().receive(line), Err(breach));
        }
        let mut judge = judge();
        let extra = Err(Breach::Extra(Reply::Heartbeat));
        assert_eq!(judge.receive(&[DUE, b"heartBeat\n"].concat()), extra);
    }

    #[test]
    fn lines_missing_at_the_end_are_lost_unless_the_server_closed() {
        let mut judge = judge();
        assert_eq!(judge.end_of_file(false), Ok(()));
        assert_eq!(judge.end_of_file(true), Err(Breach::Lost(2)));
        judge.receive(&DUE[..DUE.len() - 1]).unwrap();
        let unfinished = Err(Breach::Unfinished(b"heartBeat".to_vec()));
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
        assert_eq!(judge.end_of_file(true), Err(Breach::Lost(2)));
    }

    #[test]
    fn an_agent_may_be_turned_away_before_anything_else_and_nothing_follows() {
        let mut turned = judge();
        turned.receive(b"busy: too many connections\n").unwrap();
        turned.sent(&frame(b""));
        assert!(turned.is_turned_away());
        assert_eq!(turned.end_of_file(true), Ok(()));
        let extra = Err(Breach::Extra(Reply::Heartbeat));
        assert_eq!(turned.receive(b"heartBeat\n"), extra);

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
    fn an_agent_that_corrupts_frames_is_due_a_line_for_each_intact_frame() {
        let mut judge = Judge::default();
        for life in (0..800).step_by(Conduct::ALL.len()) {
            let origin = Origin {
                seed: 0,
                agent: 0,
                life,
            };
            let script = Script::draw(origin, ContentSize::Random);
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
