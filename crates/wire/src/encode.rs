//! Packets to frames, for the bundled clients and for tests.

use serde::Serialize;

use super::frame::{DataError, encode_frame};
use super::packet::{AgentName, Packet};

/// How a packet is written into a frame's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// As deployed agents do: a JSON envelope around a second JSON object in
    /// base64.
    #[default]
    Classic,
    /// The packet's number as one byte, then the JSON object itself.
    Compact,
}

/// Appends `packet` to `out` as one whole frame.
///
/// # Errors
/// [`DataError::TooLong`] if its text does not fit a frame; `out` is untouched.
pub fn encode_packet(
    packet: &Packet<'_>,
    encoding: Encoding,
    out: &mut Vec<u8>,
) -> Result<(), DataError> {
    let number = packet.kind().number();
    let inner = inner_object(packet);
    let data = match encoding {
        Encoding::Compact => [&[number], inner.as_slice()].concat(),
        Encoding::Classic => {
            let content = base64_simd::STANDARD.encode_to_string(inner);
            format!(r#"{{"PacketType":{number},"PacketContent":"{content}"}}"#).into_bytes()
        }
    };
    encode_frame(&data, out)
}

/// The inner JSON object, its keys in the order in which Go writes them.
#[expect(
    clippy::expect_used,
    reason = "serde_json fails on odd keys of a map and on a writer that fails: here are neither. \
              No server encodes packets"
)]
fn inner_object(packet: &Packet<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Inner<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        content: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rand: Option<i64>,
        timestamp: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        agent: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        probe: Option<bool>,
    }
    let agent = packet.agent().map(AgentName::as_str);
    let inner = match packet {
        Packet::Heartbeat(heartbeat) => Inner {
            version: Some(&heartbeat.version),
            content: None,
            rand: None,
            timestamp: heartbeat.timestamp,
            agent,
            probe: heartbeat.probe.then_some(true),
        },
        Packet::Report(report) => Inner {
            version: None,
            content: Some(&report.content),
            rand: Some(report.rand),
            timestamp: report.timestamp,
            agent,
            probe: None,
        },
    };
    serde_json::to_vec(&inner).expect("strings and integers always serialize into memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Heartbeat, MAX_DATA, Report};

    fn heartbeat() -> Packet<'static> {
        Packet::Heartbeat(Heartbeat {
            version: "1.0".into(),
            timestamp: 1_475_249_220,
            agent: None,
            probe: false,
        })
    }

    #[test]
    fn a_classic_heartbeat_is_what_the_original_client_sends() {
        let mut out = Vec::new();
        encode_packet(&heartbeat(), Encoding::Classic, &mut out).unwrap();
        assert_eq!(out.len(), 99);
        let data = br#"{"PacketType":0,"PacketContent":"eyJ2ZXJzaW9uIjoiMS4wIiwidGltZXN0YW1wIjoxNDc1MjQ5MjIwfQ=="}"#;
        assert_eq!(&out[4..out.len() - 4], data);
    }

    #[test]
    fn a_compact_report_is_its_number_and_its_object() {
        let report = Packet::Report(Report {
            content: "a\"b".into(),
            rand: -7,
            timestamp: 1,
            agent: Some(AgentName::new("web-01").unwrap()),
        });
        let mut out = Vec::new();
        encode_packet(&report, Encoding::Compact, &mut out).unwrap();
        let data = b"\x01{\"content\":\"a\\\"b\",\"rand\":-7,\"timestamp\":1,\"agent\":\"web-01\"}";
        assert_eq!(&out[4..out.len() - 4], data);
    }

    #[test]
    fn data_that_does_not_fit_a_frame_is_refused() {
        let report = Packet::Report(Report {
            content: "x".repeat(MAX_DATA).into(),
            ..Report::default()
        });
        let mut out = Vec::new();
        assert!(matches!(
            encode_packet(&report, Encoding::Compact, &mut out),
            Err(DataError::TooLong(_))
        ));
        assert!(out.is_empty());
    }
}
