//! What an agent does in one of its lives, drawn from the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

use super::damage;
use crate::frames::ContentSize;
use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, Report, encode_frame, encode_packet};

/// In which way an agent misbehaves for the life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Conduct {
    /// Flips, inserts and deletes bytes in some of its frames.
    Corrupt,
    /// Leaves off the end of some of its frames, and begins the next.
    Cut,
    /// Stands still in the middle of a frame.
    Stall,
    /// Sends and never reads a reply.
    NeverRead,
    /// Sends, and reads a byte now and then.
    Trickle,
    /// Breaks the connection off by a reset.
    Reset,
    /// Ends its stream at once, often within a frame, and reads on.
    HalfClose,
    /// Sends what is no frame, and sometimes a frame behind it.
    Junk,
}

impl Conduct {
    /// Every conduct there is.
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

    /// In words.
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

/// All that happens in a life, but for what the server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) conduct: Conduct,
    /// What is sent.
    pub(super) bytes: Vec<u8>,
    /// Where to stand still, and how long.
    pub(super) pause: Option<Pause>,
    pub(super) reading: Reading,
    pub(super) farewell: Farewell,
}

/// A stand-still before the byte at this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) at: usize,
    pub(super) span: Duration,
}

/// What an agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// All that comes.
    All,
    /// Nothing.
    Nothing,
    /// A byte each time this has passed.
    Sips(Duration),
}

/// How a life ends, if the server does not end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// All is sent, our side of the stream ends, and the replies are read to the
    /// end of the server's.
    HalfClose,
    /// A reset, so long after the connection was established, whatever is sent.
    Reset(Duration),
}

/// Where a script comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) seed: u64,
    /// The agent's number, from 0 on.
    pub(super) agent: u32,
    /// The number of its life, from 0 on.
    pub(super) life: u64,
}

/// Most frames of most scripts.
const FRAMES: usize = 20;

/// Most bytes that a report has for content: below what makes the longest frames,
/// with their exceptions from the rule that intact frames are found behind any
/// damage.
const MOST_CONTENT: usize = 32 * 1024;

/// Content of the longest random report, exclusive; as good agents have it.
const RANDOM_CONTENT: usize = 50;

/// Bytes of the shortest frames that an agent which does not read sends besides. Their
/// replies are twice as long, and soon exceed what buffers take.
const FLOOD: usize = 256 * 1024;

/// Stand-stills last from this to 512 times this, 25 s, evenly over the orders of
/// magnitude: far below any deadline of the server's, and beyond its frame timeout.
const STANDSTILL: Duration = Duration::from_millis(50);

impl Script {
    /// The script of one life; the same for the same origin.
    pub(super) fn draw(origin: Origin, content: ContentSize) -> Self {
        let mut draw = Draw::new(origin, content);
        let (mut pause, mut reading) = (None, Reading::All);
        let mut farewell = Farewell::HalfClose;
        let conduct = origin.conduct();
        let bytes = match conduct {
            Conduct::Corrupt => draw.frames_with(damage::corrupt),
            Conduct::Cut => draw.frames_with(damage::cut),
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
                let mut bytes = damage::junk(&mut draw.random);
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

impl Origin {
    /// Each agent goes through all conducts in turn, beginning anywhere, and
    /// neighbours differ: eight agents show all of them at once.
    fn conduct(self) -> Conduct {
        let turn = self
            .seed
            .wrapping_add(u64::from(self.agent))
            .wrapping_add(self.life);
        Conduct::ALL[usize::try_from(turn % Conduct::ALL.len() as u64).unwrap_or(0)]
    }

    /// A generator of this life's own, so that scripts do not depend on the order
    /// in which lives begin.
    fn random(self) -> StdRng {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.seed.to_le_bytes());
        seed[8..12].copy_from_slice(&self.agent.to_le_bytes());
        seed[16..24].copy_from_slice(&self.life.to_le_bytes());
        StdRng::from_seed(seed)
    }
}

/// Draws from one origin.
struct Draw {
    random: StdRng,
    content: ContentSize,
    name: String,
}

impl Draw {
    fn new(origin: Origin, content: ContentSize) -> Self {
        Self {
            random: origin.random(),
            content,
            name: format!("chaos-{}", origin.agent + 1),
        }
    }

    /// Some good frames.
    fn frames(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..self.random.random_range(1..=FRAMES) {
            self.frame(&mut bytes);
        }
        bytes
    }

    /// Frames of which about a half are damaged so.
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

    /// Some good frames, and very many of the shortest kind.
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

    /// Appends a valid frame. The agent has a name, which distinguishes its reports from those
    /// of good agents. Nothing in the frame depends on the time of day.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64, agent: u32, life: u64) -> Script {
        Script::draw(Origin { seed, agent, life }, ContentSize::Random)
    }

    #[test]
    fn the_same_origin_makes_the_same_script_and_another_makes_another() {
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
            let origin = Origin {
                seed: 1,
                agent: 0,
                life,
            };
            let script = Script::draw(origin, ContentSize::Fixed(usize::MAX));
            assert!(script.bytes.len() < 2 * FRAMES * MOST_CONTENT + FLOOD);
        }
    }
}
