//! How data is decoded, with all its short cuts, against the reference.

use hawk_wire::{PacketDecoder, Refusal};

use super::conversation::owned;
use super::json_reference;

/// An input is tried as data, and as the inner object of both kinds of packet in
/// both encodings.
pub fn json(input: &[u8]) {
    compare(input);
    let content = base64_simd::STANDARD.encode_to_string(input);
    for number in [0, 1_u8] {
        compare(&[&[number], input].concat());
        // Exactly as Go writes it, and so that only a JSON parser can read it.
        compare(format!(r#"{{"PacketType":{number},"PacketContent":"{content}"}}"#).as_bytes());
        compare(format!(r#"{{"PacketContent":"{content}", "PacketType":{number} }}"#).as_bytes());
    }
}

fn compare(data: &[u8]) {
    let mut decoder = PacketDecoder::default();
    let decoded: Result<_, Refusal> = decoder.decode(data).map(|packet| owned(&packet));
    let expected = json_reference::decode(data);
    assert_eq!(decoded, expected, "of {}", data.escape_ascii());
}
