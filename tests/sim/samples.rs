//! The frames that agents send, each with what is to be answered to it.

use std::ops::Range;
use std::sync::LazyLock;

use hawk_wire::{
    AgentName, Encoding, Heartbeat, Packet, PacketDecoder, Refusal, Report, encode_packet,
};

use hawk_testkit::reference::checksum;

/// What an agent is told of a frame that passes the frame check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A heartbeat, with this timestamp.
    Heartbeat(i64),
    /// A report, with this random number.
    Report(i64),
    /// Nothing that can be taken.
    Useless(Refusal),
}

/// A frame, ready to be sent.
pub struct Sample {
    pub frame: Vec<u8>,
    pub content: Content,
}

impl Sample {
    /// What it carries.
    pub fn data(&self) -> &[u8] {
        &self.frame[4..self.frame.len() - 4]
    }
}

/// All frames that agents choose from.
pub struct Samples {
    all: Vec<Sample>,
    /// Where they are found by their checksum.
    by_sum: Vec<u16>,
    ranges: [Range<usize>; 4],
}

/// How long a frame is.
#[derive(Clone, Copy)]
pub enum Size {
    /// Some 8 to 40 bytes: frames that cannot be taken.
    Tiny,
    /// Up to some 200 bytes, as the original's.
    Short,
    /// A few KiB: longer than what is copied in front of the next read.
    Middle,
    /// Around the longest there are.
    Long,
}

/// No frame has this checksum.
const NONE: u16 = u16::MAX;

pub static SAMPLES: LazyLock<Samples> = LazyLock::new(Samples::new);

impl Samples {
    fn new() -> Self {
        let mut all: Vec<Sample> = useless().collect();
        let tiny = 0..all.len();
        all.extend((0..64).map(|n| packet(n, usize::from(n) % 50)));
        let short = tiny.end..all.len();
        all.extend((0..8).map(|n| packet(100 + n, 1000 + 900 * usize::from(n))));
        let middle = short.end..all.len();
        // Around FE00, where a few lengths are exceptions, and the longest.
        let lengths = [20_000, 40_000, 64_000, 65_023, 65_024, 65_532, 65_535];
        all.extend(
            lengths
                .into_iter()
                .zip(200..)
                .map(|(data, n)| compact(n, data)),
        );
        let long = middle.end..all.len();
        let mut by_sum = vec![NONE; 1 << 16];
        for (index, sample) in all.iter().enumerate() {
            by_sum[usize::from(checksum(sample.data()))] = index as u16;
        }
        Self {
            all,
            by_sum,
            ranges: [tiny, short, middle, long],
        }
    }

    /// Those of a size.
    pub fn of(&self, size: Size) -> &[Sample] {
        &self.all[self.ranges[size as usize].clone()]
    }

    /// Returns the content of a frame's data. Damage passes the checksum one time in 65,536:
    /// then only the decoder can say what the data is.
    pub fn content(&self, data: &[u8]) -> Content {
        let known = self
            .all
            .get(usize::from(self.by_sum[usize::from(checksum(data))]));
        if let Some(sample) = known
            && sample.data() == data
        {
            return sample.content;
        }
        match PacketDecoder::default().decode(data) {
            Ok(packet) => content_of(&packet),
            Err(refusal) => Content::Useless(refusal),
        }
    }
}

/// What a packet is known by.
pub fn content_of(packet: &Packet<'_>) -> Content {
    match packet {
        Packet::Heartbeat(heartbeat) => Content::Heartbeat(heartbeat.timestamp),
        Packet::Report(report) => Content::Report(report.rand),
    }
}

/// One packet in four is a heartbeat, one in two is compact, some tell a name.
fn packet(number: u8, length: usize) -> Sample {
    let agent = (number % 7 == 3).then(|| AgentName::new(format!("agent-{number}")).unwrap());
    let encoding = match number % 2 {
        0 => Encoding::Classic,
        _ => Encoding::Compact,
    };
    let packet = match number % 4 {
        1 => Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp: 1_700_000_000 + i64::from(number),
            agent,
            probe: false,
        }),
        _ => Packet::Report(Report {
            content: "<x> ".repeat(length / 4).into(),
            // Some with few digits and some with many, and some below zero.
            rand: (i64::from(number) + 10_i64.pow(u32::from(number % 19)))
                * if number.is_multiple_of(5) { -1 } else { 1 },
            timestamp: 0,
            agent,
        }),
    };
    let mut frame = Vec::new();
    encode_packet(&packet, encoding, &mut frame).unwrap();
    let content = content_of(&packet);
    let sample = Sample { frame, content };
    assert_eq!(sample.frame, framed(sample.data(), content).frame);
    sample
}

/// A report with exactly so many bytes of data.
fn compact(number: i64, length: usize) -> Sample {
    let data = |text: usize| {
        let text = "m".repeat(text);
        format!("\u{1}{{\"content\":\"{text}\",\"rand\":{number}}}")
    };
    framed(
        data(length - data(0).len()).as_bytes(),
        Content::Report(number),
    )
}

/// Frames that pass, and cannot be taken.
fn useless() -> impl Iterator<Item = Sample> {
    let data: [(&[u8], Refusal); 8] = [
        (b"", Refusal::Empty),
        (b"\x07{}", Refusal::UnknownEncoding),
        (b"\x01{\"rand\":", Refusal::Malformed),
        (b"{\"PacketType\":1}", Refusal::MissingField),
        (b"\x01{\"content\":7}", Refusal::WrongType),
        (b"\x01{\"rand\":9223372036854775808}", Refusal::OutOfRange),
        (
            b"{\"PacketType\":2,\"PacketContent\":\"e30=\"}",
            Refusal::UnknownPacketType,
        ),
        (
            b"{\"PacketType\":1,\"PacketContent\":\"e30\"}",
            Refusal::BadBase64,
        ),
    ];
    data.into_iter()
        .map(|(data, refusal)| framed(data, Content::Useless(refusal)))
}

/// As docs/protocol.md has it.
fn framed(data: &[u8], content: Content) -> Sample {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    let sum = checksum(data).to_be_bytes();
    let frame = [&[0xFF, 0xFF], &length[..], data, &sum, &[0xFF, 0xFE]].concat();
    Sample { frame, content }
}

#[test]
fn the_packet_decoder_agrees_with_what_the_samples_say() {
    for sample in &SAMPLES.all {
        let said = match PacketDecoder::default().decode(sample.data()) {
            Ok(packet) => content_of(&packet),
            Err(refusal) => Content::Useless(refusal),
        };
        assert_eq!(said, sample.content);
        assert_eq!(SAMPLES.content(sample.data()), sample.content);
    }
}
