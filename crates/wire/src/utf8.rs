//! Bytes to UTF-8 text, with a replacement for each byte that is not UTF-8.

use std::borrow::Cow;

/// Bytes that are not UTF-8 and are replaced by U+FFFD, in one text. Any more become `?`,
/// which is no longer than they are: otherwise a text could be stored as one three times as
/// long.
const MOST_REPLACED: usize = 256;

/// Bytes from which on vector instructions pay.
const LONG: usize = 64;

/// Returns the text of `bytes`, with a U+FFFD or a `?` for each byte that is not UTF-8.
pub(super) fn decode(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => decode_borrowed(bytes),
        // The standard library checks short and ASCII texts as fast, and keeps their memory.
        Cow::Owned(bytes) if bytes.len() < LONG || bytes.is_ascii() => Cow::Owned(
            String::from_utf8(bytes).unwrap_or_else(|error| replace_invalid(error.as_bytes(), 0)),
        ),
        Cow::Owned(bytes) => Cow::Owned(decode_borrowed(&bytes).into_owned()),
    }
}

/// Does what [`decode`] does.
fn decode_borrowed(bytes: &[u8]) -> Cow<'_, str> {
    match simdutf8::compat::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(error) => Cow::Owned(replace_invalid(bytes, error.valid_up_to())),
    }
}

/// Replaces the bytes that are not UTF-8; the first of them stands at `first`.
fn replace_invalid(bytes: &[u8], first: usize) -> String {
    let mut text = Vec::with_capacity(bytes.len() + 2 * MOST_REPLACED);
    let (valid, mut rest) = bytes.split_at_checked(first).unwrap_or_default();
    text.extend_from_slice(valid);
    let mut replaced = 0;
    let mut before = [0; REACH];
    while !rest.is_empty() {
        let mut window = [0; WINDOW];
        let (front, back) = window.split_at_mut(REACH);
        front.copy_from_slice(&before);
        let shown = rest.len().min(back.len());
        if let (Some(back), Some(rest)) = (back.get_mut(..shown), rest.get(..shown)) {
            back.copy_from_slice(rest);
        }
        let bad = bad_bytes(&window);
        let (block, behind) = rest.split_at(rest.len().min(BLOCK));
        if replaced >= MOST_REPLACED {
            let masked = masked(&window, &bad);
            text.extend_from_slice(masked.get(..block.len()).unwrap_or_default());
        } else {
            for (byte, bad) in block.iter().zip(&bad) {
                match bad {
                    0 => text.push(*byte),
                    _ if replaced < MOST_REPLACED => {
                        replaced += 1;
                        text.extend_from_slice("\u{FFFD}".as_bytes());
                    }
                    _ => text.push(b'?'),
                }
            }
        }
        if let Some(last) = block.last_chunk() {
            before = *last;
        }
        rest = behind;
    }
    if text.is_ascii() {
        return String::from_utf8(text).unwrap_or_default();
    }
    simdutf8::basic::from_utf8(&text)
        .map(str::to_owned)
        .unwrap_or_default()
}

/// Bytes that are judged together.
const BLOCK: usize = 128;

/// Bytes that are shown before a block and behind it: more than the three that may be part of
/// the same characters, and as many as a vector register holds.
const REACH: usize = 16;

/// A block, with the bytes before and behind it.
const WINDOW: usize = REACH + BLOCK + REACH;

/// Returns 0 for each byte of the block that is part of a character, 1 for each other.
///
/// Whether a byte is part of a character is decided by its neighbours alone: a byte that
/// begins one never continues another. So the compiler makes vector instructions of this.
fn bad_bytes(window: &[u8; WINDOW]) -> [u8; BLOCK] {
    // A bit for each length, set if a byte begins characters so long.
    let lengths = window.iter().fold(0, |lengths, byte| {
        let two = mask(byte.wrapping_sub(0xC2) < 0xE0 - 0xC2) & 1;
        let three = mask(byte & 0xF0 == 0xE0) & 2;
        let four = mask(byte.wrapping_sub(0xF0) < 5) & 4;
        lengths | two | three | four
    });
    match lengths {
        0 => outside_characters::<1>(window),
        1 => outside_characters::<2>(window),
        2..4 => outside_characters::<3>(window),
        _ => outside_characters::<4>(window),
    }
}

/// Returns the block with a `?` in the place of each bad byte.
#[allow(clippy::indexing_slicing)] // arrays of constant size, and indices below it
fn masked(window: &[u8; WINDOW], bad: &[u8; BLOCK]) -> [u8; BLOCK] {
    let mut masked = [0; BLOCK];
    for at in 0..BLOCK {
        masked[at] = if bad[at] == 0 {
            window[at + REACH]
        } else {
            b'?'
        };
    }
    masked
}

