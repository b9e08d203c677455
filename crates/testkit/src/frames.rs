//! What agents send.

use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, Report, encode_frame, encode_packet};

/// The reply to a heartbeat, as deployed agents compare it.
pub const HEARTBEAT: &str = "heartBeat";

/// The reply to a report, as deployed agents compare it.
pub const REPORT: &str = "Report data has recive";

/// The reply to a frame without data.
pub const EMPTY: &str = "error: empty data";

/// The reply to a frame with a wrong sum.
pub const WRONG_SUM: &str = "error: checksum mismatch";

/// A heartbeat as the original client sends it, down to the byte: 99 of them.
pub const ORIGINAL_HEARTBEAT: &[u8] = b"\xFF\xFF\x00\x5B\
    {\"PacketType\":0,\"PacketContent\":\
    \"eyJ2ZXJzaW9uIjoiMS4wIiwidGltZXN0YW1wIjoxNDc1MjQ5MjIwfQ==\"}\
    \xCB\x20\xFF\xFE";

/// Bytes of the longest data that a frame can carry.
pub const LONGEST_DATA: usize = 65_535;

/// `data` in a frame.
#[track_caller]
pub fn frame(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_frame(data, &mut out).expect("data that fits a frame");
    out
}

/// Returns a frame that is valid except for its checksum.
pub fn wrong_sum() -> Vec<u8> {
    let mut frame = heartbeat();
    let sum = frame.len() - 4;
    frame[sum] ^= 1;
    frame
}

/// A heartbeat in the classic encoding.
pub fn heartbeat() -> Vec<u8> {
    heartbeat_packet(Encoding::Classic, None)
}

pub fn heartbeat_packet(encoding: Encoding, agent: Option<&str>) -> Vec<u8> {
    encode(
        &Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp: 1_475_249_220,
            agent: agent.map(agent_name),
            probe: false,
        }),
        encoding,
    )
}

/// A report in the classic encoding.
pub fn report(content: &str) -> Vec<u8> {
    report_packet(content, Encoding::Classic, None)
}

pub fn report_packet(content: &str, encoding: Encoding, agent: Option<&str>) -> Vec<u8> {
    encode(
        &Packet::Report(Report {
            content: content.into(),
            rand: 3_413_719_555_719_190_332,
            timestamp: 1_475_249_220,
            agent: agent.map(agent_name),
        }),
        encoding,
    )
}

/// A good report that takes `data` bytes of a frame's data.
pub fn long_report(data: usize) -> Vec<u8> {
    let (head, tail) = ("\x01{\"content\":\"", "\"}");
    let text = "x".repeat(data - head.len() - tail.len());
    frame(format!("{head}{text}{tail}").as_bytes())
}

/// Returns a valid report behind a stray `FF`. The stray byte begins a candidate that is two
/// bytes longer than the input, so the decoder finds the report only when the candidate ends:
/// at the frame timeout, or at the end of the input.
pub fn hidden_report() -> Vec<u8> {
    let report = long_report(0xFFFC);
    // They lie in what the candidate takes for data, where no FF may be.
    let sum = &report[report.len() - 4..report.len() - 2];
    assert!(!sum.contains(&0xFF), "its sum gives it away");
    [b"\xFF", report.as_slice()].concat()
}

/// Frames of all kinds, and the replies to them as they go over the wire.
pub fn mixture(frames: usize) -> (Vec<u8>, Vec<u8>) {
    let kinds = [
        (heartbeat(), HEARTBEAT),
        (report_packet("text", Encoding::Compact, None), REPORT),
        (frame(b""), EMPTY),
        (report("<more> & \"text\""), REPORT),
        (wrong_sum(), WRONG_SUM),
        (frame(b"\x02{}"), "error: unknown encoding"),
        (long_report(3000), REPORT),
    ];
    let (mut sent, mut replies) = (Vec::new(), Vec::new());
    for (frame, reply) in kinds.iter().cycle().take(frames) {
        sent.extend_from_slice(frame);
        replies.extend_from_slice(reply.as_bytes());
        replies.push(b'\n');
    }
    (sent, replies)
}

fn agent_name(name: &str) -> AgentName<'_> {
    AgentName::new(name).expect("a good name")
}

fn encode(packet: &Packet<'_>, encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    encode_packet(packet, encoding, &mut out).expect("a packet that fits a frame");
    out
}
