//! Reads packets of exactly the shape that Go's `encoding/json` and hawk's own clients
//! write, as nearly all are: keys in their order, no white space, no escapes. That takes one
//! pass and no parser.
//!
//! Each function returns what [`json`](super::json) would return, or `None`; then the caller
//! uses the parser.

use super::packet::{AgentName, Heartbeat, Packet, PacketKind, Report};

/// The kind and the base64 text of a classic envelope.
///
/// What is between the quotes may be anything here. If it decodes as strict
/// base64 it holds neither quote nor backslash, and so the JSON parser would have
/// found the same; if not, the parser has the last word.
#[inline]
pub(super) fn envelope(data: &[u8]) -> Option<(PacketKind, &[u8])> {
    let rest = data.strip_prefix(br#"{"PacketType":"#)?;
    let (digit, rest) = rest.split_first()?;
    let kind = PacketKind::from_number(digit.wrapping_sub(b'0'))?;
    let rest = rest.strip_prefix(br#","PacketContent":""#)?;
    Some((kind, rest.strip_suffix(br#""}"#)?))
}

/// Returns the packet of this kind with the inner object `json`, if its text is as short as
/// in packets of deployed agents.
// Inlined, so that the packet is made where its caller's result is to be.
#[inline(always)]
pub(super) fn short_packet(kind: PacketKind, json: &[u8]) -> Option<Packet<'_>> {
    packet::<false>(kind, json)
}

/// Does the same for any text, in vector instructions.
#[inline(never)]
pub(super) fn long_packet(kind: PacketKind, json: &[u8]) -> Option<Packet<'_>> {
    packet::<true>(kind, json)
}

#[inline(always)]
fn packet<const LONG: bool>(kind: PacketKind, json: &[u8]) -> Option<Packet<'_>> {
    match kind {
        PacketKind::Heartbeat => {
            let (version, rest) = text::<LONG>(json.strip_prefix(br#"{"version":""#)?)?;
            let (timestamp, rest) = integer(rest.strip_prefix(br#","timestamp":"#)?)?;
            Some(Packet::Heartbeat(Heartbeat {
                timestamp,
                agent: last_field(rest)?,
                probe: false,
                version: utf8::<LONG>(version)?.into(),
            }))
        }
        PacketKind::Report => {
            let (content, rest) = text::<LONG>(json.strip_prefix(br#"{"content":""#)?)?;
            let (rand, rest) = integer(rest.strip_prefix(br#","rand":"#)?)?;
            let (timestamp, rest) = integer(rest.strip_prefix(br#","timestamp":"#)?)?;
            Some(Packet::Report(Report {
                rand,
                timestamp,
                agent: last_field(rest)?,
                content: utf8::<LONG>(content)?.into(),
            }))
        }
    }
}

/// The end of an object, and the name before it if there is one.
#[inline]
fn last_field(rest: &[u8]) -> Option<Option<AgentName<'_>>> {
    match rest {
        b"}" => Some(None),
        _ => Some(Some(agent(rest)?)),
    }
}

/// Out of line, so that packets without a name are put together in registers.
#[inline(never)]
fn agent(rest: &[u8]) -> Option<AgentName<'_>> {
    let (name, rest) = text::<true>(rest.strip_prefix(br#","agent":""#)?)?;
    let name = AgentName::new(utf8::<false>(name)?).ok()?;
    (rest == b"}").then_some(name)
}

/// Splits a string, given from behind its opening quote, at its closing quote. Without
/// `LONG` the string must be short.
#[inline(always)]
fn text<const LONG: bool>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = match bytes.first_chunk::<BLOCK>() {
        _ if LONG => end_of_plain(bytes),
        Some(head) => find_special(head),
        None => find_special(bytes),
    };
    let (text, rest) = bytes.split_at_checked(end?)?;
    Some((text, rest.strip_prefix(b"\"")?))
}

/// Checks that a text is UTF-8. Called last, when the rest of the packet is found plain.
#[inline(always)]
fn utf8<const LONG: bool>(text: &[u8]) -> Option<&str> {
    match LONG {
        true => simdutf8::basic::from_utf8(text).ok(),
        false => std::str::from_utf8(text).ok(),
    }
}

/// Where the first byte is that cannot stand in a string as it is.
///
/// Most strings end within the first few words. A long one is passed over in blocks,
/// of which the compiler makes vector instructions.
#[inline(never)]
pub(super) fn end_of_plain(bytes: &[u8]) -> Option<usize> {
    match bytes.first_chunk::<BLOCK>() {
        Some(head) => find_special(head).or_else(|| end_of_long(bytes)),
        None => find_special(bytes),
    }
}

fn end_of_long(bytes: &[u8]) -> Option<usize> {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let plain = blocks.iter().take_while(|block| !holds_special(block));
    let passed = plain.count() * BLOCK;
    Some(passed + find_special(bytes.get(passed..)?)?)
}

/// Where the first special byte is, a word at a time.
#[inline(always)]
fn find_special(bytes: &[u8]) -> Option<usize> {
    let (words, tail) = bytes.as_chunks::<WORD>();
    for (index, word) in words.iter().enumerate() {
        let special = special_bytes(u64::from_le_bytes(*word));
        if special != 0 {
            return Some(index * WORD + special.trailing_zeros() as usize / 8);
        }
    }
    let in_tail = tail.iter().position(|byte| is_special(*byte))?;
    Some(words.len() * WORD + in_tail)
}

/// Returns whether the block has a special byte. Examines every byte, without a branch.
fn holds_special(block: &[u8; BLOCK]) -> bool {
    block
        .iter()
        .fold(false, |found, byte| found | is_special(*byte))
}

/// What ends a string or needs to be read by the parser: a quote, a backslash or a
/// control character (RFC 8259, section 7).
pub(super) const fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}

/// Bytes that one register holds.
const WORD: usize = size_of::<u64>();

/// Bytes of a long string that are looked at together: longer than nearly all
/// strings of deployed agents.
const BLOCK: usize = 64;

/// The top bit of the first byte of `word` that ends a plain string, counted from
/// the least significant; bits above it mean nothing.
///
/// Subtracting borrows out of a byte only if the byte is less than what is
/// subtracted, and so only above the first hit (Warren, Hacker's Delight, 6-1).
#[inline]
const fn special_bytes(word: u64) -> u64 {
    let quote = below(word ^ repeat(b'"'), 1);
    let backslash = below(word ^ repeat(b'\\'), 1);
    (quote | backslash | below(word, b' ')) & repeat(0x80)
}

/// The top bit of the first byte of `word` that is less than `least`, which is at
/// most 0x80.
#[inline]
const fn below(word: u64, least: u8) -> u64 {
    word.wrapping_sub(repeat(least)) & !word
}

const fn repeat(byte: u8) -> u64 {
    u64::from_le_bytes([byte; WORD])
}

/// A whole number that fits 64 bits, and what is behind it. Not `-0`, of which JSON
/// libraries make what they like.
#[inline]
fn integer(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let mut rest = digits;
    let mut value = 0_u64;
    // Wraps only behind more digits than are taken below.
    while let Some((word, behind)) = rest.split_first_chunk()
        && let Some(eight) = eight_digits(u64::from_le_bytes(*word))
    {
        value = value.wrapping_mul(100_000_000).wrapping_add(eight);
        rest = behind;
    }
    while let [digit @ b'0'..=b'9', behind @ ..] = rest {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = behind;
    }
    let length = digits.len() - rest.len();
    let leading_zero = digits.first() == Some(&b'0') && (length > 1 || negative);
    if !(1..=MOST_DIGITS).contains(&length) || leading_zero {
        return None;
    }
    let value = if negative {
        0_i64.checked_sub_unsigned(value)?
    } else {
        i64::try_from(value).ok()?
    };
    Some((value, rest))
}

/// As many digits as any 64-bit number needs; so many always fit an unsigned one.
const MOST_DIGITS: usize = 19;

/// The number that the eight bytes of `word` write in decimal, if all are digits:
/// neighbours are joined, then pairs, then fours, each in one multiplication.
#[inline]
const fn eight_digits(word: u64) -> Option<u64> {
    let high_halves = word & repeat(0xF0);
    let above_nine = word.wrapping_add(repeat(6)) & repeat(0xF0);
    if high_halves != repeat(0x30) || above_nine != repeat(0x30) {
        return None;
    }
    let digits = word - repeat(b'0');
    let pairs = (digits * 10 + (digits >> 8)) & 0x00FF_00FF_00FF_00FF;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_FFFF_0000_FFFF;
    Some((fours * 10_000 + (fours >> 32)) & 0xFFFF_FFFF)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::payload::parse_inner;

    /// Returns the packet by `long_packet`. The function for short packets must return the same
    /// packet, or `None`.
    fn packet(kind: PacketKind, json: &[u8]) -> Option<Packet<'_>> {
        let long = long_packet(kind, json);
        if let Some(short) = short_packet(kind, json) {
            assert_eq!(Some(short), long);
        }
        long
    }

    /// A report's inner object as Go writes it, but for what is asked for.
    fn report(content: &[u8], rand: &str, timestamp: &str, more: &[u8]) -> Vec<u8> {
        let numbers = format!("\",\"rand\":{rand},\"timestamp\":{timestamp}");
        [b"{\"content\":\"", content, numbers.as_bytes(), more].concat()
    }

    #[test]
    fn packets_that_go_writes_are_plain() {
        for content in [
            "",
            "abc",
            "exactly8",
            "ü and \u{1F600}",
            &"x".repeat(60_000),
        ] {
            let json = report(content.as_bytes(), "-7", "1475249220", b"}");
            let expected = Packet::Report(Report {
                content: content.into(),
                rand: -7,
                timestamp: 1_475_249_220,
                agent: None,
            });
            assert_eq!(packet(PacketKind::Report, &json), Some(expected));
        }
        let json = br#"{"version":"1.0","timestamp":1475249220,"agent":"web-01"}"#;
        let expected = Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp: 1_475_249_220,
            agent: Some(AgentName::new("web-01").unwrap()),
            probe: false,
        });
        assert_eq!(packet(PacketKind::Heartbeat, json), Some(expected));
    }

    #[test]
    fn all_else_is_left_to_the_parser() {
        let plain = report(b"x", "1", "2", b"}");
        assert!(packet(PacketKind::Report, &plain).is_some());
        assert!(packet(PacketKind::Heartbeat, &plain).is_none());
        for length in 0..plain.len() {
            assert!(packet(PacketKind::Report, &plain[..length]).is_none());
        }
        for other in [
            report(br"\n", "1", "2", b"}"),
            report(b"\n", "1", "2", b"}"),
            report(b"\x80", "1", "2", b"}"),
            report(b"x", "1.0", "2", b"}"),
            report(b"x", "", "2", b"}"),
            report(b"x", "-", "2", b"}"),
            report(b"x", " 1", "2", b"}"),
            report(b"x", "1", "2", b"} "),
            report(b"x", "1", "2", b",\"agent\":\"\"}"),
            report(b"x", "1", "2", b",\"agent\":\"a\"}}"),
            report(b"x", "1", "2", b",\"more\":1}"),
        ] {
            let text = String::from_utf8_lossy(&other);
            assert_eq!(packet(PacketKind::Report, &other), None, "{text}");
        }
    }

    #[test]
    fn integers_are_all_that_fit_64_bits_and_nothing_else() {
        let extremes = [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX];
        let powers = (0..19).flat_map(|digits| [10_i64.pow(digits) - 1, 10_i64.pow(digits)]);
        for number in extremes.into_iter().chain(powers) {
            let text = format!("{number},");
            assert_eq!(
                integer(text.as_bytes()),
                Some((number, &b","[..])),
                "{text}"
            );
        }
        for text in [
            "9223372036854775808",
            "-9223372036854775809",
            "18446744073709551616",
            "99999999999999999999",
            "340282366920938463463374607431768211455",
            "00",
            "01",
            "-0",
            "-01",
            "+1",
            "",
            "-",
            "x",
        ] {
            assert_eq!(integer(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_plain_string_ends_where_the_first_special_byte_stands() {
        for special in [b'"', b'\\', 0, b'\n', 0x1F] {
            for at in 0..200 {
                // The bytes around the special ones, and what is beyond ASCII.
                for filler in [b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xA2, 0xDC, 0xFE] {
                    let mut bytes = [filler; 200];
                    bytes[at] = special;
                    assert_eq!(end_of_plain(&bytes), Some(at), "{special} in {filler}");
                    bytes[at] = filler;
                    assert_eq!(end_of_plain(&bytes), None, "{filler}");
                }
            }
        }
    }

    proptest! {
        /// A changed plain packet is read as by the parser, or left to the parser.
        #[test]
        fn a_plain_packet_is_read_as_by_the_parser(
            content in prop_oneof!["[ -~]{0,20}", "\\PC{0,20}"],
            rand in prop_oneof!["-?[0-9]{1,20}", any::<i64>().prop_map(|number| number.to_string())],
            timestamp in "-?[0-9]{1,20}",
            more in prop_oneof![Just(String::new()), Just(",\"probe\":true".to_owned()), ",\"agent\":\"\\PC{0,130}\"", "\\PC{0,9}"],
            edit in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            heartbeat in any::<bool>(),
        ) {
            let (kind, json) = match heartbeat {
                true => (
                    PacketKind::Heartbeat,
                    format!(r#"{{"version":"{content}","timestamp":{timestamp}{more}}}"#),
                ),
                false => (
                    PacketKind::Report,
                    format!(r#"{{"content":"{content}","rand":{rand},"timestamp":{timestamp}{more}}}"#),
                ),
            };
            let mut json = json.into_bytes();
            if let Some((at, byte)) = edit {
                let at = at.index(json.len());
                json[at] = byte;
            }
            if let Some(packet) = packet(kind, &json) {
                prop_assert_eq!(parse_inner(kind, &json), Ok(packet));
            }
        }
    }
}
