//! The frames to send: made as they fall due, or beforehand.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::LoadError;
use hawk_wire::{Encoding, Heartbeat, MAX_DATA, Packet, PacketKind, Report, encode_packet};

/// How long the content of a report is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentSize {
    /// As the original's client has it: 0 to 49 bytes, at random.
    Random,
    /// Always this many bytes.
    Fixed(usize),
}

/// Makes packets as the original's client does: random letters, a random
/// number, and the time.
#[derive(Debug)]
pub(super) struct Generator {
    random: SmallRng,
    letters: String,
    size: ContentSize,
    encoding: Encoding,
}

/// Content of the longest random report, exclusive.
const RANDOM_SIZE: usize = 50;

/// Random letters that contents are cut from, beyond the longest content: as
/// many beginnings.
const SPARE_LETTERS: usize = 4096;

impl Generator {
    /// A generator of such frames.
    ///
    /// # Errors
    /// [`LoadError::Content`] if that much content does not fit a frame.
    pub(super) fn new(size: ContentSize, encoding: Encoding) -> Result<Self, LoadError> {
        let requested = match size {
            ContentSize::Random => RANDOM_SIZE,
            ContentSize::Fixed(bytes) => bytes,
        };
        // More than a frame holds is refused below; no need for more letters.
        let longest = requested.min(MAX_DATA + 1);
        let mut random: SmallRng = rand::make_rng();
        let letters = (0..longest + SPARE_LETTERS)
            .map(|_| char::from(random.random_range(b'a'..=b'z')))
            .collect();
        let generator = Self {
            random,
            letters,
            size,
            encoding,
        };
        // The numbers with the most digits make the longest frame there will be.
        let probe = generator.report(0, longest, i64::MAX, i64::MAX);
        encode_packet(&probe, encoding, &mut Vec::new())
            .map_err(|_| LoadError::Content(requested))?;
        Ok(generator)
    }

    /// Appends one frame of this kind to `out`.
    pub(super) fn append(&mut self, kind: PacketKind, out: &mut Vec<u8>) {
        let timestamp = unix_seconds();
        let packet = match kind {
            PacketKind::Heartbeat => Packet::Heartbeat(Heartbeat {
                version: "1.0".into(),
                timestamp,
                agent: None,
                probe: false,
            }),
            PacketKind::Report => {
                let size = match self.size {
                    ContentSize::Random => self.random.random_range(0..RANDOM_SIZE),
                    ContentSize::Fixed(size) => size,
                };
                let from = self.random.random_range(0..SPARE_LETTERS);
                let number = self.random.random_range(0..=i64::MAX);
                self.report(from, size, number, timestamp)
            }
        };
        // `new` has tried the longest one: this cannot fail.
        let encoded = encode_packet(&packet, self.encoding, out);
        debug_assert_eq!(encoded, Ok(()));
    }

    fn report(&self, from: usize, size: usize, rand: i64, timestamp: i64) -> Packet<'_> {
        Packet::Report(Report {
            content: self.letters[from..from + size].into(),
            rand,
            timestamp,
            agent: None,
        })
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}

/// Frames encoded beforehand, to be sent round and round.
///
/// They lie one behind the other, so that however many are due at once are one
/// piece of memory and one write.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Vec<u8>,
    /// Where each frame begins, and where the last one ends.
    offsets: Vec<usize>,
    /// Frames in one round; those behind repeat the first ones, for pieces that
    /// reach across the end.
    round: usize,
}

/// Most frames of a round: some variety, within the second-level cache.
const ROUND_FRAMES: usize = 1024;

/// Bytes that a ring stops growing at; a matter of memory, for large frames.
const RING_BYTES: usize = 4 << 20;

