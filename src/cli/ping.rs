//! `hawk ping`: one heartbeat, as a health check.

use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::output;
use super::send::unix_seconds;
use super::values::duration;
use super::wire_args::ServerArg;
use hawk_client::Client;
use hawk_wire::{Encoding, Heartbeat, Packet, Reply, STORE_PROBE, encode_packet};

/// Send a heartbeat and print the round trip, as a health check
///
/// Exits with 0 only if the server answers as it should, in time.
#[derive(Debug, Args)]
pub(super) struct PingArgs {
    #[command(flatten)]
    server: ServerArg,

    /// Check the store, too: the server answers once a commit is on disk. Nothing is stored
    #[arg(long)]
    report: bool,

    /// How long the connection, and then the reply, may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

impl PingArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (version, expected) = match self.report {
            true => (STORE_PROBE, Reply::Report),
            false => ("1.0", Reply::Heartbeat),
        };
        let mut frame = Vec::new();
        let heartbeat = Packet::Heartbeat(Heartbeat {
            version: version.into(),
            timestamp: unix_seconds(),
            agent: None,
            probe: true,
        });
        encode_packet(&heartbeat, Encoding::Classic, &mut frame)?;
        let address = self.server.address();
        let mut client = Client::connect(address, self.timeout)?;
        let (reply, elapsed) = client.ask(&frame)?;
        let text = reply.line().trim_ascii().escape_ascii();
        if self.report && reply == Reply::Heartbeat {
            bail!("{address} is alive, and too old for a check of its store");
        }
        if reply != expected {
            bail!("{address} answered a heartbeat with: {text}");
        }
        let elapsed = elapsed.as_secs_f64() * 1e3;
        output::print(&format!("{text} from {address}: {elapsed:.2} ms\n"))
    }
}
