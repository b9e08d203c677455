//! Options about what goes over the wire, shared by the clients.

use clap::{Args, ValueEnum};

use hawk_wire::{Encoding, PacketKind};

/// Where servers listen and clients connect to, unless told otherwise.
pub(super) const DEFAULT_ADDRESS: &str = "127.0.0.1:9876";

/// The server that a client connects to.
#[derive(Debug, Args)]
pub(super) struct ServerOption {
    /// The server: a name or an IP address, with a port, such as web-01:9876 or [::1]:9876
    #[arg(long, env = "HAWK_ADDRESS", value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    address: String,
}

impl ServerOption {
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// The same for clients that take it as an argument as well.
#[derive(Debug, Args)]
pub(super) struct ServerArg {
    /// The server, as with --address, which it outranks
    #[arg(value_name = "ADDR:PORT")]
    argument: Option<String>,

    #[command(flatten)]
    option: ServerOption,
}

impl ServerArg {
    pub(super) fn address(&self) -> &str {
        self.argument
            .as_deref()
            .unwrap_or_else(|| self.option.address())
    }
}

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
