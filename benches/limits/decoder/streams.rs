//! Streams for the decoder: valid frames of several sizes, and the worst alternatives.

use hawk_wire::{
    Encoding, FRAME_OVERHEAD, MAX_DATA, MAX_FRAME, Packet, Report, encode_frame, encode_packet,
};

/// Bytes of each stream: two of the longest frames, and less than the junk limit, at which
/// the decoder stops.
pub(crate) const LENGTH: usize = 2 * MAX_FRAME;

/// Bytes of the frame of a usual report.
pub(crate) const USUAL: usize = 160;

/// The bytes that are repeated until the stream has its length.
pub(crate) struct Stream {
    pub(crate) name: &'static str,
    /// The comparison: valid frames of this many bytes each.
    pub(crate) like: usize,
    piece: Vec<u8>,
}

impl Stream {
    fn new(name: &'static str, like: usize, piece: impl Into<Vec<u8>>) -> Self {
        let piece = piece.into();
        Self { name, like, piece }
    }

    /// Returns all its bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        repeated(&self.piece)
    }
}

/// Repeats `piece`.
pub(crate) fn repeated(piece: &[u8]) -> Vec<u8> {
    piece.iter().copied().cycle().take(LENGTH).collect()
}

/// Returns valid frames of `size` bytes.
pub(crate) fn valid(size: usize) -> Vec<u8> {
    repeated(&frame(size))
}

/// Returns reports of the original's form, in frames of about this many bytes; a frame
/// without data contains no report.
pub(crate) fn valid_reports(size: usize) -> Vec<u8> {
    let room = size.saturating_sub(USUAL - USUAL_CONTENT) / 4 * 3;
    let content = if size > USUAL { room } else { USUAL_CONTENT };
    let report = Packet::Report(Report {
        content: "x".repeat(content).into(),
        rand: 3_413_719_555_719_190_332,
        timestamp: 1_475_249_220,
        agent: None,
    });
    let mut frame = frame(FRAME_OVERHEAD);
    if size > FRAME_OVERHEAD {
        frame.clear();
        encode_packet(&report, Encoding::Classic, &mut frame).expect("it fits a frame");
    }
    frame.repeat(LENGTH / frame.len())
}

/// Bytes of content of a report in a frame of [`USUAL`] bytes.
const USUAL_CONTENT: usize = 24;

/// Sizes of valid frames: without data, usual, and longest.
pub(crate) const SIZES: [usize; 3] = [FRAME_OVERHEAD, USUAL, MAX_FRAME];

/// Returns streams that are expensive to decode. The short ones are the most expensive
/// periodic streams of `--search`.
pub(crate) fn worst() -> Vec<Stream> {
    let [shortest, usual, longest] = SIZES;
    vec![
        Stream::new("every byte FF", shortest, [0xFF]),
        Stream::new("FF FF and a byte", shortest, *b"\xFF\xFFx"),
        Stream::new("FF FF FF and a byte", shortest, *b"\xFF\xFF\xFFx"),
        Stream::new(
            "FF FF FF FF and four bytes",
            shortest,
            *b"\xFF\xFF\xFF\xFFxxxx",
        ),
        Stream::new("FF and a byte", shortest, *b"\xFFx"),
        Stream::new("FF FE", shortest, *b"\xFF\xFE"),
        Stream::new("no data, wrong sum", shortest, wrong_sum(shortest)),
        Stream::new(
            "no data, wrong sum, which begins the next",
            shortest,
            *b"\xFF\xFF\0\0\xFF\xFF\xFF\xFE",
        ),
        Stream::new("wrong sum", usual, wrong_sum(usual)),
        Stream::new("wrong end marker", usual, wrong_end(usual)),
        Stream::new("length too large by one", usual, wrong_length(usual, 1)),
        Stream::new("length of 65,535", usual, wrong_length(usual, usize::MAX)),
        Stream::new("wrong sum", longest, wrong_sum(longest)),
        Stream::new(
            "two candidates, one end, both summed",
            longest,
            twice_summed(),
        ),
        Stream::new("candidate that ends nowhere", longest, wrong_end(longest)),
    ]
}

/// Returns a valid frame of `size` bytes.
fn frame(size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let data = vec![b'x'; size - FRAME_OVERHEAD];
    encode_frame(&data, &mut out).expect("data without the byte FF, and not too much of it");
    out
}

fn wrong_sum(size: usize) -> Vec<u8> {
    let mut frame = frame(size);
    frame[size - 3] ^= 1;
    frame
}

fn wrong_end(size: usize) -> Vec<u8> {
    let mut frame = frame(size);
    frame[size - 1] = 0xFD;
    frame
}

/// Returns a frame with a length `more` bytes too large, or the largest length.
fn wrong_length(size: usize, more: usize) -> Vec<u8> {
    let mut frame = frame(size);
    let claimed = (size - FRAME_OVERHEAD).saturating_add(more).min(MAX_DATA);
    let claimed = u16::try_from(claimed).unwrap_or(u16::MAX);
    frame[2..4].copy_from_slice(&claimed.to_be_bytes());
    frame
}

/// Returns two candidates, one byte apart, with claimed lengths that end at the same
/// marker: all bytes of both are summed.
fn twice_summed() -> Vec<u8> {
    let mut piece = vec![0xFF, 0xFF, 0xFF, 0xFF, 0xFE];
    piece.resize(MAX_FRAME - 2, b'x');
    piece.extend([0xFF, 0xFE]);
    piece
}
