//! Streams built from an input piece by piece: frames with right checksums, frames
//! of any length, and damage. Mutating bytes alone would hardly ever make those.

use hawk_wire::{
    AgentName, Encoding, Heartbeat, MAX_DATA, Packet, Report, encode_frame, encode_packet,
};

/// Bytes of a stream that are enough for the junk limit to strike, and for a frame
/// of the longest kind behind that.
pub(crate) const LONG: usize = 360 * 1024;

/// Enough for a frame of the longest kind and something around it: most streams
/// are no longer, since long ones take their time.
pub(crate) const SHORT: usize = 80 * 1024;

/// Candidates that take a long frame's first bytes for their own last ones, from
/// docs/protocol.md, and what else is worth being near a frame.
const CANDIDATES: [&[u8]; 8] = [
    b"\xFF",
    b"\xFF\xFF",
    b"\xFF\xFF\x00\x02\x03\x3B\xDB",
    b"\xFF\xFF\x00\x02\x03\x3B\x00",
    b"\xFF\xFF\x00\x00",
    b"\xFF\xFF\xFE\x00",
    b"\xFF\xFE",
    // Its data has the checksum FFFF.
    b"\xFF\xFF\x00\x03\x00\x72\x10",
];

/// An input that is taken apart from its front; zeros when there is no more.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn number(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// The next bytes, as many as the next byte says.
    pub(crate) fn text(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// The stream that an input describes, up to the piece with which it would have
/// more than `most` bytes.
pub(crate) fn stream(mut input: Bytes<'_>, most: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    while !input.0.is_empty() {
        let before = stream.len();
        piece(&mut input, &mut stream);
        if stream.len() > most {
            stream.truncate(before);
            break;
        }
    }
    stream
}

fn piece(input: &mut Bytes<'_>, stream: &mut Vec<u8>) {
    let before = stream.len();
    match input.byte() % 10 {
        0 => stream.extend_from_slice(input.text()),
        1 => frame(input.text(), stream),
        2 => {
            frame(input.text(), stream);
            let checksum = stream.len() - 4;
            stream[checksum] ^= 1;
        }
        3 => {
            let (length, fill) = (input.number(), input.byte());
            frame(&vec![fill; length], stream);
        }
        4 => {
            // The lengths that may look like a marker, and those around them.
            let length = MAX_DATA - usize::from(input.byte()) * 2;
            frame(&vec![b'x'; length], stream);
        }
        5 => {
            frame(&vec![b'y'; input.number()], stream);
            stream.truncate(before + input.number());
        }
        6 => {
            let length = input.number() * 4;
            stream.resize(before + length, input.byte());
        }
        7 => {
            let which = usize::from(input.byte()) % CANDIDATES.len();
            stream.extend_from_slice(CANDIDATES[which]);
        }
        8 => packet(input, stream),
        _ => {
            // What came last, once more.
            let from = before.saturating_sub(usize::from(input.byte()));
            stream.extend_from_within(from..);
        }
    }
}

/// `data` as a frame, where it can be one.
fn frame(data: &[u8], stream: &mut Vec<u8>) {
    if encode_frame(data, stream).is_err() {
        let sound: Vec<u8> = data.iter().map(|byte| byte & 0x7F).collect();
        encode_frame(&sound, stream).unwrap();
    }
}

/// A packet as agents send it.
fn packet(input: &mut Bytes<'_>, stream: &mut Vec<u8>) {
    let how = input.byte();
    let agent = String::from_utf8_lossy(input.text());
    let agent = AgentName::new(agent).ok();
    let timestamp = i64::from(input.byte());
    let packet = if how & 1 == 0 {
        Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp,
            agent,
            probe: false,
        })
    } else {
        let content = String::from_utf8_lossy(input.text());
        Packet::Report(Report {
            content,
            rand: -1,
            timestamp,
            agent,
        })
    };
    let encoding = if how & 2 == 0 {
        Encoding::Classic
    } else {
        Encoding::Compact
    };
    encode_packet(&packet, encoding, stream).unwrap();
}
