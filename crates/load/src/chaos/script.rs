//! The script of one life, drawn from the seed: bytes, damage, pauses and the end.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt as _, SeedableRng as _};
use serde::Serialize;

use crate::traffic::ContentSize;
use hawk_wire::{
    AgentName, Encoding, Heartbeat, Packet, Report, START_MARKER, encode_frame, encode_packet,
};

/// The misbehaviour of an agent on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conduct {
    /// Flips, inserts and deletes bytes in some of its frames.
    #[default]
    Corrupt,
    /// Truncates some of its frames.
    Cut,
    /// Pauses within a frame.
    Stall,
    /// Sends and never reads a reply.
    NeverRead,
    /// Sends, and reads a byte every 50 ms.
    Trickle,
    /// Resets the connection.
    Reset,
    /// Ends its stream early, often within a frame, and reads all replies.
    HalfClose,
    /// Sends bytes that are no frame, and sometimes a frame after them.
    Junk,
}

impl Conduct {
    /// All conducts.
    pub const ALL: [Self; 8] = [
        Self::Corrupt,
        Self::Cut,
        Self::Stall,
        Self::NeverRead,
        Self::Trickle,
        Self::Reset,
        Self::HalfClose,
        Self::Junk,
    ];

    /// Returns the name in text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::NeverRead => "never read",
            Self::Trickle => "trickle",
            Self::Reset => "reset",
            Self::HalfClose => "half-close",
            Self::Junk => "junk",
        }
    }
}

/// The agent's part of a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) conduct: Conduct,
    /// Bytes to send.
    pub(super) bytes: Vec<u8>,
    /// The pause in sending, if there is one.
    pub(super) pause: Option<Pause>,
    pub(super) reading: Reading,
    pub(super) farewell: Farewell,
}

/// A pause before the byte at offset `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) at: usize,
    pub(super) span: Duration,
}

/// How an agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All bytes, at once.
    All,
    /// No byte.
    Nothing,
    /// A byte after each such span.
    Sips(Duration),
}

/// The agent's way to end a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Sends all bytes, ends its side of the stream, and reads the replies until the server ends
    /// the other.
    HalfClose,
    /// Resets the connection this long after it was established.
    Reset(Duration),
}

/// Most frames of most scripts.
const FRAMES: usize = 20;

/// Most bytes of a report's content. Frames stay below the greatest length: the rule that intact
/// frames are found after any damage has exceptions for the longest frames.
const MOST_CONTENT: usize = 32 * 1024;

/// Content of the longest random report, exclusive; as good agents have it.
const RANDOM_CONTENT: usize = 50;

/// Bytes of shortest frames that an agent with unread replies sends in addition. Their replies are
/// twice as long and soon fill all buffers.
const FLOOD: usize = 256 * 1024;

/// The shortest pause. Pauses last up to 512 times as long, 25 s, evenly over the orders of
/// magnitude: from far below the server's deadlines to beyond its frame timeout.
const STANDSTILL: Duration = Duration::from_millis(50);

impl Script {
    /// Draws the script of an agent's life, both numbered from 0. The same arguments make the same
    /// script.
    pub(super) fn draw(seed: u64, agent: u32, life: u64, content: ContentSize) -> Self {
        let mut draw = Draw::new(seed, agent, life, content);
        let (mut pause, mut reading) = (None, Reading::All);
        let mut farewell = Farewell::HalfClose;
        // Each agent goes through all conducts in turn, and neighbours begin with different ones:
        // eight agents show all conducts at once.
        let turn = seed.wrapping_add(u64::from(agent)).wrapping_add(life);
        let turn = usize::try_from(turn % Conduct::ALL.len() as u64).unwrap_or(0);
        let conduct = Conduct::ALL[turn];
        let bytes = match conduct {
            Conduct::Corrupt => draw.frames_with(corrupt),
            Conduct::Cut => draw.frames_with(cut),
            Conduct::Stall => {
                let mut bytes = draw.frames();
                let whole = bytes.len();
                draw.frame(&mut bytes);
                let at = draw.random.random_range(whole + 1..bytes.len());
                let span = draw.standstill();
                pause = Some(Pause { at, span });
                bytes
            }
            Conduct::NeverRead | Conduct::Trickle => {
                farewell = Farewell::Reset(draw.standstill());
                reading = match conduct {
                    Conduct::Trickle => Reading::Sips(STANDSTILL),
                    _ => Reading::Nothing,
                };
                draw.flood()
            }
            Conduct::Reset => {
                let mut bytes = draw.frames();
                bytes.truncate(draw.random.random_range(0..=bytes.len()));
                let most = STANDSTILL * draw.random.random_range(0..=1);
                farewell = Farewell::Reset(draw.random.random_range(Duration::ZERO..=most));
                bytes
            }
            Conduct::HalfClose => {
                let mut bytes = draw.frames();
                if draw.random.random() {
                    bytes.truncate(draw.random.random_range(0..=bytes.len()));
                }
                bytes
            }
            Conduct::Junk => {
                let mut bytes = junk(&mut draw.random);
                if draw.random.random() {
                    draw.frame(&mut bytes);
                }
                bytes
            }
        };
        Self {
            conduct,
            bytes,
            pause,
            reading,
            farewell,
        }
    }
}

