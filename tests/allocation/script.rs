//! The bytes that the agents send, and their cuts, generated from a seed.

use std::ops::Range;

use hawk_wire::{Encoding, FRAME_OVERHEAD};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use hawk_testkit::*;

/// Agents that take turns, so that several have a partial frame at any time.
pub(crate) const AGENTS: usize = 4;

/// Scenes for each way to cut a stream.
const SCENES: usize = 2;

const SEED: u64 = 5;

/// All bytes of one round.
pub(crate) struct Script {
    scenes: Vec<Scene>,
    frames: usize,
}

/// The pieces that are sent until every agent has all its replies.
pub(crate) struct Scene {
    /// In order; the server reads each before the next is sent.
    pub(crate) pieces: Vec<(usize, Vec<u8>)>,
    /// The replies that each agent must have at the end.
    pub(crate) replies: [Vec<u8>; AGENTS],
}

/// A frame and the line that answers it.
type Exchange = (Vec<u8>, &'static str);

impl Script {
    /// Frames of all kinds, cut in every way.
    pub(crate) fn of_all_kinds() -> Self {
        let mut dice = StdRng::seed_from_u64(SEED);
        let mut script = Self {
            scenes: Vec::new(),
            frames: 0,
        };
        for cut in Cut::ALL {
            for _ in 0..SCENES {
                script.add(cut, &mut dice);
            }
        }
        script
    }

    /// Sends this frame so many times, each in its own write.
    pub(crate) fn repeat(exchange: &Exchange, times: usize) -> Self {
        let mut scene = Scene::new();
        let stream = Stream::of(vec![exchange.clone(); times]);
        scene.add(
            0,
            &stream,
            stream.pieces(Cut::Frames, &mut StdRng::seed_from_u64(SEED)),
        );
        Self {
            scenes: vec![scene],
            frames: times,
        }
    }

    pub(crate) fn scenes(&self) -> &[Scene] {
        &self.scenes
    }

    /// Returns the number of frames.
    pub(crate) const fn frames(&self) -> usize {
        self.frames
    }

    fn add(&mut self, cut: Cut, dice: &mut StdRng) {
        let mut scene = Scene::new();
        for agent in 0..AGENTS {
            let stream = Stream::draw(agent, cut.frames(), dice);
            let pieces = stream.pieces(cut, dice);
            scene.add(agent, &stream, pieces);
            self.frames += stream.borders.len();
        }
        scene.mingle(dice);
        self.scenes.push(scene);
    }
}

impl Scene {
    const fn new() -> Self {
        Self {
            pieces: Vec::new(),
            replies: [const { Vec::new() }; AGENTS],
        }
    }

    fn add(&mut self, agent: usize, stream: &Stream, pieces: Vec<Range<usize>>) {
        let bytes = |piece: Range<usize>| (agent, stream.bytes[piece].to_vec());
        self.pieces.extend(pieces.into_iter().map(bytes));
        self.replies[agent].extend_from_slice(&stream.replies);
    }

    /// Shuffles the pieces of different agents, and keeps the order within each agent.
    fn mingle(&mut self, dice: &mut StdRng) {
        let mut queues = [const { Vec::new() }; AGENTS];
        for (agent, piece) in self.pieces.drain(..).rev() {
            queues[agent].push(piece);
        }
        while let Some(agent) = {
            let busy: Vec<_> = (0..AGENTS)
                .filter(|agent| !queues[*agent].is_empty())
                .collect();
            busy.choose(dice).copied()
        } {
            self.pieces
                .extend(queues[agent].pop().map(|piece| (agent, piece)));
        }
    }
}

/// A way to cut a stream into writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// One byte at a time; of a long frame, its first and last ones.
    Bytes,
    /// Before and after marker, length, data and checksum.
    Borders,
    /// Each frame in one write.
    Frames,
    /// Several frames in one write.
    Several,
    /// At random places.
    Anywhere,
}

impl Cut {
    const ALL: [Self; 5] = [
        Self::Bytes,
        Self::Borders,
        Self::Frames,
        Self::Several,
        Self::Anywhere,
    ];

    /// Returns the number of frames that each agent sends in a scene: the shorter the
    /// pieces, the fewer.
    const fn frames(self) -> usize {
        match self {
            Self::Bytes => 6,
            Self::Borders | Self::Frames | Self::Anywhere => 40,
            Self::Several => 200,
        }
    }
}

/// Bytes of a frame at either end that come one by one.
const EDGE: usize = 150;

/// The bytes of one agent in a scene.
struct Stream {
    bytes: Vec<u8>,
    /// The place of each frame.
    borders: Vec<Range<usize>>,
    replies: Vec<u8>,
}

impl Stream {
    fn of(exchanges: Vec<Exchange>) -> Self {
        let mut stream = Self {
            bytes: Vec::new(),
            borders: Vec::new(),
            replies: Vec::new(),
        };
        for (frame, reply) in exchanges {
            let start = stream.bytes.len();
            stream.bytes.extend_from_slice(&frame);
            stream.borders.push(start..stream.bytes.len());
            stream.replies.extend_from_slice(reply.as_bytes());
            stream.replies.push(b'\n');
        }
        stream
    }

    fn draw(agent: usize, frames: usize, dice: &mut StdRng) -> Self {
        Self::of((0..frames).map(|_| exchange(agent, dice)).collect())
    }

