//! Finds frames in a stream of bytes, and resynchronises after damage.
//!
//! The caller owns the bytes and passes the decoder a *window*: all bytes that have
//! arrived and are not consumed yet. The decoder keeps only offsets into
//! that window, so that its whole state is [`DecoderState`]: plain data.
//!
//! A *candidate* starts at `FF FF`. It is refused as soon as it cannot pass
//! the frame check (both markers right, no `FF` in the data, checksum right),
//! and the search continues **one byte after its start**, not after the length it
//! claims. Three properties follow; the tests beside this file check them:
//!
//! 1. A damaged frame costs only itself: an intact frame shorter than
//!    `FE00` behind any damage is decoded as soon as its last byte is in.
//! 2. Time is linear in the input. The search for `FF` keeps its place
//!    (`clean`), and candidates that overlap share it; a byte is summed by at
//!    most two candidates, because a sum is taken only where both markers stand
//!    and marker bytes cannot stand in data.
//! 3. Chunking does not matter: each decision depends on the bytes up to it and
//!    never on how they were cut.

use super::frame::{END_MARKER, FRAME_OVERHEAD, HEADER, MARK, TRAILER, checksum};

/// Bytes of junk since the last frame that passed after which a connection is
/// not worth listening to: four frames of the longest kind, damaged, and far
/// less than an hour of line noise.
pub const JUNK_LIMIT: u32 = 256 * 1024;

/// What one call of [`Decoder::decode`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Bytes at the front of the window that are settled, a frame's data
    /// included; the next window begins behind them.
    pub consumed: usize,
    /// What the settled bytes were.
    pub step: Step<'a>,
}

/// One finding of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A frame that passed the frame check, with this data.
    Frame(&'a [u8]),
    /// A frame that is valid except for its checksum.
    ChecksumMismatch,
    /// The window contains no further frame. The rest of the window, if any, is a candidate
    /// that needs more bytes.
    Incomplete,
    /// [`JUNK_LIMIT`] is reached: the caller closes the connection.
    JunkLimit,
}

/// Whether bytes can still follow those in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// More may come.
    Open,
    /// End of file: an unfinished candidate is as good as refused.
    Ended,
}

/// Finds the frames in one stream of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoder {
    state: Memory,
}

/// All that a [`Decoder`] remembers between two calls, to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderState {
    /// The window's bytes behind a header of four, up to this offset, are free of `FF`.
    pub clean: u32,
    /// Bytes of junk since the last frame that passed.
    pub junk: u32,
    /// Offset in the window of the byte behind the last recognised frame, or
    /// of the stream's first byte; `None` once the search is past it.
    pub boundary: Option<u32>,
}

impl Default for DecoderState {
    fn default() -> Self {
        Decoder::default().state()
    }
}

/// The same in the room that there is in a connection: a quarter less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Memory {
    clean: u32,
    junk: u32,
    boundary: Boundary,
}

/// Where the boundary is, or that the search is past it. It begins at offset 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Boundary(u32);

impl Boundary {
    /// Behind every window there is.
    const PAST: Self = Self(u32::MAX);

    fn new(at: Option<u32>) -> Self {
        at.map_or(Self::PAST, Self)
    }

    const fn get(self) -> Option<u32> {
        match self {
            Self::PAST => None,
            Self(at) => Some(at),
        }
    }

    /// As it is once so many bytes are settled.
    fn behind(self, settled: u32) -> Self {
        Self::new(self.get().and_then(|at| at.checked_sub(settled)))
    }
}

/// What is known of the candidate at the front of the window.
enum Verdict<'a> {
    Passed { data: &'a [u8], behind: &'a [u8] },
    WrongSum { frame: usize },
    Refused,
    Undecided,
}

