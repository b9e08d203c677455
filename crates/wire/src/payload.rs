//! A frame's data to a packet, in either encoding.

use super::json::{Envelope, Inner, InnerObject, Text, parse};
use super::packet::{AgentName, Heartbeat, Packet, PacketKind, Report};
use super::plain;
use super::reply::Refusal;
use super::utf8;

/// Decodes frame data into packets; keeps the space that base64 needs, so that
/// one decoder for all connections allocates once.
#[derive(Debug, Default)]
pub struct PacketDecoder {
    scratch: Vec<u8>,
}

impl PacketDecoder {
    /// Decodes the data of one frame that passed.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with when the data is no usable packet.
    #[inline]
    pub fn decode<'a>(&'a mut self, data: &'a [u8]) -> Result<Packet<'a>, Refusal> {
        match data {
            [] => Err(Refusal::Empty),
            [b'{' | b' ' | b'\t' | b'\r' | b'\n', ..] => self.decode_classic(data),
            [number, inner @ ..] => match PacketKind::from_number(*number) {
                Some(kind) => decode_inner(kind, inner),
                None if number.is_ascii_graphic() => Err(Refusal::Malformed),
                None => Err(Refusal::UnknownEncoding),
            },
        }
    }

    #[inline]
    fn decode_classic<'a>(&'a mut self, data: &'a [u8]) -> Result<Packet<'a>, Refusal> {
        if let Some((kind, text)) = plain::envelope(data)
            && decode_strictly(text, &mut self.scratch)
        {
            return decode_inner(kind, &self.scratch);
        }
        self.parse_classic(data)
    }

    #[cold]
    fn parse_classic<'a>(&'a mut self, data: &[u8]) -> Result<Packet<'a>, Refusal> {
        let Envelope {
            packet_type: Some(number),
            packet_content: Some(text),
        } = parse(data, Envelope::default())?
        else {
            return Err(Refusal::MissingField);
        };
        // The original's field is a byte.
        let number = u8::try_from(number).map_err(|_| Refusal::OutOfRange)?;
        let kind = PacketKind::from_number(number).ok_or(Refusal::UnknownPacketType)?;
        decode_inner(kind, decode_base64(&text, &mut self.scratch)?)
    }
}

fn decode_inner(kind: PacketKind, json: &[u8]) -> Result<Packet<'_>, Refusal> {
    match plain::short_packet(kind, json) {
        Some(packet) => Ok(packet),
        None => decode_unusual(kind, json),
    }
}

#[cold]
fn decode_unusual(kind: PacketKind, json: &[u8]) -> Result<Packet<'_>, Refusal> {
    match plain::long_packet(kind, json) {
        Some(packet) => Ok(packet),
        None => parse_inner(kind, json),
    }
}

pub(super) fn parse_inner(kind: PacketKind, json: &[u8]) -> Result<Packet<'_>, Refusal> {
    if json.is_empty() {
        return Err(Refusal::Empty);
    }
    let empty = match kind {
        PacketKind::Heartbeat => InnerObject::Heartbeat(Inner::default()),
        PacketKind::Report => InnerObject::Report(Inner::default()),
    };
    match parse(json, empty)? {
        InnerObject::Heartbeat(inner) => Ok(Packet::Heartbeat(Heartbeat {
            timestamp: inner.timestamp,
            agent: agent_name(inner.agent)?,
            probe: inner.probe,
            version: utf8::decode(inner.version),
        })),
        InnerObject::Report(inner) => Ok(Packet::Report(Report {
            rand: inner.rand,
            timestamp: inner.timestamp,
            agent: agent_name(inner.agent)?,
            content: utf8::decode(inner.content),
        })),
    }
}