    fn pieces(&self, cut: Cut, dice: &mut StdRng) -> Vec<Range<usize>> {
        let mut ends: Vec<usize> = match cut {
            Cut::Bytes => self.borders.iter().flat_map(byte_by_byte).collect(),
            Cut::Borders => self.borders.iter().flat_map(at_borders).collect(),
            Cut::Frames => self.borders.iter().map(|frame| frame.end).collect(),
            Cut::Several => {
                let ends = self.borders.iter().map(|frame| frame.end);
                ends.filter(|_| dice.random_ratio(1, 16)).collect()
            }
            Cut::Anywhere => {
                let length = |dice: &mut StdRng| match dice.random_ratio(1, 20) {
                    true => dice.random_range(1..50_000),
                    false => dice.random_range(1..500),
                };
                let next = |end: &usize| Some(end + length(dice));
                let ends = std::iter::successors(Some(0), next);
                ends.skip(1)
                    .take_while(|end| *end < self.bytes.len())
                    .collect()
            }
        };
        ends.push(self.bytes.len());
        ends.dedup();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(&ends).map(|(start, end)| start..*end).collect()
    }
}

fn byte_by_byte(frame: &Range<usize>) -> impl Iterator<Item = usize> + use<> {
    let (start, end) = (frame.start, frame.end);
    (start + 1..=end).filter(move |at| at - start <= EDGE || end - at <= EDGE)
}

/// Returns the ends of its parts: marker, length, data, checksum, marker; and a place
/// within each marker.
fn at_borders(frame: &Range<usize>) -> [usize; 7] {
    let (start, end) = (frame.start, frame.end);
    let data = end - FRAME_OVERHEAD + 4;
    [
        start + 1,
        start + 2,
        start + 4,
        data,
        data + 2,
        end - 1,
        end,
    ]
}

/// Returns a random frame of a correct agent, sometimes damaged.
fn exchange(agent: usize, dice: &mut StdRng) -> Exchange {
    // Each agent keeps one name; the first has none.
    let names = [None, Some("web-01"), Some("db-é"), Some("a")];
    let name = names[agent];
    let encoding = *[Encoding::Classic, Encoding::Compact].choose(dice).unwrap();
    match dice.random_range(0..100) {
        0..20 => (heartbeat_packet(encoding, name), HEARTBEAT),
        20..30 => (ORIGINAL_HEARTBEAT.to_vec(), HEARTBEAT),
        30..75 => (
            report_packet(&text(dice.random_range(0..80)), encoding, name),
            REPORT,
        ),
        75..82 => (
            report_packet(&text(dice.random_range(0..20_000)), encoding, name),
            REPORT,
        ),
        82..84 => (long_report(LONGEST_DATA), REPORT),
        84..86 => (
            report_packet(&text(40_000), Encoding::Classic, name),
            REPORT,
        ),
        86..93 => (spaced_report(encoding, dice.random_range(0..80)), REPORT),
        93..95 => (wrong_sum(), WRONG_SUM),
        95..97 => (frame(b""), EMPTY),
        97..98 => (frame(b"\x02{}"), "error: unknown encoding"),
        98..99 => match dice.random_ratio(1, 2) {
            true => (frame(b"\x00{\"agent\":\"\"}"), "error: bad agent name"),
            false => (frame(b"\x01{"), "error: malformed JSON"),
        },
        _ => (
            frame(b"{\"PacketType\":7,\"PacketContent\":\"\"}"),
            "error: unknown packet type",
        ),
    }
}

/// Returns a text of so many characters, some not ASCII, none that JSON has to escape.
fn text(length: usize) -> String {
    "disk at 71 %, näher dran: 漢字 "
        .chars()
        .cycle()
        .take(length)
        .collect()
}

/// Returns a report in a form that neither Go nor hawk's client writes, and that a JSON
/// parser reads.
fn spaced_report(encoding: Encoding, length: usize) -> Vec<u8> {
    let content = text(length);
    let inner = format!(r#"{{ "timestamp": 1475249220, "unknown": [1], "content": "{content}" }}"#);
    match encoding {
        Encoding::Compact => frame(format!("\x01{inner}").as_bytes()),
        Encoding::Classic => {
            let content = base64_simd::STANDARD.encode_to_string(inner);
            frame(format!(r#"{{ "PacketContent": "{content}", "PacketType": 1 }}"#).as_bytes())
        }
    }
}

/// A frame that needs allocations: its description, its bytes, its reply, and the most
/// allocations.
type Costly = (&'static str, fn() -> Vec<u8>, &'static str, u64);

/// The JSON parser copies text that it cannot borrow from the receive buffer, and frees the
/// copy with the frame.
pub(crate) const COSTLY: [Costly; 3] = [
    (
        "escapes in a classic report",
        || escaped(Encoding::Classic),
        REPORT,
        3,
    ),
    (
        "escapes in a compact report",
        || escaped(Encoding::Compact),
        REPORT,
        3,
    ),
    (
        "bytes that are no UTF-8",
        || frame(b"\x01{\"content\":\"\xC3\"}"),
        REPORT,
        2,
    ),
];

fn escaped(encoding: Encoding) -> Vec<u8> {
    report_packet("\"disk\" is\nfull", encoding, None)
}
