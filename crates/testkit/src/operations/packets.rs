//! Frames and packets.

use std::hint::black_box;

use hawk_wire::{
    AgentName, Decoder, Encoding, Heartbeat, Input, Packet, PacketDecoder, Report, Step,
    encode_packet,
};

use super::Operation;

pub(crate) fn operations() -> Vec<Operation> {
    use Encoding::{Classic, Compact};
    vec![
        decode("classic report", || data(&report(25), Classic)),
        decode("classic heartbeat", || data(&heartbeat(), Classic)),
        decode("compact report", || data(&report(25), Compact)),
        decode("compact heartbeat", || data(&heartbeat(), Compact)),
        decode("classic report with a name", || {
            data(&named_report(), Classic)
        }),
        decode("classic report with escapes", || {
            data(&escaped_report(), Classic)
        }),
        decode("classic report with spaces", spaced_report),
        decode("classic report of 64 KiB", || {
            data(&report(LONG_CONTENT), Classic)
        }),
        encode("classic report", || report(25), Classic),
        encode("classic heartbeat", heartbeat, Classic),
        encode("compact report", || report(25), Compact),
        encode("compact heartbeat", heartbeat, Compact),
        find("classic report", || frame(&report(25), Classic)),
        find("classic report of 64 KiB", || {
            frame(&report(LONG_CONTENT), Classic)
        }),
        find("classic report behind 1 KiB of junk", || {
            let mut stream = vec![b'x'; 1024];
            stream.extend(frame(&report(25), Classic));
            stream
        }),
    ]
}

/// Length of the content of the longest classic report in a frame below 64 KiB.
pub(crate) const LONG_CONTENT: usize = 49_000;

/// A report with so many letters in it, as the original's client has them. 19
/// digits are what nine of ten of its random numbers have.
pub(crate) fn report(letters: usize) -> Packet<'static> {
    let content: String = ('a'..='z').cycle().take(letters).collect();
    Packet::Report(Report {
        content: content.into(),
        rand: 3_413_719_555_719_190_332,
        timestamp: 1_475_249_220,
        agent: None,
    })
}

pub(crate) fn heartbeat() -> Packet<'static> {
    Packet::Heartbeat(Heartbeat {
        version: "1.0".into(),
        timestamp: 1_475_249_220,
        agent: None,
        probe: false,
    })
}

/// As one whole frame.
pub(crate) fn frame(packet: &Packet<'_>, encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    encode_packet(packet, encoding, &mut out).expect("it fits a frame");
    out
}

fn named_report() -> Packet<'static> {
    Packet::Report(Report {
        content: "abcdefghijklmnopqrstuvwxy".into(),
        rand: 3_413_719_555_719_190_332,
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new("web-01").expect("a good name")),
    })
}

/// What no writer can leave unescaped.
fn escaped_report() -> Packet<'static> {
    Packet::Report(Report {
        content: "disk \"/var\" is\n95 % full".into(),
        rand: 3_413_719_555_719_190_332,
        timestamp: 1_475_249_220,
        agent: None,
    })
}

/// The data of a report as neither Go nor hawk's own client writes it.
fn spaced_report() -> Vec<u8> {
    let inner = r#"{ "content": "abcdefghijklmnopqrstuvwxy", "rand": 3413719555719190332, "timestamp": 1475249220 }"#;
    let content = base64_simd::STANDARD.encode_to_string(inner);
    format!(r#"{{ "PacketType": 1, "PacketContent": "{content}" }}"#).into_bytes()
}

fn data(packet: &Packet<'_>, encoding: Encoding) -> Vec<u8> {
    let frame = frame(packet, encoding);
    match Decoder::default().decode(&frame, Input::Open).step {
        Step::Frame(data) => data.to_vec(),
        step => unreachable!("a frame is no {step:?}"),
    }
}

/// A frame's data to a packet.
fn decode(name: &'static str, data: fn() -> Vec<u8>) -> Operation {
    Operation::new("decode", name, 1, move || {
        let data = data();
        let mut packets = PacketDecoder::default();
        move || {
            let packet = packets.decode(black_box(&data));
            black_box(packet.expect("a good packet"));
        }
    })
}

/// A packet to a frame.
fn encode(name: &'static str, packet: fn() -> Packet<'static>, encoding: Encoding) -> Operation {
    Operation::new("encode", name, 1, move || {
        let packet = packet();
        let mut out = Vec::new();
        move || {
            out.clear();
            encode_packet(black_box(&packet), encoding, &mut out).expect("it fits a frame");
            black_box(&out);
        }
    })
}

/// Bytes to a frame's data.
fn find(name: &'static str, stream: fn() -> Vec<u8>) -> Operation {
    Operation::new("frame", name, 1, move || {
        let stream = stream();
        let mut decoder = Decoder::default();
        move || {
            let decoded = decoder.decode(black_box(&stream), Input::Open);
            assert!(matches!(decoded.step, Step::Frame(_)));
            black_box(decoded);
        }
    })
}