impl Decoder {
    /// Looks for the next frame in `window`, which begins behind the bytes that
    /// were consumed before.
    ///
    /// Call it again with what is left until it answers [`Step::Incomplete`];
    /// then again when there are more bytes, or the input has ended.
    #[inline]
    pub fn decode<'a>(&mut self, window: &'a [u8], input: Input) -> Decoded<'a> {
        let mut rest = window;
        let step = loop {
            if self.state.junk >= JUNK_LIMIT {
                break Step::JunkLimit;
            }
            match self.judge(rest) {
                Verdict::Passed { data, behind } => {
                    self.state = Memory::default();
                    rest = behind;
                    break Step::Frame(data);
                }
                Verdict::WrongSum { frame } => {
                    self.state.boundary = Boundary(offset(frame));
                    let frame = rest.get(..frame).unwrap_or(rest);
                    rest = after(rest, self.refuse_frame(frame));
                    break Step::ChecksumMismatch;
                }
                Verdict::Undecided if input == Input::Open || rest.is_empty() => {
                    break Step::Incomplete;
                }
                Verdict::Refused | Verdict::Undecided => rest = after(rest, self.refuse(rest)),
            }
        };
        Decoded {
            consumed: window.len() - rest.len(),
            step,
        }
    }

    /// Drops the candidate that the last call left at the front of `window`. Returns how many
    /// bytes are junk by that. The caller then calls [`decode`](Self::decode), which continues
    /// the search.
    pub fn abandon(&mut self, window: &[u8]) -> usize {
        if window.is_empty() {
            return 0;
        }
        self.refuse(window)
    }

    /// Whether the window begins at a frame boundary: at the start of the
    /// stream or right behind a recognised frame.
    #[must_use]
    pub const fn at_boundary(&self) -> bool {
        matches!(self.state.boundary, Boundary(0))
    }

    /// Bytes of junk since the last frame that passed.
    #[must_use]
    pub const fn junk(&self) -> u32 {
        self.state.junk
    }

    /// The decoder's whole memory, to be rebuilt elsewhere over the same window.
    #[must_use]
    pub const fn state(&self) -> DecoderState {
        DecoderState {
            clean: self.state.clean,
            junk: self.state.junk,
            boundary: self.state.boundary.get(),
        }
    }

    /// Returns a decoder that continues from the [`state`](Self::state) of another decoder.
    #[must_use]
    pub fn rebuild(state: DecoderState) -> Self {
        Self {
            state: Memory {
                clean: state.clean,
                junk: state.junk,
                boundary: Boundary::new(state.boundary),
            },
        }
    }

    /// Applies the frame check, as far as the bytes of `rest` allow, to the
    /// candidate at its front.
    #[inline]
    fn judge<'a>(&mut self, rest: &'a [u8]) -> Verdict<'a> {
        match rest {
            [] | [MARK] | [MARK, MARK] | [MARK, MARK, _] | [MARK, MARK, _, _] => Verdict::Undecided,
            [MARK, MARK, high, low, body @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                match body {
                    // Nothing behind the header is clean: no need to look what is.
                    [MARK, ..] if length > 0 => Verdict::Refused,
                    _ => self.judge_body(body, length),
                }
            }
            _ => Verdict::Refused,
        }
    }

    /// The same for what is behind the header, which claims `length` bytes of data.
    #[inline]
    fn judge_body<'a>(&mut self, body: &'a [u8], length: usize) -> Verdict<'a> {
        let searched = (self.state.clean as usize).saturating_sub(HEADER);
        let arrived = length.min(body.len());
        if let Some(fresh @ [_, ..]) = body.get(searched..arrived) {
            if let Some(found) = find_mark(fresh) {
                self.state.clean = offset(HEADER + searched + found);
                return Verdict::Refused;
            }
            self.state.clean = offset(HEADER + arrived);
        }
        let Some((data, trailer)) = body.split_at_checked(length) else {
            return Verdict::Undecided;
        };
        match trailer {
            [_, _, first, ..] if *first != END_MARKER[0] => Verdict::Refused,
            [] | [_] | [_, _] | [_, _, _] => Verdict::Undecided,
            [_, _, _, second, ..] if *second != END_MARKER[1] => Verdict::Refused,
            [high, low, _, _, behind @ ..] => {
                if sum(data) == u16::from_be_bytes([*high, *low]) {
                    Verdict::Passed { data, behind }
                } else {
                    let frame = length + FRAME_OVERHEAD;
                    Verdict::WrongSum { frame }
                }
            }
        }
    }

    /// Moves from the refused candidate at the front of `rest` to the next that is
    /// not refused at a glance, but never past the junk limit; returns how far.
    #[inline]
    fn refuse(&mut self, rest: &[u8]) -> usize {
        let mut candidate = rest;
        loop {
            // Where marks are many, one is in the header: no call for a search.
            candidate = match candidate {
                [_, MARK, ..] => after(candidate, 1),
                [_, _, MARK, ..] => after(candidate, 2),
                [_, _, _, MARK, ..] => after(candidate, 3),
                _ => self.next_mark(rest, after(candidate, HEADER)),
            };
            if !is_hopeless(candidate) {
                return self.pass(rest.len() - candidate.len());
            }
        }
    }

    /// As [`refuse`](Self::refuse), for a whole frame with a wrong checksum. The bytes
    /// behind the frame must not affect how far the search proceeds.
    #[inline]
    fn refuse_frame(&mut self, frame: &[u8]) -> usize {
        match *frame {
            // Its data has no mark, so a candidate could only begin with the second
            // byte of the start marker, or in the length or the sum.
            [_, _, high, low, .., sum_high, sum_low, _, _] if high != MARK && low != MARK => {
                let begun = match (sum_high, sum_low) {
                    (MARK, MARK) => TRAILER,
                    (_, MARK) => TRAILER - 1,
                    _ => 0,
                };
                self.pass(frame.len() - begun)
            }
            _ => self.refuse(frame),
        }
    }

    /// What begins with the first `FF` of `tail`, the end of `rest` that lies behind
    /// the header of a candidate.
    ///
    /// The bytes up to `clean` are known to hold no `FF`, so they are passed over
    /// unread: this is what keeps the search linear.
    #[inline(never)] // Its registers would have to be saved for every frame.
    fn next_mark<'a>(&self, rest: &'a [u8], tail: &'a [u8]) -> &'a [u8] {
        let searched = (self.state.clean as usize).saturating_sub(rest.len() - tail.len());
        let fresh = after(tail, searched);
        find_mark(fresh).map_or(&[], |found| after(fresh, found))
    }

    /// Counts the next `bytes` as junk, or as many as the junk limit leaves. Returns how
    /// many.
    #[inline]
    fn pass(&mut self, bytes: usize) -> usize {
        let left = JUNK_LIMIT.saturating_sub(self.state.junk) as usize;
        let junk = offset(bytes.min(left));
        self.state.junk += junk;
        self.state.clean = match self.state.clean.saturating_sub(junk) {
            // Nothing behind the header is known: one way to say so, however
            // the bytes were cut.
            clean if clean as usize <= HEADER => 0,
            clean => clean,
        };
        self.state.boundary = self.state.boundary.behind(junk);
        junk as usize
    }
}

