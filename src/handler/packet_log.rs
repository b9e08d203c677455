//! Packets as log lines.

use crate::session::Sender;
use hawk_wire::Packet;

/// Text from the wire is escaped: whatever an agent sends, a packet is one line.
pub(super) fn log(sender: Sender<'_>, packet: &Packet<'_>) {
    let peer = sender.peer;
    let agent = sender.agent.map_or("", AsRef::as_ref);
    match packet {
        Packet::Heartbeat(heartbeat) => log::info!(
            "{} peer={peer} agent={agent:?} version={:?} timestamp={}",
            if heartbeat.probe {
                "probe"
            } else {
                "heartbeat"
            },
            heartbeat.version,
            heartbeat.timestamp,
        ),
        Packet::Report(report) => log::info!(
            "report peer={peer} agent={agent:?} content={:?} rand={} timestamp={}",
            report.content,
            report.rand,
            report.timestamp,
        ),
    }
}