/// Draws the frames of one life.
struct Draw {
    random: StdRng,
    content: ContentSize,
    name: String,
}

impl Draw {
    fn new(seed: u64, agent: u32, life: u64, content: ContentSize) -> Self {
        // Each life has its own generator, so that scripts do not depend on the order in which
        // lives begin.
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..12].copy_from_slice(&agent.to_le_bytes());
        bytes[16..24].copy_from_slice(&life.to_le_bytes());
        Self {
            random: StdRng::from_seed(bytes),
            content,
            name: format!("chaos-{}", agent + 1),
        }
    }

    /// Returns some good frames.
    fn frames(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.random_range(1..=FRAMES) {
            self.frame(&mut bytes);
        }
        bytes
    }

    /// Returns frames, about half of them after `damage`.
    fn frames_with(&mut self, damage: impl Fn(&mut Vec<u8>, &mut StdRng)) -> Vec<u8> {
        let (mut bytes, mut frame) = (Vec::new(), Vec::new());
        for _ in 0..self.random.random_range(1..=FRAMES) {
            frame.clear();
            self.frame(&mut frame);
            if self.random.random() {
                damage(&mut frame, &mut self.random);
            }
            bytes.append(&mut frame);
        }
        bytes
    }

    /// Returns some good frames and very many of the shortest kind.
    fn flood(&mut self) -> Vec<u8> {
        let mut bytes = self.frames();
        let mut shortest = Vec::new();
        let encoded = encode_frame(b"", &mut shortest);
        debug_assert_eq!(encoded, Ok(()));
        bytes.extend_from_slice(&shortest.repeat(FLOOD / shortest.len()));
        bytes
    }

    fn standstill(&mut self) -> Duration {
        let span = STANDSTILL * (1 << self.random.random_range(0..9));
        self.random.random_range(span..=2 * span)
    }

    /// Appends a good frame. It has an agent's name, which distinguishes its report from those of good
    /// agents. It does not depend on the time of day.
    fn frame(&mut self, out: &mut Vec<u8>) {
        let agent = AgentName::new(self.name.as_str()).ok();
        let timestamp = self.random.random_range(0..=i64::from(i32::MAX));
        let packet = if self.random.random_ratio(1, 4) {
            Packet::Heartbeat(Heartbeat {
                version: "1.0".into(),
                timestamp,
                agent,
                probe: false,
            })
        } else {
            let size = match self.content {
                ContentSize::Random => self.random.random_range(0..RANDOM_CONTENT),
                ContentSize::Fixed(size) => size.min(MOST_CONTENT),
            };
            let letters = (0..size).map(|_| char::from(self.random.random_range(b'a'..=b'z')));
            Packet::Report(Report {
                content: letters.collect::<String>().into(),
                rand: self.random.random_range(0..=i64::MAX),
                timestamp,
                agent,
            })
        };
        let encoding = match self.random.random() {
            true => Encoding::Classic,
            false => Encoding::Compact,
        };
        let encoded = encode_packet(&packet, encoding, out);
        debug_assert_eq!(encoded, Ok(()), "contents are bounded");
    }
}

/// Most bytes, or bits, that one fault touches.
const MOST_DAMAGE: usize = 16;

/// Bytes of junk: mostly few, sometimes more than the server's limit of 256 KiB.
const JUNK: usize = 64 * 1024;
const MUCH_JUNK: usize = 300 * 1024;

