//! What one agent must be told: kept from the bytes that the server has read of
//! it, and held against every byte that the server writes to it.

use std::collections::VecDeque;
use std::ops::Range;

use hawk_wire::{Refusal, Reply};

use super::samples::{Content, SAMPLES};
use hawk_testkit::reference::{Found, Reference};

/// One agent's side of the story.
#[derive(Clone, Default)]
pub struct Conversation {
    pub reference: Reference,
    /// What is to be answered and was not written yet, in order.
    promises: VecDeque<Promise>,
    /// Those at the front that need no packet to be handed in.
    answered: usize,
    /// Bytes of the first line that were written.
    written: usize,
    /// The latest commit that anything waits for.
    last_commit: Option<u64>,
    /// Where the undamaged frames stand in the stream that are to be recognised.
    intact: VecDeque<Range<u64>>,
    /// Bytes that were read when the deadline had passed: the decoder may not have seen them.
    doubtful: Vec<u8>,
    /// Where each read of them ends.
    doubts: Vec<usize>,
    /// So was the end of file.
    doubtful_end: bool,
    /// Frames that passed, and those that were recognised and did not.
    pub frames: u64,
    pub mismatches: u64,
    /// How things stood when the stream ended.
    pub at_end: Option<AtEnd>,
    /// What the rule itself did wrong, if it did.
    pub wrong: Option<Range<u64>>,
}

/// How things stood before all that was undecided was refused.
#[derive(Clone, Copy, Debug)]
pub struct AtEnd {
    pub frames: u64,
    pub consumed: u64,
    pub at_boundary: bool,
}

/// One line that the agent is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    /// The answer to a packet that was not handed in yet.
    Packet(Content),
    /// This line.
    Line(Reply),
    /// That the report was taken, or was not, once this commit has ended.
    Commit(u64),
}

/// How commits have ended that the server knows of.
pub trait Fates {
    /// The reply for the report that waits for this commit.
    fn reply(&self, commit: u64) -> Option<Reply>;
}

impl Promise {
    fn line(self, fates: &impl Fates) -> Option<&'static [u8]> {
        match self {
            Self::Line(reply) => Some(reply.line()),
            Self::Commit(commit) => fates.reply(commit).map(Reply::line),
            Self::Packet(_) => None,
        }
    }
}

impl Conversation {
    /// As new, with the memory that it has.
    pub fn reset(&mut self) {
        self.reference.reset();
        self.promises.clear();
        self.intact.clear();
        self.disbelieve();
        (self.answered, self.written) = (0, 0);
        (self.frames, self.mismatches) = (0, 0);
        self.last_commit = None;
        self.at_end = None;
        self.wrong = None;
    }

    /// An agent has sent an undamaged frame that takes these bytes of its stream.
    pub fn sent_intact(&mut self, place: Range<u64>) {
        self.intact.push_back(place);
    }

    /// The server has read these bytes.
    pub fn read(&mut self, bytes: &[u8]) {
        self.reference.feed(bytes);
        self.search();
    }

    /// The server has read these bytes, and perhaps threw them away; `wanted` of them
    /// if not.
    pub fn read_perhaps(&mut self, bytes: &[u8], wanted: usize) {
        self.doubtful.extend_from_slice(&bytes[..wanted]);
        self.doubts.push(self.doubtful.len());
    }

    /// It has read the end of file, and perhaps paid no heed.
    pub fn end_perhaps(&mut self) {
        self.doubtful_end = true;
    }

    /// Reads of which it is not known whether it listened to them.
    pub fn doubts(&self) -> usize {
        self.doubts.len()
    }

    /// It did not throw them away. If `drop` says so, it gave up the candidate that began
    /// at a place of the stream, after so many reads: whether it might.
    pub fn believe(&mut self, drop: Option<(usize, u64)>) -> bool {
        let doubtful = std::mem::take(&mut self.doubtful);
        let doubts = std::mem::take(&mut self.doubts);
        let mut begin = 0;
        let mut may = true;
        for place in 0..=doubts.len() {
            if let Some((after, candidate)) = drop
                && after == place
            {
                may = self.reference.pending() > 0
                    && self.reference.consumed() == candidate
                    && !self.reference.at_boundary()
                    && !self.reference.has_ended();
                if may {
                    self.abandon();
                }
            }
            if let Some(end) = doubts.get(place) {
                self.read(&doubtful[begin..*end]);
                begin = *end;
            }
        }
        if std::mem::take(&mut self.doubtful_end) {
            self.end();
        }
        may
    }

    /// It did throw them away.
    pub fn disbelieve(&mut self) {
        self.doubtful.clear();
        self.doubts.clear();
        self.doubtful_end = false;
    }

