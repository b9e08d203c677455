//! Reply lines: the fixed list of all that the server ever says.
//!
//! No byte of the input and no text of a library gets into a reply. Deployed
//! agents compare these bytes, spelling included.

use super::packet::PacketKind;

/// The answer to one recognised frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// A heartbeat was taken.
    Heartbeat,
    /// A report was taken.
    Report,
    /// The frame cannot be used, now or ever: do not send it again.
    Error(Refusal),
    /// The packet was good but cannot be taken now: send it again later.
    Busy(Busy),
}

/// Why a frame is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Markers right, data free of `FF`, but its checksum is not the one sent.
    ChecksumMismatch,
    /// The frame has no data, or its classic envelope an empty content.
    Empty,
    /// The first byte of the data belongs to no known encoding.
    UnknownEncoding,
    /// Not a JSON object, in the envelope or inside it.
    Malformed,
    /// A classic envelope without `PacketType` or without `PacketContent`.
    MissingField,
    /// A known field holds another type of value than it should.
    WrongType,
    /// A number does not fit its field.
    OutOfRange,
    /// A `PacketType` other than 0 and 1.
    UnknownPacketType,
    /// `PacketContent` is not padded standard base64.
    BadBase64,
    /// `agent` is empty, longer than 128 bytes, or has control characters.
    BadAgentName,
}

/// Why a good packet cannot be taken now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Busy {
    /// The server has as many connections as it may have; it closes this one.
    TooManyConnections,
    /// Its address has as many connections as it may have; this one is closed.
    TooManyFromAddress,
    /// The store does not take reports at present; the connection stays.
    StoreUnavailable,
    /// The agent is a new one, for which there is no place; the connection stays.
    TooManyAgents,
}

/// Bytes of the longest reply line, newline included.
pub const MAX_REPLY_LINE: usize = 32;

impl Reply {
    /// Every reply there is, for tables, tests and clients that list them.
    pub const ALL: [Self; 16] = [
        Self::Heartbeat,
        Self::Report,
        Self::Error(Refusal::ChecksumMismatch),
        Self::Error(Refusal::Empty),
        Self::Error(Refusal::UnknownEncoding),
        Self::Error(Refusal::Malformed),
        Self::Error(Refusal::MissingField),
        Self::Error(Refusal::WrongType),
        Self::Error(Refusal::OutOfRange),
        Self::Error(Refusal::UnknownPacketType),
        Self::Error(Refusal::BadBase64),
        Self::Error(Refusal::BadAgentName),
        Self::Busy(Busy::TooManyConnections),
        Self::Busy(Busy::TooManyFromAddress),
        Self::Busy(Busy::StoreUnavailable),
        Self::Busy(Busy::TooManyAgents),
    ];

    /// The line as it goes over the wire, its newline included.
    #[must_use]
    pub const fn line(self) -> &'static [u8] {
        match self {
            Self::Heartbeat => b"heartBeat\n",
            Self::Report => b"Report data has recive\n",
            Self::Error(refusal) => refusal.line(),
            Self::Busy(Busy::TooManyConnections) => b"busy: too many connections\n",
            Self::Busy(Busy::TooManyFromAddress) => b"busy: too many from one address\n",
            Self::Busy(Busy::StoreUnavailable) => b"busy: store unavailable\n",
            Self::Busy(Busy::TooManyAgents) => b"busy: too many agents\n",
        }
    }

    /// The reply that `line` (without its newline) spells, if it is one.
    #[must_use]
    pub fn parse(line: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reply| reply.line().strip_suffix(b"\n") == Some(line))
    }
}

impl PacketKind {
    /// Returns the reply to a packet of this kind that the server has taken.
    #[must_use]
    pub const fn reply(self) -> Reply {
        match self {
            Self::Heartbeat => Reply::Heartbeat,
            Self::Report => Reply::Report,
        }
    }
}

impl Refusal {
    /// Every refusal there is, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::ChecksumMismatch,
        Self::Empty,
        Self::UnknownEncoding,
        Self::Malformed,
        Self::MissingField,
        Self::WrongType,
        Self::OutOfRange,
        Self::UnknownPacketType,
        Self::BadBase64,
        Self::BadAgentName,
    ];

    /// The cause as one word, for counters and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChecksumMismatch => "checksum_mismatch",
            Self::Empty => "empty",
            Self::UnknownEncoding => "unknown_encoding",
            Self::Malformed => "malformed",
            Self::MissingField => "missing_field",
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnknownPacketType => "unknown_packet_type",
            Self::BadBase64 => "bad_base64",
            Self::BadAgentName => "bad_agent_name",
        }
    }

    const fn line(self) -> &'static [u8] {
        match self {
            Self::ChecksumMismatch => b"error: checksum mismatch\n",
            Self::Empty => b"error: empty data\n",
            Self::UnknownEncoding => b"error: unknown encoding\n",
            Self::Malformed => b"error: malformed JSON\n",
            Self::MissingField => b"error: missing field\n",
            Self::WrongType => b"error: wrong type\n",
            Self::OutOfRange => b"error: number out of range\n",
            Self::UnknownPacketType => b"error: unknown packet type\n",
            Self::BadBase64 => b"error: bad base64\n",
            Self::BadAgentName => b"error: bad agent name\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replies_that_agents_compare_are_spelled_as_deployed() {
        assert_eq!(Reply::Heartbeat.line(), b"heartBeat\n");
        assert_eq!(Reply::Report.line(), b"Report data has recive\n");
        assert_eq!(
            Reply::Error(Refusal::ChecksumMismatch).line(),
            b"error: checksum mismatch\n"
        );
        assert_eq!(
            Reply::Busy(Busy::TooManyConnections).line(),
            b"busy: too many connections\n"
        );
    }

    #[test]
    fn every_line_is_one_short_line_that_parses_back() {
        for reply in Reply::ALL {
            let line = reply.line();
            let (newline, text) = line.split_last().unwrap();
            assert_eq!(*newline, b'\n');
            assert!(line.len() <= MAX_REPLY_LINE);
            assert!(text.iter().all(|b| (b' '..=b'~').contains(b)));
            assert_eq!(Reply::parse(text), Some(reply));
        }
        assert_eq!(Reply::parse(b"heartbeat"), None);
    }

    #[test]
    fn prefixes_separate_errors_from_busy_lines() {
        for reply in Reply::ALL {
            let line = reply.line();
            assert_eq!(
                matches!(reply, Reply::Error(_)),
                line.starts_with(b"error: ")
            );
            assert_eq!(matches!(reply, Reply::Busy(_)), line.starts_with(b"busy: "));
        }
    }

    #[test]
    fn every_refusal_is_a_reply() {
        for refusal in Refusal::ALL {
            assert!(Reply::ALL.contains(&Reply::Error(refusal)));
        }
        assert_eq!(Reply::ALL.len(), Refusal::ALL.len() + 6);
    }
}
