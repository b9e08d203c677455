//! The ways in which agents misbehave.

use std::sync::Arc;
use std::time::Duration;

use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, encode_frame, encode_packet};

/// The repeated behaviour of each member of a crowd.
pub(crate) struct Habit {
    /// Bytes sent once it is connected.
    pub(crate) greeting: Arc<[u8]>,
    /// Bytes sent repeatedly after the greeting.
    pub(crate) then: Arc<[u8]>,
    pub(crate) pace: Pace,
    pub(crate) reading: Reading,
    /// Bytes of its socket's receive buffer, if not the default.
    pub(crate) receive_buffer: Option<usize>,
    /// How often it acts without an event.
    pub(crate) visits_every: Option<Duration>,
    /// It disconnects after this long without an answer.
    pub(crate) patience: Option<Duration>,
    /// It disconnects at the first bytes that it reads.
    pub(crate) leaves_when_answered: bool,
}

/// How fast an agent sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as the socket takes it.
    Full,
    /// One agent in so many sends a byte at each visit.
    ByteAVisit { one_in: usize },
}

/// How an agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    All,
    Never,
    ByteASecond,
}

/// Bytes of the receive buffer of agents that do not read: few, so that replies queue in
/// the server.
const SMALL: usize = 4096;

impl Habit {
    /// Sends `greeting`, then waits and reads.
    pub(crate) fn greet(greeting: Vec<u8>) -> Self {
        Self {
            greeting: greeting.into(),
            then: Arc::new([]),
            pace: Pace::Full,
            reading: Reading::All,
            receive_buffer: None,
            visits_every: None,
            patience: None,
            leaves_when_answered: false,
        }
    }

    /// Sends a partial frame; one agent in ten sends another byte of it every second.
    pub(crate) fn slow_loris() -> Self {
        Self {
            then: Arc::new([b'x']),
            pace: Pace::ByteAVisit { one_in: 10 },
            visits_every: Some(Duration::from_secs(1)),
            ..Self::greet(long_frame(60_000)[..100].to_vec())
        }
    }

    /// Sends frames and reads no reply. Frames without data are the shortest, and their
    /// replies more than twice as long.
    pub(crate) fn never_reads() -> Self {
        Self {
            then: empty_frames(),
            reading: Reading::Never,
            receive_buffer: Some(SMALL),
            ..Self::greet(Vec::new())
        }
    }

    /// Sends frames and reads a byte of the replies each second.
    pub(crate) fn reads_a_byte_a_second() -> Self {
        Self {
            reading: Reading::ByteASecond,
            visits_every: Some(Duration::from_secs(1)),
            ..Self::never_reads()
        }
    }

    /// Connects, and reconnects at once when it is turned away or gets no answer within
    /// `patience`.
    pub(crate) fn keeps_coming(patience: Option<Duration>) -> Self {
        Self {
            patience,
            visits_every: patience,
            ..Self::greet(heartbeat())
        }
    }

    /// Connects, sends a heartbeat, and disconnects when it is answered, repeatedly.
    pub(crate) fn comes_and_goes() -> Self {
        Self {
            leaves_when_answered: true,
            ..Self::greet(heartbeat())
        }
    }

    /// Sends `bytes` repeatedly, as fast as the socket takes them, and reads the replies.
    pub(crate) fn pours(bytes: Vec<u8>) -> Self {
        Self {
            then: bytes.into(),
            ..Self::greet(Vec::new())
        }
    }
}

/// Returns a heartbeat. The whole crowd uses one name, because each agent that comes online
/// causes an expected line in the log.
pub(crate) fn heartbeat() -> Vec<u8> {
    let heartbeat = Packet::Heartbeat(Heartbeat {
        version: "1.0".into(),
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new("crowd").expect("a good name")),
        probe: false,
    });
    let mut out = Vec::new();
    encode_packet(&heartbeat, Encoding::Classic, &mut out).expect("it fits a frame");
    out
}

/// Returns a valid report of `data` bytes of a frame's data.
pub(crate) fn long_frame(data: usize) -> Vec<u8> {
    let (head, tail) = ("\x01{\"content\":\"", "\"}");
    let text = "x".repeat(data - head.len() - tail.len());
    let mut out = Vec::new();
    encode_frame(format!("{head}{text}{tail}").as_bytes(), &mut out).expect("it fits a frame");
    out
}

fn empty_frames() -> Arc<[u8]> {
    let mut frame = Vec::new();
    encode_frame(b"", &mut frame).expect("it fits a frame");
    frame.repeat(1024).into()
}