impl Ring {
    /// A ring of frames of this kind for pieces of `piece` frames.
    pub(super) fn new(generator: &mut Generator, kind: PacketKind, piece: usize) -> Self {
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        while offsets.len() <= ROUND_FRAMES && bytes.len() < RING_BYTES {
            generator.append(kind, &mut bytes);
            offsets.push(bytes.len());
        }
        let round = offsets.len() - 1;
        for frame in 0..piece.min(round) {
            if bytes.len() >= 2 * RING_BYTES {
                break;
            }
            bytes.extend_from_within(offsets[frame]..offsets[frame + 1]);
            offsets.push(bytes.len());
        }
        Self {
            bytes,
            offsets,
            round,
        }
    }

    /// Returns up to `most` frames from frame `at` of the round on: their bytes, their
    /// number, and the frame after them.
    #[inline]
    pub(super) fn piece(&self, at: usize, most: usize) -> (&[u8], usize, usize) {
        let end = (at + most).min(self.offsets.len() - 1);
        let bytes = &self.bytes[self.offsets[at]..self.offsets[end]];
        (bytes, end - at, end % self.round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawk_wire::{Decoder, Input, PacketDecoder, Step};

    fn contents(stream: &[u8]) -> Vec<usize> {
        let mut decoder = Decoder::default();
        let mut packets = PacketDecoder::default();
        let (mut at, mut found) = (0, Vec::new());
        loop {
            let decoded = decoder.decode(&stream[at..], Input::Open);
            at += decoded.consumed;
            match decoded.step {
                Step::Frame(data) => match packets.decode(data).unwrap() {
                    Packet::Report(report) => {
                        assert!(report.rand >= 0);
                        assert!(report.content.bytes().all(|b| b.is_ascii_lowercase()));
                        found.push(report.content.len());
                    }
                    Packet::Heartbeat(_) => found.push(usize::MAX),
                },
                Step::Incomplete => {
                    assert_eq!(at, stream.len());
                    return found;
                }
                step => panic!("{step:?}"),
            }
        }
    }

    #[test]
    fn contents_are_as_long_as_the_originals() {
        let mut generator = Generator::new(ContentSize::Random, Encoding::Classic).unwrap();
        let mut out = Vec::new();
        for _ in 0..2000 {
            generator.append(PacketKind::Report, &mut out);
        }
        let sizes = contents(&out);
        assert_eq!(sizes.iter().min(), Some(&0));
        assert_eq!(sizes.iter().max(), Some(&49));
    }

    #[test]
    fn a_content_that_fits_no_frame_is_refused_beforehand() {
        for encoding in [Encoding::Classic, Encoding::Compact] {
            assert!(Generator::new(ContentSize::Fixed(40_000), encoding).is_ok());
            for size in [MAX_DATA, usize::MAX] {
                assert!(Generator::new(ContentSize::Fixed(size), encoding).is_err());
            }
        }
    }

    #[test]
    fn a_ring_goes_round_in_whole_frames() {
        let mut generator = Generator::new(ContentSize::Fixed(9), Encoding::Compact).unwrap();
        for piece in [1, 7, 5000] {
            let ring = Ring::new(&mut generator, PacketKind::Report, piece);
            let (mut at, mut sent, mut pieces) = (0, 0, 0);
            while sent < 3 * ROUND_FRAMES {
                let (bytes, count, next) = ring.piece(at, piece);
                assert_eq!(contents(bytes).len(), count);
                assert!(count == piece || piece > ROUND_FRAMES);
                (at, sent, pieces) = (next, sent + count, pieces + 1);
            }
            assert!(pieces >= 2);
        }
    }

    #[test]
    fn large_frames_do_not_make_a_large_ring() {
        let mut generator = Generator::new(ContentSize::Fixed(40_000), Encoding::Compact).unwrap();
        let ring = Ring::new(&mut generator, PacketKind::Report, 5000);
        assert!(ring.bytes.len() < 3 * RING_BYTES);
        let (bytes, count, _) = ring.piece(3, 2);
        assert_eq!((contents(bytes).len(), count), (2, 2));
    }
}
