//! The frame: how data is wrapped for the wire.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | start marker `FF FF` |
//! | 2 | 2 | length of the data, big-endian |
//! | 4 | length | data, free of the byte `FF` |
//! | 4 + length | 2 | checksum of the data, big-endian |
//! | 6 + length | 2 | end marker `FF FE` |

/// First two bytes of every frame.
pub const START_MARKER: [u8; 2] = [MARK, MARK];

/// Last two bytes of every frame.
pub const END_MARKER: [u8; 2] = [MARK, 0xFE];

/// Most bytes of data in a frame: all that its 16-bit length can say.
pub const MAX_DATA: usize = u16::MAX as usize;

/// Bytes of a frame that are not data: two markers, length and checksum.
pub const FRAME_OVERHEAD: usize = HEADER + TRAILER;

/// Bytes of the longest frame: 65,543.
pub const MAX_FRAME: usize = MAX_DATA + FRAME_OVERHEAD;

/// The byte that markers are made of and that data never contains, because
/// UTF-8 text does not (RFC 3629, section 1).
pub(super) const MARK: u8 = 0xFF;

/// Bytes before the data: start marker and length.
pub(super) const HEADER: usize = 4;

/// Bytes behind the data: checksum and end marker.
pub(super) const TRAILER: usize = 4;

/// How many bytes a frame lacks of which `begun` has come, by the length that it
/// claims: up to its header, as long as that is not there; at least one.
#[must_use]
pub fn missing(begun: &[u8]) -> usize {
    let whole = match *begun {
        [_, _, high, low, ..] => usize::from(u16::from_be_bytes([high, low])) + FRAME_OVERHEAD,
        _ => HEADER,
    };
    whole.saturating_sub(begun.len()).max(1)
}

/// Why data cannot be sent in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The data has this many bytes, more than [`MAX_DATA`].
    #[error("a frame carries at most {MAX_DATA} bytes of data, this has {0}")]
    TooLong(usize),
    /// The data has a byte `FF` at this offset; every receiver would refuse it.
    #[error("data must not contain the byte FF, this has one at offset {0}")]
    Mark(usize),
}

/// The checksum of `data`: the upper 16 bits of its CRC-32/ISO-HDLC (zlib's
/// `crc32`, Go's `crc32.ChecksumIEEE`).
#[must_use]
pub fn checksum(data: &[u8]) -> u16 {
    let [high, low, ..] = crc32fast::hash(data).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Appends `data`, wrapped as one frame, to `out`.
///
/// # Errors
/// [`DataError`] when no receiver would take such a frame; `out` is untouched.
pub fn encode_frame(data: &[u8], out: &mut Vec<u8>) -> Result<(), DataError> {
    let length = u16::try_from(data.len()).map_err(|_| DataError::TooLong(data.len()))?;
    if let Some(offset) = memchr::memchr(MARK, data) {
        return Err(DataError::Mark(offset));
    }
    out.reserve(data.len() + FRAME_OVERHEAD);
    out.extend_from_slice(&START_MARKER);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(&checksum(data).to_be_bytes());
    out.extend_from_slice(&END_MARKER);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_upper_half_of_crc32() {
        // The check value of CRC-32/ISO-HDLC is CBF43926 for "123456789".
        assert_eq!(checksum(b"123456789"), 0xCBF4);
        assert_eq!(checksum(b""), 0);
    }

    #[test]
    fn a_frame_has_the_documented_layout() {
        let mut out = vec![b'x'];
        encode_frame(b"123456789", &mut out).unwrap();
        assert_eq!(out, b"x\xFF\xFF\x00\x09123456789\xCB\xF4\xFF\xFE");
    }

    #[test]
    fn the_longest_data_makes_the_longest_frame() {
        let mut out = Vec::new();
        encode_frame(&[b' '; MAX_DATA], &mut out).unwrap();
        assert_eq!(out.len(), MAX_FRAME);
    }

    #[test]
    fn the_header_determines_the_missing_bytes_of_a_frame() {
        let mut frame = Vec::new();
        encode_frame(b"123456789", &mut frame).unwrap();
        let lacks: Vec<_> = (0..frame.len()).map(|at| missing(&frame[..at])).collect();
        assert_eq!(
            lacks,
            [4, 3, 2, 1, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
        );
    }

    #[test]
    fn data_that_no_receiver_takes_is_refused_and_leaves_no_trace() {
        let mut out = Vec::new();
        let long = [b' '; MAX_DATA + 1];
        assert_eq!(
            encode_frame(&long, &mut out),
            Err(DataError::TooLong(MAX_DATA + 1))
        );
        assert_eq!(encode_frame(b"a\xFFb", &mut out), Err(DataError::Mark(1)));
        assert!(out.is_empty());
    }
}
