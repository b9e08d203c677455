//! What agents say: packets, as the handlers see them.

use std::borrow::Cow;

/// A decoded packet. Its strings borrow from the frame or from the decoder's
/// scratch space wherever they can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// "I am alive."
    Heartbeat(Heartbeat<'a>),
    /// "This is what I measured."
    Report(Report<'a>),
}

/// The two kinds of packet, by their number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// `PacketType` 0.
    Heartbeat,
    /// `PacketType` 1.
    Report,
}

/// A heartbeat's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat<'a> {
    /// The agent's version, in its own words.
    pub version: Cow<'a, str>,
    /// Unix seconds by the agent's clock; not to be trusted.
    pub timestamp: i64,
    /// The agent's name, where it gives one.
    pub agent: Option<AgentName<'a>>,
    /// A health check: the server answers it and otherwise ignores it.
    pub probe: bool,
}

/// The version of a probe that includes the store: it is answered as a report is, once a
/// commit is on disk.
pub const STORE_PROBE: &str = "store";

/// A report's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report<'a> {
    /// What the agent has to say.
    pub content: Cow<'a, str>,
    /// A number of the agent's choice.
    pub rand: i64,
    /// Unix seconds by the agent's clock; not to be trusted.
    pub timestamp: i64,
    /// The agent's name, where it gives one.
    pub agent: Option<AgentName<'a>>,
}

/// Most bytes of an agent's name, in UTF-8.
pub const MAX_AGENT_NAME: usize = 128;

/// A name that an agent gave itself: 1 to [`MAX_AGENT_NAME`] bytes of UTF-8
/// without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentName<'a>(Cow<'a, str>);

/// Why a text is no agent's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an agent's name is 1 to {MAX_AGENT_NAME} bytes without control characters")]
pub struct AgentNameError;

impl<'a> AgentName<'a> {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`AgentNameError`] if it is empty, too long, or has control characters.
    pub fn new(name: impl Into<Cow<'a, str>>) -> Result<Self, AgentNameError> {
        let name = name.into();
        let fits = (1..=MAX_AGENT_NAME).contains(&name.len());
        if fits && !name.chars().any(char::is_control) {
            Ok(Self(name))
        } else {
            Err(AgentNameError)
        }
    }

    /// The name itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Packet<'_> {
    /// Which of the two it is.
    #[must_use]
    pub const fn kind(&self) -> PacketKind {
        match self {
            Self::Heartbeat(_) => PacketKind::Heartbeat,
            Self::Report(_) => PacketKind::Report,
        }
    }

    /// The name that the agent gave itself in this packet, if it did.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentName<'_>> {
        match self {
            Self::Heartbeat(heartbeat) => heartbeat.agent.as_ref(),
            Self::Report(report) => report.agent.as_ref(),
        }
    }

    /// Returns whether the packet is a health check that includes the store.
    #[must_use]
    pub fn is_store_probe(&self) -> bool {
        matches!(self, Self::Heartbeat(Heartbeat { probe: true, version, .. }) if version == STORE_PROBE)
    }

    /// Returns whether the packet is a health check, which changes nothing.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        matches!(self, Self::Heartbeat(Heartbeat { probe: true, .. }))
    }
}

impl PacketKind {
    /// The packet's number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Heartbeat => 0,
            Self::Report => 1,
        }
    }

    /// The kind with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Heartbeat),
            1 => Some(Self::Report),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(AgentName::new("web-01").unwrap().as_str(), "web-01");
        assert!(AgentName::new("ü".repeat(64)).is_ok());
        for bad in [
            "",
            "a\nb",
            "\u{7f}",
            "\u{85}",
            &"x".repeat(129),
            &"ü".repeat(65),
        ] {
            assert_eq!(AgentName::new(bad), Err(AgentNameError), "{bad:?}");
        }
    }

    #[test]
    fn kinds_and_numbers_agree() {
        for number in 0..=u8::MAX {
            if let Some(kind) = PacketKind::from_number(number) {
                assert_eq!(kind.number(), number);
            }
        }
        assert_eq!(PacketKind::from_number(2), None);
    }
}