/// Damages a frame by flips, an insertion or a deletion.
fn corrupt(frame: &mut Vec<u8>, random: &mut impl Rng) {
    let count = random.random_range(1..=MOST_DAMAGE);
    let at = random.random_range(0..frame.len());
    match random.random_range(0..3) {
        0 => {
            for _ in 0..count {
                let at = random.random_range(0..frame.len());
                frame[at] ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            let added: Vec<u8> = (0..count).map(|_| random.random()).collect();
            frame.splice(at..at, added);
        }
        _ => drop(frame.drain(at..frame.len().min(at + count))),
    }
}

/// Truncates a frame by at least one byte, to at least one.
fn cut(frame: &mut Vec<u8>, random: &mut impl Rng) {
    frame.truncate(random.random_range(1..frame.len()));
}

/// Returns bytes such as scanners, other protocols and attackers send to an open port.
fn junk(random: &mut impl Rng) -> Vec<u8> {
    match random.random_range(0..5) {
        0 => noise(random),
        1 => b"GET / HTTP/1.1\r\nHost: hawk\r\nUser-Agent: probe\r\n\r\n".to_vec(),
        2 => client_hello(random),
        3 => forged_lengths(random),
        _ => vec![START_MARKER[0]; size(random)],
    }
}

fn noise(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = vec![0; size(random)];
    random.fill(&mut bytes[..]);
    bytes
}

/// Returns a size, evenly over the orders of magnitude; one in eight exceeds the server's limit.
fn size(random: &mut impl Rng) -> usize {
    if random.random_ratio(1, 8) {
        return MUCH_JUNK;
    }
    let most = JUNK >> random.random_range(0..16);
    random.random_range(1..=most)
}

/// Returns the beginning of a TLS handshake (RFC 8446, section 4.1.2) with random content.
fn client_hello(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03".to_vec();
    bytes.extend((0..506).map(|_| random.random::<u8>()));
    bytes
}

/// Returns nested frame headers with lengths but without the data.
fn forged_lengths(random: &mut impl Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..random.random_range(1..=1000) {
        bytes.extend_from_slice(&START_MARKER);
        bytes.extend(random.random::<u16>().to_be_bytes());
        bytes.resize(bytes.len() + random.random_range(0..16), b'x');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, agent: u32, life: u64) -> Script {
        Script::draw(seed, agent, life, ContentSize::Random)
    }

    #[test]
    fn the_same_arguments_make_the_same_script_and_another_makes_another() {
        let script = draw(7, 1, 2);
        assert_eq!(draw(7, 1, 2), script);
        for other in [draw(8, 1, 2), draw(7, 2, 2), draw(7, 1, 10)] {
            assert_ne!(other.bytes, script.bytes);
        }
    }

    #[test]
    fn eight_agents_show_all_conducts_at_once_and_each_of_them_in_turn() {
        let sorted = |mut found: Vec<Conduct>| {
            found.sort_unstable();
            found
        };
        for seed in [0, 5, u64::MAX] {
            let at_once = (0..8).map(|agent| draw(seed, agent, 3).conduct).collect();
            assert_eq!(sorted(at_once), Conduct::ALL);
            let in_turn = (0..8).map(|life| draw(seed, 3, life).conduct).collect();
            assert_eq!(sorted(in_turn), Conduct::ALL);
        }
    }

    #[test]
    fn scripts_do_what_their_conduct_says() {
        for life in 0..400 {
            let script = draw(1, 0, life);
            let resets = matches!(script.farewell, Farewell::Reset(_));
            match script.conduct {
                Conduct::Stall => {
                    let pause = script.pause.unwrap();
                    assert!((1..script.bytes.len()).contains(&pause.at));
                    assert!((STANDSTILL..=512 * STANDSTILL).contains(&pause.span));
                }
                Conduct::NeverRead => assert_eq!(script.reading, Reading::Nothing),
                Conduct::Trickle => assert_eq!(script.reading, Reading::Sips(STANDSTILL)),
                Conduct::Reset => assert!(resets),
                _ => assert!(!resets && script.reading == Reading::All),
            }
        }
    }

    #[test]
    fn contents_are_kept_below_the_longest_frames() {
        for life in 0..50 {
            let script = Script::draw(1, 0, life, ContentSize::Fixed(usize::MAX));
            assert!(script.bytes.len() < 2 * FRAMES * MOST_CONTENT + FLOOD);
        }
    }

    #[test]
    fn damage_changes_a_frame_and_a_cut_shortens_it() {
        let mut random = StdRng::seed_from_u64(1);
        let frame: Vec<u8> = (0..100).collect();
        let mut changed = 0;
        for _ in 0..1000 {
            let mut damaged = frame.clone();
            corrupt(&mut damaged, &mut random);
            // An even number of flips may undo themselves.
            changed += u32::from(damaged != frame);
            let mut short = frame.clone();
            cut(&mut short, &mut random);
            assert!(!short.is_empty() && frame.starts_with(&short) && short != frame);
        }
        assert!(changed > 990);
    }

    #[test]
    fn junk_comes_in_every_size() {
        let mut random = StdRng::seed_from_u64(1);
        let sizes: Vec<_> = (0..500).map(|_| junk(&mut random).len()).collect();
        assert!(sizes.iter().any(|size| *size < 20));
        assert!(sizes.iter().any(|size| (1000..JUNK).contains(size)));
        assert!(sizes.contains(&MUCH_JUNK));
    }
}
