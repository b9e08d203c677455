//! An event and its JSON.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::store::Lane;
use hawk_time::UnixNanos;

/// The identity of the agent that an event concerns. Two events concern the same agent if these
/// are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventAgent {
    /// Its name, or its address if it gave none.
    pub text: Arc<str>,
    /// Whether `text` is a name.
    pub named: bool,
}

/// The form for log lines: a name comes from the wire and is escaped.
impl fmt::Display for EventAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.named {
            true => write!(f, "{:?}", self.text),
            false => write!(f, "{}", self.text),
        }
    }
}

/// An agent came online or went offline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its sequence number; later events have greater numbers.
    pub seq: i64,
    /// Its time by the server's clock.
    pub at: UnixNanos,
    /// The agent.
    pub agent: EventAgent,
    /// The source address of the agent's last packet.
    pub address: IpAddr,
    /// The version in the agent's last heartbeat; empty before the first.
    pub version: Arc<str>,
    /// The agent's state from then on.
    pub online: bool,
    /// The time of the agent's last packet by the server's clock.
    pub last_seen: UnixNanos,
    /// Whether the agent was established at that time.
    pub established: bool,
}

/// The keys of an event's JSON, which commands rely on.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(serialize_with = "display")]
    at: UnixNanos,
    agent: &'a str,
    named: bool,
    address: IpAddr,
    version: &'a str,
    state: &'static str,
    #[serde(serialize_with = "display")]
    last_seen: UnixNanos,
    /// Text, because JSON's numbers end at 2^53 in many programs.
    #[serde(serialize_with = "text", skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
}

impl Event {
    /// Appends the event to `out` as one JSON object and a line feed. `numbered` events have
    /// the key `seq`.
    #[expect(
        clippy::expect_used,
        reason = "serde_json fails on odd keys of a map and on a writer that fails: here are neither"
    )]
    pub(super) fn write_line(&self, numbered: bool, out: &mut Vec<u8>) {
        let line = Line {
            at: self.at,
            agent: &self.agent.text,
            named: self.agent.named,
            address: self.address,
            version: &self.version,
            state: word(self.online),
            last_seen: self.last_seen,
            seq: numbered.then_some(self.seq),
        };
        serde_json::to_writer(&mut *out, &line).expect("plain values are always JSON");
        out.push(b'\n');
    }

    /// Returns the lane on which it is delivered.
    pub(super) const fn lane(&self) -> Lane {
        Lane::of(self.established)
    }

    /// Returns an upper bound of its size in memory.
    pub(super) fn size(&self) -> usize {
        const FIXED: usize = 256;
        FIXED + self.agent.text.len() + self.version.len()
    }
}

/// Returns the name of a state.
pub(super) const fn word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

fn display<S: Serializer>(time: &UnixNanos, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[allow(clippy::trivially_copy_pass_by_ref, clippy::ref_option)] // Serde passes references.
fn text<S: Serializer>(seq: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&seq.unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns an event of the agent of this name.
    pub(in crate::notify) fn event(seq: i64, agent: &str) -> Event {
        Event {
            seq,
            at: UnixNanos::from_nanos(1_795_477_156_123_456_789),
            agent: EventAgent {
                text: agent.into(),
                named: true,
            },
            address: [10, 0, 0, 7].into(),
            version: "1.0".into(),
            online: false,
            last_seen: UnixNanos::from_nanos(-1),
            established: true,
        }
    }

    fn line(event: &Event, numbered: bool) -> String {
        let mut line = Vec::new();
        event.write_line(numbered, &mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn the_keys_and_their_spelling_are_fixed() {
        let keys = "{\"at\":\"2026-11-23T23:39:16.123456789Z\",\"agent\":\"web-01\",\"named\":true,\
                    \"address\":\"10.0.0.7\",\"version\":\"1.0\",\"state\":\"offline\",\
                    \"last_seen\":\"1970-01-01T00:00:00.000000000Z\"";
        let event = event(9_007_199_254_740_993, "web-01");
        assert_eq!(line(&event, false), format!("{keys}}}\n"));
        let seq = ",\"seq\":\"9007199254740993\"";
        assert_eq!(line(&event, true), format!("{keys}{seq}}}\n"));
    }

    #[test]
    fn control_characters_of_an_agent_do_not_break_the_line() {
        let event = Event {
            version: "1\n2\r\u{0}\u{1b}[31m".into(),
            ..event(1, "a \"b\" \\")
        };
        let line = line(&event, true);
        let breaks = line.bytes().filter(u8::is_ascii_control);
        assert_eq!(breaks.collect::<Vec<_>>(), [b'\n']);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["version"], "1\n2\r\u{0}\u{1b}[31m");
    }

    #[test]
    fn a_name_that_is_written_like_an_address_is_another_agent() {
        let name = event(1, "10.0.0.7").agent;
        let address = EventAgent {
            named: false,
            ..name.clone()
        };
        assert_ne!(name, address);
        assert_eq!(name.to_string(), "\"10.0.0.7\"");
        assert_eq!(address.to_string(), "10.0.0.7");
    }
}