fn agent_name(name: Option<Text<'_>>) -> Result<Option<AgentName<'_>>, Refusal> {
    name.map(|name| AgentName::new(utf8::decode(name)))
        .transpose()
        .map_err(|_| Refusal::BadAgentName)
}

/// Decodes padded standard base64 into `scratch`, with the two liberties that Go grants: line
/// breaks anywhere, and stray bits in the last character.
fn decode_base64<'s>(text: &[u8], scratch: &'s mut Vec<u8>) -> Result<&'s [u8], Refusal> {
    let decodes = match memchr::memchr2(b'\r', b'\n', text) {
        None => decode_liberally(text, scratch),
        Some(_) => {
            let mut text = text.to_vec();
            text.retain(|byte| !matches!(byte, b'\r' | b'\n'));
            decode_liberally(&text, scratch)
        }
    };
    match decodes {
        true => Ok(scratch),
        false => Err(Refusal::BadBase64),
    }
}

/// As the standard says (RFC 4648, section 4): the fast way, and right for all
/// that a JSON library writes. Returns whether it could be.
fn decode_strictly(text: &[u8], scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    base64_simd::STANDARD.decode_append(text, scratch).is_ok()
}

/// The same, except for stray bits in the last character.
fn decode_liberally(text: &[u8], scratch: &mut Vec<u8>) -> bool {
    let (most, last) = text.split_at(text.len().saturating_sub(4));
    if !decode_strictly(most, scratch) || memchr::memchr(b'=', most).is_some() {
        return false;
    }
    let mut last = match last {
        [] => return true,
        &[a, b, c, d] if !last.iter().any(u8::is_ascii_whitespace) => [a, b, c, d],
        _ => return false,
    };
    // The forgiving decoder takes any stray bits, and missing padding if there are fewer than
    // four characters.
    match base64_simd::forgiving_decode_inplace(&mut last) {
        Ok(decoded) => {
            scratch.extend_from_slice(decoded);
            true
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::{Encoding, FRAME_OVERHEAD, encode_packet};

    fn classic(kind: i64, inner: &[u8]) -> Vec<u8> {
        let content = base64_simd::STANDARD.encode_to_string(inner);
        format!(r#"{{"PacketType":{kind},"PacketContent":"{content}"}}"#).into_bytes()
    }

    fn compact(kind: u8, inner: &[u8]) -> Vec<u8> {
        [&[kind], inner].concat()
    }

    /// Decodes a report with the inner object `inner` in both encodings; returns its content.
    #[track_caller]
    fn content_of(inner: &[u8]) -> String {
        let mut decoder = PacketDecoder::default();
        let data = (classic(1, inner), compact(1, inner));
        let from_classic = decoder.decode(&data.0).map(|p| format!("{p:?}"));
        let packet = decoder.decode(&data.1);
        assert_eq!(from_classic, packet.clone().map(|p| format!("{p:?}")));
        match packet {
            Ok(Packet::Report(report)) => report.content.into_owned(),
            other => panic!("{other:?} from {}", String::from_utf8_lossy(inner)),
        }
    }

    #[track_caller]
    fn refusal(data: &[u8]) -> Refusal {
        match PacketDecoder::default().decode(data) {
            Err(refusal) => refusal,
            Ok(packet) => panic!("{packet:?} from {}", String::from_utf8_lossy(data)),
        }
    }

    #[test]
    fn an_encoded_packet_decodes_to_the_same_in_both_encodings() {
        let packets = [
            Packet::Heartbeat(Heartbeat {
                version: "1.0 <&>\u{2028}".into(),
                timestamp: i64::MIN,
                agent: None,
                probe: true,
            }),
            Packet::Report(Report {
                content: "line\nbreak \"quoted\" \u{1F600}".into(),
                rand: i64::MAX,
                timestamp: 0,
                agent: Some(AgentName::new("web-01").unwrap()),
            }),
        ];
        for packet in packets {
            for encoding in [Encoding::Classic, Encoding::Compact] {
                let mut frame = Vec::new();
                encode_packet(&packet, encoding, &mut frame).unwrap();
                let data = &frame[4..frame.len() - FRAME_OVERHEAD + 4];
                assert_eq!(PacketDecoder::default().decode(data), Ok(packet.clone()));
            }
        }
    }

    /// Any text, with what JSON must escape more often than chance has it.
    fn text() -> impl Strategy<Value = String> {
        let character = prop_oneof![
            4 => any::<char>(),
            1 => prop::sample::select(vec!['"', '\\', '\n', '\0', '/', '<', '\u{2028}', '\u{1F600}']),
        ];
        prop::collection::vec(character, 0..60).prop_map(String::from_iter)
    }

    proptest! {
        /// Whatever a client sends is what the handler gets.
        #[test]
        fn encoding_and_decoding_are_inverse(
            content in text(),
            agent in prop::option::of("[^\\p{Cc}]{1,32}"),
            rand in any::<i64>(),
            timestamp in any::<i64>(),
            heartbeat in any::<bool>(),
            probe in any::<bool>(),
            compact in any::<bool>(),
        ) {
            let agent = agent.map(|name| AgentName::new(name).unwrap());
            let packet = if heartbeat {
                Packet::Heartbeat(Heartbeat { version: content.into(), timestamp, agent, probe })
            } else {
                Packet::Report(Report { content: content.into(), rand, timestamp, agent })
            };
            let encoding = if compact { Encoding::Compact } else { Encoding::Classic };
            let mut frame = Vec::new();
            encode_packet(&packet, encoding, &mut frame).unwrap();

            let mut decoder = crate::Decoder::default();
            let decoded = decoder.decode(&frame, crate::Input::Open);
            prop_assert_eq!(decoded.consumed, frame.len());
            let crate::Step::Frame(data) = decoded.step else {
                return Err(TestCaseError::fail("no frame"));
            };
            let mut packets = PacketDecoder::default();
            prop_assert_eq!(packets.decode(data), Ok(packet));
        }
    }

    #[test]
    fn plain_strings_borrow() {
        let data = compact(1, br#"{"content":"abc"}"#);
        let mut decoder = PacketDecoder::default();
        let Ok(Packet::Report(report)) = decoder.decode(&data) else {
            panic!("not a report");
        };
        assert!(matches!(report.content, Cow::Borrowed("abc")));
    }

    #[test]
    fn strings_are_read_as_go_reads_them() {
        let cases: [(&[u8], &str); 11] = [
            (br#"{"content":"\u003c\u003E\u0026\u2028"}"#, "<>&\u{2028}"),
            (
                br#"{"content":"\/\b\f\n\r\t\"\\"}"#,
                "/\u{8}\u{c}\n\r\t\"\\",
            ),
            (br#"{"content":"\ud83d\ude00"}"#, "\u{1F600}"),
            (br#"{"content":"a\ud800b"}"#, "a\u{FFFD}b"),
            (br#"{"content":"\ud800\ud800\udc00"}"#, "\u{FFFD}\u{10000}"),
            (br#"{"content":"\udc00\ud800"}"#, "\u{FFFD}\u{FFFD}"),
            (b"{\"content\":\"a\x80\xC3b\"}", "a\u{FFFD}\u{FFFD}b"),
            (
                b"{\"content\":\"\xED\xA0\x80\"}",
                "\u{FFFD}\u{FFFD}\u{FFFD}",
            ),
            (br#"{"content":null}"#, ""),
            (br#"{"content":"first","content":"last"}"#, "last"),
            (br#"{"content":"kept","content":null}"#, "kept"),
        ];
        for (inner, content) in cases {
            assert_eq!(content_of(inner), content);
        }
    }

    #[test]
    fn input_that_go_ignores_is_ignored() {
        for inner in [
            br#"{"content":"x","more":{"deep":[1,2.5e9,null,"\ud800"]},"rand":1}"#.as_slice(),
            br#"{"\ud800":1,"content":"x"}"#,
            b"\r\n\t {\"content\" : \"x\" } \n",
            br#"{"content":"x","PacketContentAndMore":1,"Content":"y"}"#,
            br#"{"conten\u0074":"x"}"#,
            br#"{"content":"x","agent":null,"rand":null,"timestamp":-0}"#,
            br#"{"content":"x","version":7}"#,
        ] {
            assert_eq!(content_of(inner), "x");
        }
        assert_eq!(content_of(b"null"), "");
        assert_eq!(content_of(b"{}"), "");
    }

    #[test]
    fn base64_is_read_as_go_reads_it() {
        let mut decoder = PacketDecoder::default();
        let mut decode = |content: &str| {
            let data = format!(r#"{{"PacketContent":"{content}","PacketType":1}}"#);
            decoder.decode(data.as_bytes()).map(|packet| packet.kind())
        };
        // "{}" and "{} ", plain, escaped, broken into lines, with stray bits.
        for good in [
            "e30=",
            "e30g",
            r"\u0065\u0033\u0030=",
            r"e3\n0\r\n=",
            "e31=",
        ] {
            assert_eq!(decode(good), Ok(PacketKind::Report), "{good}");
        }
        for bad in [
            "e30", "e3 0=", "e30==", "e30=e30=", "=", "e3-0", "\u{fc}", r"e30\t=",
        ] {
            assert_eq!(decode(bad), Err(Refusal::BadBase64), "{bad}");
        }
        for empty in ["", r"\n"] {
            assert_eq!(decode(empty), Err(Refusal::Empty), "{empty}");
        }
    }

    #[test]
    fn the_envelope_is_read_as_go_reads_it() {
        let mut decoder = PacketDecoder::default();
        for (data, kind) in [
            (
                r#"{"PacketType":null,"PacketContent":"e30="}"#,
                PacketKind::Heartbeat,
            ),
            (
                r#"{"PacketType":0,"PacketType":1,"PacketContent":"e30="}"#,
                PacketKind::Report,
            ),
            (
                " {\"PacketContent\":\"e30=\",\"x\":[],\"PacketType\":1}\n",
                PacketKind::Report,
            ),
        ] {
            let packet = decoder.decode(data.as_bytes()).map(|packet| packet.kind());
            assert_eq!(packet, Ok(kind), "{data}");
        }
    }

    #[test]
    fn unusable_data_is_refused_with_its_reason() {
        let cases: [(&[u8], Refusal); 26] = [
            (b"", Refusal::Empty),
            (b"\x00", Refusal::Empty),
            (br#"{"PacketType":0,"PacketContent":null}"#, Refusal::Empty),
            (b"\x02{}", Refusal::UnknownEncoding),
            (b"\xEF\xBB\xBF{}", Refusal::UnknownEncoding),
            (b"hello", Refusal::Malformed),
            (b"[1]", Refusal::Malformed),
            (b" ", Refusal::Malformed),
            (b"{", Refusal::Malformed),
            (b"{} {}", Refusal::Malformed),
            (b"\x00{}x", Refusal::Malformed),
            (b"\x00[]", Refusal::WrongType),
            (b"\x01{\"content\":\"\n\"}", Refusal::Malformed),
            (b"{}", Refusal::MissingField),
            (b" null", Refusal::MissingField),
            (br#"{"PacketType":1}"#, Refusal::MissingField),
            (br#"{"PacketContent":"e30="}"#, Refusal::MissingField),
            (
                br#"{"packettype":1,"PacketContent":"e30="}"#,
                Refusal::MissingField,
            ),
            (
                br#"{"PacketType":"1","PacketContent":"e30="}"#,
                Refusal::WrongType,
            ),
            (
                br#"{"PacketType":1.0,"PacketContent":"e30="}"#,
                Refusal::WrongType,
            ),
            (
                br#"{"PacketType":256,"PacketContent":"e30="}"#,
                Refusal::OutOfRange,
            ),
            (
                br#"{"PacketType":2,"PacketContent":"e30="}"#,
                Refusal::UnknownPacketType,
            ),
            (b"\x01{\"rand\":9223372036854775808}", Refusal::OutOfRange),
            (b"\x00{\"version\":1}", Refusal::WrongType),
            (b"\x00{\"agent\":\"\"}", Refusal::BadAgentName),
            (b"\x00{\"agent\":\"a\\nb\"}", Refusal::BadAgentName),
        ];
        for (data, expected) in cases {
            assert_eq!(refusal(data), expected, "{}", String::from_utf8_lossy(data));
        }
    }

    #[test]
    fn a_wrong_type_is_one_also_where_text_is_no_utf8() {
        for data in [
            b"\x00\"\x80\"".as_slice(),
            b"\x00\"\\ud800\"",
            b"\x01{\"rand\":\"\x80\"}",
            b"\x01{\"timestamp\":[\"\x80\"]}",
            b"{\"PacketType\":\"\x80\",\"PacketContent\":\"e30=\"}",
        ] {
            let text = data.escape_ascii();
            assert_eq!(refusal(data), Refusal::WrongType, "{text}");
        }
    }

    #[test]
    fn a_fraction_or_an_exponent_is_a_wrong_type_however_many_digits_it_has() {
        for number in ["1e3", "92233720368547758080e1", "-92233720368547758080.5"] {
            let inner = format!(r#"{{"rand":{number}}}"#);
            let data = compact(1, inner.as_bytes());
            assert_eq!(refusal(&data), Refusal::WrongType, "{number}");
        }
    }

    #[test]
    fn an_envelope_that_only_looks_plain_is_left_to_the_parser() {
        let mut decoder = PacketDecoder::default();
        let mut decode = |data: &str| decoder.decode(data.as_bytes()).map(|packet| packet.kind());
        assert_eq!(
            decode(r#"{"PacketType":1,"PacketContent":"e30=","PacketType":0,"x":"y"}"#),
            Ok(PacketKind::Heartbeat)
        );
        assert_eq!(
            decode(r#"{"PacketType":1,"PacketContent":"e3\u0030="}"#),
            Ok(PacketKind::Report)
        );
        assert_eq!(
            decode(r#"{"PacketType":1,"PacketContent":""}"#),
            Err(Refusal::Empty)
        );
        assert_eq!(
            decode(r#"{"PacketType":9,"PacketContent":"e30="}"#),
            Err(Refusal::UnknownPacketType)
        );
    }

    #[test]
    fn a_probe_is_a_heartbeat_with_a_true_key() {
        let mut decoder = PacketDecoder::default();
        for (inner, expected) in [
            (r#"{"version":"1.0","timestamp":1,"probe":true}"#, Ok(true)),
            (
                r#"{"version":"1.0","timestamp":1,"agent":"a","probe":true}"#,
                Ok(true),
            ),
            (r#"{"probe":false,"\u0070robe":true}"#, Ok(true)),
            (r#"{"probe":true,"probe":null}"#, Ok(true)),
            (r#"{"probe":true,"probe":false}"#, Ok(false)),
            (r#"{"probe":null}"#, Ok(false)),
            (r#"{"Probe":true}"#, Ok(false)),
            (r#"{"probe":1}"#, Err(Refusal::WrongType)),
            (r#"{"probe":"true"}"#, Err(Refusal::WrongType)),
            (r#"{"timestamp":1e99,"probe":[]}"#, Err(Refusal::WrongType)),
            (r#"{"probe":tru}"#, Err(Refusal::Malformed)),
            (r#"{"probe":1,"x":}"#, Err(Refusal::Malformed)),
        ] {
            for data in [classic(0, inner.as_bytes()), compact(0, inner.as_bytes())] {
                let is_probe = decoder.decode(&data).map(|packet| packet.is_probe());
                assert_eq!(is_probe, expected, "{inner}");
            }
        }
        // A report has no such key.
        let report = compact(1, br#"{"probe":7}"#);
        assert_eq!(
            decoder.decode(&report).map(|packet| packet.is_probe()),
            Ok(false)
        );
    }

    #[test]
    fn broken_json_outranks_unusable_fields() {
        for broken in [
            b"\x01{\"rand\":1e99,\"content\":".as_slice(),
            b"\x01{\"content\":5,\"rand\":",
        ] {
            assert_eq!(refusal(broken), Refusal::Malformed);
        }
    }

    #[test]
    fn nesting_as_deep_as_a_frame_allows_is_no_trouble() {
        let mut inner = br#"{"x":"#.to_vec();
        inner.extend(std::iter::repeat_n(b'[', 30_000));
        inner.extend(std::iter::repeat_n(b']', 30_000));
        inner.push(b'}');
        let data = compact(0, &inner);
        let packet = PacketDecoder::default().decode(&data).map(|p| p.kind());
        assert_eq!(packet, Ok(PacketKind::Heartbeat));
    }
}
