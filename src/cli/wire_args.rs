//! Options about what goes over the wire, shared by the clients.

use clap::ValueEnum;

use crate::wire::{Encoding, PacketKind};

/// Where servers listen and clients connect to, unless told otherwise.
pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:9876";

/// How packets are written into frames.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EncodingArg {
    /// A JSON envelope around a second JSON object in base64, as deployed agents do
    Classic,
    /// The packet's number as one byte, then the JSON object
    Compact,
}

/// The kinds of packet.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KindArg {
    Report,
    Heartbeat,
}

impl From<EncodingArg> for Encoding {
    fn from(argument: EncodingArg) -> Self {
        match argument {
            EncodingArg::Classic => Self::Classic,
            EncodingArg::Compact => Self::Compact,
        }
    }
}

impl From<KindArg> for PacketKind {
    fn from(argument: KindArg) -> Self {
        match argument {
            KindArg::Report => Self::Report,
            KindArg::Heartbeat => Self::Heartbeat,
        }
    }
}