/// What is left of `bytes` from `at` on.
#[inline]
fn after(bytes: &[u8], at: usize) -> &[u8] {
    bytes.get(at..).unwrap_or_default()
}

/// Whether the first twelve bytes refuse a candidate, which begins with a mark if it
/// is not empty. Where marks are many, nearly all candidates are of this kind, and so
/// it has to be quick.
#[inline]
fn is_hopeless(candidate: &[u8]) -> bool {
    match *candidate {
        [_, MARK, high, low, first, ref more @ ..] => match (high, low, more) {
            (0, 0, _) => false,
            _ if first == MARK => true,
            (0, ..8, _) => false,
            (_, _, &[b, c, d, e, f, g, h, ..]) => has_mark([first, b, c, d, e, f, g, h]),
            _ => false,
        },
        [_, second, ..] => second != MARK,
        [] | [_] => false,
    }
}

/// Whether one of eight bytes is `FF`: the complement of such a byte is zero, and
/// only below a zero does the subtraction borrow (Hacker's Delight, section 6-1).
#[inline]
fn has_mark(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let bytes = u64::from_ne_bytes(bytes);
    (!bytes).wrapping_sub(ONES) & bytes & HIGH != 0
}

/// An offset into a window as it is stored.
///
/// Saturates instead of failing: a window holds at most one candidate and the bytes of
/// one read, and all offsets above the junk limit have the same effect.
fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Where the first `FF` is. All searching behind a header goes through here, so that
/// tests can count it.
#[inline]
fn find_mark(bytes: &[u8]) -> Option<usize> {
    // Where marks are many, calling a search for each costs more than all the rest.
    let found = match *bytes {
        [MARK, ..] => Some(0),
        [_, MARK, ..] => Some(1),
        [_, _, MARK, ..] => Some(2),
        [] | [_] | [_, _] | [_, _, _] => None,
        _ => memchr::memchr(MARK, bytes),
    };
    #[cfg(test)]
    tests::WORK.searched(found.map_or(bytes.len(), |at| at + 1));
    found
}

/// The checksum of a candidate. All summing goes through here, likewise.
#[inline]
fn sum(data: &[u8]) -> u16 {
    #[cfg(test)]
    tests::WORK.summed(data.len());
    checksum(data)
}

#[cfg(test)]
mod tests;
