//! The protocol's rule for finding frames in its simplest form, without a record of the bytes
//! searched before.

use std::ops::Range;

/// Junk after which the server gives a stream up (docs/protocol.md).
const JUNK_BUDGET: u32 = 262_144;

/// What is known of the bytes of one stream, as far as the server has read them.
#[derive(Clone, Default)]
pub struct Reference {
    /// Bytes read and not consumed begin at `head`.
    bytes: Vec<u8>,
    head: usize,
    /// The same place, counted from the beginning of the stream.
    at: u64,
    /// Behind the last recognised frame, or where the stream begins.
    boundary: u64,
    /// Bytes refused since the last frame that passed.
    junk: u32,
    ended: bool,
}

/// A recognised frame.
pub enum Found {
    /// It passed; its data are here in [`Reference::data`].
    Frame(Range<usize>),
    /// Its checksum is wrong, and nothing else.
    ChecksumMismatch,
}

enum Verdict {
    Passed { data: usize },
    WrongSum { data: usize },
    Refused,
    Undecided,
}

impl Reference {
    /// As new, with the memory that it has.
    pub fn reset(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        *self = Self {
            bytes,
            ..Self::default()
        };
    }

    /// The server has read more.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.head > 0 && self.head >= self.bytes.len() / 2 {
            self.bytes.drain(..self.head);
            self.head = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// No more is read; what is undecided is refused.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether [`end`](Self::end) was called.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Drops the undecided candidate at the front.
    pub fn abandon(&mut self) {
        self.refuse(1);
    }

    /// The next recognised frame in what was read.
    pub fn next(&mut self) -> Option<Found> {
        while self.head < self.bytes.len() && !self.has_given_up() {
            match self.judge() {
                Verdict::Passed { data } => {
                    let data = self.head + 4..self.head + 4 + data;
                    self.head = data.end + 4;
                    self.at += data.len() as u64 + 8;
                    self.boundary = self.at;
                    self.junk = 0;
                    return Some(Found::Frame(data));
                }
                Verdict::WrongSum { data } => {
                    self.boundary = self.at + data as u64 + 8;
                    self.refuse(1);
                    return Some(Found::ChecksumMismatch);
                }
                Verdict::Undecided if !self.ended => return None,
                Verdict::Undecided | Verdict::Refused => {
                    // Nothing can begin before the next marker byte.
                    let rest = &self.bytes[self.head + 1..];
                    let next = memchr::memchr(0xFF, rest).unwrap_or(rest.len());
                    self.refuse(1 + next);
                }
            }
        }
        None
    }

    /// The data of a frame just found.
    pub fn data(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Bytes of the stream that are settled.
    pub fn consumed(&self) -> u64 {
        self.at
    }

    /// Bytes that were read and are not settled.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.head
    }

    /// Bytes that the frame begun lacks, by the length that it claims; up to its header
    /// as long as that is not there. None if nothing is begun.
    pub fn lacks(&self) -> Option<usize> {
        let begun = &self.bytes[self.head..];
        let whole = match begun {
            [] => return None,
            [_, _, high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])) + 8,
            _ => 4,
        };
        Some(whole.saturating_sub(begun.len()).max(1))
    }

    /// Bytes of the stream that were read.
    pub fn known(&self) -> u64 {
        self.at + self.pending() as u64
    }

    /// Whether the search stands right behind a recognised frame.
    pub fn at_boundary(&self) -> bool {
        self.at == self.boundary
    }

    /// Whether there was too much junk.
    pub fn has_given_up(&self) -> bool {
        self.junk >= JUNK_BUDGET
    }

    fn refuse(&mut self, bytes: usize) {
        let bytes = bytes.min((JUNK_BUDGET - self.junk) as usize);
        self.head += bytes;
        self.at += bytes as u64;
        self.junk += u32::try_from(bytes).unwrap();
    }

    fn judge(&self) -> Verdict {
        let rest = &self.bytes[self.head..];
        if rest[0] != 0xFF || rest.get(1).is_some_and(|byte| *byte != 0xFF) {
            return Verdict::Refused;
        }
        let [_, _, high, low, behind @ ..] = rest else {
            return Verdict::Undecided;
        };
        let length = usize::from(*high) << 8 | usize::from(*low);
        let data = &behind[..length.min(behind.len())];
        if memchr::memchr(0xFF, data).is_some() {
            return Verdict::Refused;
        }
        match [behind.get(length + 2), behind.get(length + 3)] {
            [Some(first), _] if *first != 0xFF => Verdict::Refused,
            [Some(_), Some(second)] if *second != 0xFE => Verdict::Refused,
            [Some(_), Some(_)] => {
                let sum = u16::from_be_bytes([behind[length], behind[length + 1]]);
                match checksum(data) == sum {
                    true => Verdict::Passed { data: length },
                    false => Verdict::WrongSum { data: length },
                }
            }
            _ => Verdict::Undecided,
        }
    }
}

/// The upper half of the data's CRC-32 (docs/protocol.md).
pub fn checksum(data: &[u8]) -> u16 {
    (crc32fast::hash(data) >> 16) as u16
}