    /// The server will read no more.
    pub fn end(&mut self) {
        if self.at_end.is_none() {
            self.at_end = Some(AtEnd {
                frames: self.frames,
                consumed: self.reference.consumed(),
                at_boundary: self.reference.at_boundary(),
            });
            self.reference.end();
            self.search();
        }
    }

    /// The server gives up the candidate that it waited for.
    fn abandon(&mut self) {
        let at = self.reference.consumed();
        if self.intact.front().is_some_and(|place| place.start == at) {
            self.intact.pop_front();
        }
        self.reference.abandon();
        self.search();
    }

    /// The agent is told this at once, whatever it sends.
    pub fn refuse(&mut self, reply: Reply) {
        self.end();
        self.promises.push_back(Promise::Line(reply));
    }

    /// Whether this is the next packet that is to be handed in.
    pub fn is_next(&mut self, content: Content) -> bool {
        self.skip_answered();
        self.promises.get(self.answered) == Some(&Promise::Packet(content))
    }

    /// That packet was handed in, and is answered so.
    pub fn answer(&mut self, reply: Result<Reply, u64>) {
        self.promises[self.answered] = match reply {
            Ok(reply) => Promise::Line(reply),
            Err(commit) => {
                self.last_commit = Some(commit);
                Promise::Commit(commit)
            }
        };
        self.answered += 1;
    }

    /// Whether packets were found that the handler did not get.
    pub fn has_packets(&mut self) -> bool {
        self.skip_answered();
        self.answered < self.promises.len()
    }

    /// Whether `bytes` are what the agent is to be told next.
    pub fn may_write(&self, mut bytes: &[u8], fates: &impl Fates) -> bool {
        let mut skip = self.written;
        for promise in &self.promises {
            let Some(line) = promise.line(fates).map(|line| &line[skip..]) else {
                return false;
            };
            let part = line.len().min(bytes.len());
            if line[..part] != bytes[..part] {
                return false;
            }
            bytes = &bytes[part..];
            if bytes.is_empty() {
                return true;
            }
            skip = 0;
        }
        false
    }

    /// These bytes, which [may be written](Self::may_write), were.
    pub fn wrote(&mut self, bytes: usize, fates: &impl Fates) {
        self.written += bytes;
        while let Some(promise) = self.promises.front() {
            let line = promise.line(fates);
            let Some(line) = line.filter(|line| line.len() <= self.written) else {
                break;
            };
            self.written -= line.len();
            self.promises.pop_front();
            self.answered = self.answered.saturating_sub(1);
        }
    }

    /// Bytes of replies that are decided and not written, if there are few lines.
    pub fn unwritten(&self, fates: &impl Fates) -> Option<usize> {
        if self.promises.len() > 64 {
            return None;
        }
        let decided = self
            .promises
            .iter()
            .map_while(|promise| promise.line(fates));
        let bytes: usize = decided.map(<[u8]>::len).sum();
        Some(bytes.saturating_sub(self.written))
    }

    /// Whether something that was read is not answered in full.
    pub fn is_open(&self) -> bool {
        !self.promises.is_empty()
    }

    /// The latest commit that anything waited for.
    pub fn last_commit(&self) -> Option<u64> {
        self.last_commit
    }

    /// Whether what comes is not listened to any more.
    pub fn is_over(&self) -> bool {
        self.reference.has_ended() || self.reference.has_given_up()
    }

    fn search(&mut self) {
        while let Some(found) = self.reference.next() {
            let promise = match found {
                Found::ChecksumMismatch => {
                    self.mismatches += 1;
                    Promise::Line(Reply::Error(Refusal::ChecksumMismatch))
                }
                Found::Frame(data) => {
                    self.frames += 1;
                    self.found_frame();
                    match SAMPLES.content(self.reference.data(data)) {
                        Content::Useless(refusal) => Promise::Line(Reply::Error(refusal)),
                        packet => Promise::Packet(packet),
                    }
                }
            };
            self.promises.push_back(promise);
        }
        if let Some(place) = self.intact.front()
            && self.reference.known() >= place.end
            && !self.is_over()
        {
            self.wrong = Some(place.clone());
        }
    }

    /// A frame ends where the reference stands: an intact one, or by bad luck another.
    fn found_frame(&mut self) {
        let at = self.reference.consumed();
        if self.intact.front().is_some_and(|place| place.end == at) {
            self.intact.pop_front();
        }
    }

    fn skip_answered(&mut self) {
        while let Some(Promise::Line(_) | Promise::Commit(_)) = self.promises.get(self.answered) {
            self.answered += 1;
        }
    }
}
