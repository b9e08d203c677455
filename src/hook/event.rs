//! What a command gets to read: one JSON object.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use crate::time::UnixNanos;

/// An agent has come online or gone offline. Its keys as JSON are what commands
/// rely on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event<'a> {
    /// When, by the server's clock.
    #[serde(serialize_with = "display")]
    pub at: UnixNanos,
    /// Which agent: its name, or its address if it gave none.
    pub agent: Cow<'a, str>,
    /// Whether that is a name.
    pub named: bool,
    /// The address that it was last heard from.
    pub address: IpAddr,
    /// The version in its last heartbeat; empty before the first.
    pub version: &'a str,
    /// Whether it is online from now on.
    #[serde(rename = "state", serialize_with = "state")]
    pub online: bool,
    /// When it was last heard, by the server's clock.
    #[serde(serialize_with = "display")]
    pub last_seen: UnixNanos,
}

impl Event<'_> {
    /// The event as a line: one JSON object and a line feed.
    #[expect(
        clippy::expect_used,
        reason = "serde_json fails on odd keys of a map and on a writer that fails: here are neither"
    )]
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("plain values are always JSON");
        line.push(b'\n');
        line
    }
}

/// A state's name.
pub(super) const fn word(online: bool) -> &'static str {
    if online { "online" } else { "offline" }
}

fn display<S: Serializer>(time: &UnixNanos, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // Serde hands out references.
fn state<S: Serializer>(online: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(word(*online))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(agent: &str, version: &'static str) -> Event<'static> {
        Event {
            at: UnixNanos::from_nanos(1_795_477_156_123_456_789),
            agent: agent.to_owned().into(),
            named: true,
            address: [10, 0, 0, 7].into(),
            version,
            online: false,
            last_seen: UnixNanos::from_nanos(-1),
        }
    }

    #[test]
    fn the_keys_and_their_spelling_are_fixed() {
        let line = String::from_utf8(event("web-01", "1.0").to_line()).unwrap();
        assert_eq!(
            line,
            "{\"at\":\"2026-11-23T23:39:16.123456789Z\",\"agent\":\"web-01\",\"named\":true,\
             \"address\":\"10.0.0.7\",\"version\":\"1.0\",\"state\":\"offline\",\
             \"last_seen\":\"1970-01-01T00:00:00.000000000Z\"}\n"
        );
    }

    #[test]
    fn whatever_an_agent_says_it_is_one_line() {
        let line = event("a \"b\" \\", "1\n2\r\u{0}\u{1b}[31m").to_line();
        let breaks = line.iter().filter(|byte| byte.is_ascii_control());
        assert_eq!(breaks.collect::<Vec<_>>(), [&b'\n']);
        let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["version"], "1\n2\r\u{0}\u{1b}[31m");
    }
}