/// Does what [`bad_bytes`] does, where no character takes more than `LONGEST` bytes (the
/// Unicode Standard, table 3-7).
#[allow(clippy::indexing_slicing)] // arrays of constant size, and indices below it
fn outside_characters<const LONGEST: usize>(window: &[u8; WINDOW]) -> [u8; BLOCK] {
    // How far the character reaches that begins at a byte: a bit for each byte behind it.
    let mut reach = [0; REACH + BLOCK];
    if LONGEST >= 2 {
        for at in 0..REACH + BLOCK {
            let [first, second] = [window[at], window[at + 1]];
            let mut length = mask(first.wrapping_sub(0xC2) < 0xE0 - 0xC2) & 1;
            if LONGEST >= 3 {
                let is_three = mask(first & 0xF0 == 0xE0) & continues(window[at + 2]);
                let too_short = mask(first == 0xE0) & mask(second < 0xA0);
                let surrogate = mask(first == 0xED) & mask(second >= 0xA0);
                length |= is_three & !(too_short | surrogate) & 3;
            }
            if LONGEST >= 4 {
                let is_four = mask(first.wrapping_sub(0xF0) < 5)
                    & continues(window[at + 2])
                    & continues(window[at + 3]);
                let too_short = mask(first == 0xF0) & mask(second < 0x90);
                let too_large = mask(first == 0xF4) & mask(second >= 0x90);
                length |= is_four & !(too_short | too_large) & 7;
            }
            reach[at] = length & continues(second);
        }
    }
    let mut bad = [0; BLOCK];
    for at in 0..BLOCK {
        let mut reached = reach[at + REACH] | (reach[at + REACH - 1] & 1);
        if LONGEST >= 3 {
            reached |= (reach[at + REACH - 2] & 2) | (reach[at + REACH - 3] & 4);
        }
        bad[at] = mask(window[at + REACH] >= 0x80) & mask(reached == 0) & 1;
    }
    bad
}

#[inline(always)]
const fn continues(byte: u8) -> u8 {
    mask(byte.cast_signed() < -64)
}

/// Returns all bits or none.
#[inline(always)]
const fn mask(set: bool) -> u8 {
    (set as u8).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Does what [`decode`] does, with the standard library and one by one.
    fn reference(bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut replaced = 0;
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            for _ in chunk.invalid() {
                replaced += 1;
                text.push(if replaced <= MOST_REPLACED {
                    '\u{FFFD}'
                } else {
                    '?'
                });
            }
        }
        text
    }

    fn text(bytes: &[u8]) -> String {
        let text = decode(bytes.into()).into_owned();
        assert_eq!(decode(bytes.to_vec().into()), text);
        text
    }

    #[test]
    fn a_text_does_not_grow_without_a_limit() {
        let few = vec![0x80; MOST_REPLACED];
        assert_eq!(text(&few), "\u{FFFD}".repeat(MOST_REPLACED));
        let many = [&[0x80; 60_000][..], "ü".as_bytes(), b"\xC3"].concat();
        let expected = [
            "\u{FFFD}".repeat(MOST_REPLACED),
            "?".repeat(60_000 - MOST_REPLACED),
            "ü?".into(),
        ];
        assert_eq!(text(&many), expected.concat());
    }

    #[test]
    fn every_sequence_of_three_bytes_is_read_as_the_standard_library_reads_it() {
        for first in (0xC0..=0xF8_u8).chain([0x41, 0x80]) {
            for second in (0x78..=0xC8_u8).chain([0x41]) {
                for third in [0x41, 0x80, 0xBF, 0xC2] {
                    let bytes = [first, second, third, 0x80, b'a'];
                    assert_eq!(text(&bytes), reference(&bytes), "{bytes:x?}");
                }
            }
        }
    }

    proptest! {
        /// Bad bytes are those of the standard library, wherever blocks end.
        #[test]
        fn bad_bytes_are_those_of_the_standard_library(
            pieces in prop::collection::vec(
                prop_oneof![
                    4 => prop::sample::select(vec![
                        b"\x80".as_slice(), b"\xC3", b"\xE2\x82", b"\xED\xA0\x80", b"\xF0\x9F\x98",
                        b"\xF4\x90\x80\x80", b"\xE0\x80\x80", b"\xFF", b"?", b"abc",
                        "ü".as_bytes(), "€".as_bytes(), "\u{1F600}".as_bytes(), "\u{D7FF}".as_bytes(),
                    ]).prop_map(<[u8]>::to_vec),
                    1 => prop::collection::vec(any::<u8>(), 0..4),
                    1 => "[a-zü]{60,70}".prop_map(String::into_bytes),
                ],
                0..300,
            ),
        ) {
            let bytes = pieces.concat();
            prop_assert_eq!(text(&bytes), reference(&bytes));
        }
    }
}
