//! What is decoded comes out the same after encoding and decoding it again,
//! whatever the decoder was used for before; and the rules of agents' names.

use hawk_wire::{
    AgentName, DataError, Decoder, Encoding, Input, MAX_DATA, Packet, PacketDecoder, Step,
    encode_frame, encode_packet,
};

use super::conversation::owned;

/// The input is the data of some frames, with an `FF` between them: that byte
/// never stands in data.
pub fn packets(input: &[u8]) {
    let mut used = PacketDecoder::default();
    for data in input.split(|byte| *byte == 0xFF) {
        let decoded = used.decode(data).map(|packet| owned(&packet));
        let fresh = PacketDecoder::default()
            .decode(data)
            .map(|packet| owned(&packet));
        assert_eq!(
            decoded,
            fresh,
            "the decoder remembers {}",
            data.escape_ascii()
        );
        if let Ok(packet) = decoded {
            for encoding in [Encoding::Classic, Encoding::Compact] {
                encode_and_decode(&packet, encoding, &mut used);
            }
        }
        if let Ok(text) = std::str::from_utf8(data) {
            name(text);
        }
        frame(data);
    }
    frame(input);
}

fn encode_and_decode(packet: &Packet<'_>, encoding: Encoding, decoder: &mut PacketDecoder) {
    let mut stream = Vec::new();
    match encode_packet(packet, encoding, &mut stream) {
        Ok(()) => {
            let data = data_of(&stream).unwrap();
            assert_eq!(decoder.decode(data).as_ref(), Ok(packet), "{encoding:?}");
        }
        Err(error) => assert!(matches!(error, DataError::TooLong(length) if length > MAX_DATA)),
    }
}

/// What is encoded as a frame is found as a frame.
fn frame(data: &[u8]) {
    let mut stream = b"what was there".to_vec();
    let already = stream.len();
    match encode_frame(data, &mut stream) {
        Ok(()) => assert_eq!(data_of(&stream[already..]), Some(data)),
        Err(error) => {
            let expected = match data.iter().position(|byte| *byte == 0xFF) {
                _ if data.len() > MAX_DATA => DataError::TooLong(data.len()),
                at => DataError::Mark(at.unwrap()),
            };
            assert_eq!(error, expected);
            assert_eq!(stream.len(), already);
        }
    }
}

/// The data of the one frame that `stream` is.
fn data_of(stream: &[u8]) -> Option<&[u8]> {
    let decoded = Decoder::default().decode(stream, Input::Open);
    assert_eq!(decoded.consumed, stream.len());
    match decoded.step {
        Step::Frame(data) => Some(data),
        _ => None,
    }
}

fn name(text: &str) {
    let control = |character| matches!(character, '\0'..='\x1F' | '\x7F'..='\u{9F}');
    let good = !text.is_empty() && text.len() <= 128 && !text.contains(control);
    let name = AgentName::new(text);
    assert_eq!(name.is_ok(), good, "{text:?}");
    assert!(name.is_ok_and(|name| name.as_str() == text) == good);
}
