//! What the server does with packets.

use crate::session::{Answer, Handler, Sender, Tag};
use crate::wire::{Packet, Reply};

/// Takes every packet and, if asked to, logs it.
#[derive(Debug)]
pub struct Responder {
    /// Log each packet as a line at level info.
    pub log_packets: bool,
}

impl Handler for Responder {
    fn handle(
        &mut self,
        sender: Sender<'_>,
        _tag: &mut Option<Tag>,
        packet: &Packet<'_>,
    ) -> Answer {
        if self.log_packets {
            log_packet(sender, packet);
        }
        Answer::Now(match packet {
            Packet::Heartbeat(_) => Reply::Heartbeat,
            Packet::Report(_) => Reply::Report,
        })
    }
}

/// Text from the wire is escaped: whatever an agent sends, a packet is one line.
fn log_packet(sender: Sender<'_>, packet: &Packet<'_>) {
    let peer = sender.peer;
    let agent = sender.agent.unwrap_or("");
    match packet {
        Packet::Heartbeat(heartbeat) => log::info!(
            "heartbeat peer={peer} agent={agent:?} version={:?} timestamp={}",
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
