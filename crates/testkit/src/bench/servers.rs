//! Servers, each started afresh for each measurement.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use super::Setup;
use super::child::{Running, Wanted};

/// A server that takes connections.
pub struct Server {
    pub process: Running,
    pub address: SocketAddr,
}

/// Nothing is kept, as the peers keep nothing: what the disk does is measured by itself.
pub const NO_STORE: &[&str] = &["--store", "none"];

/// `hawk serve` with these options besides.
pub fn hawk(setup: &Setup, options: &[&str]) -> anyhow::Result<Server> {
    let arguments = [&["serve", "--listen", "127.0.0.1:0"], options].concat();
    let process = Running::start(setup.server_core, &setup.server, &arguments, Wanted::Both)?;
    announced(process)
}

/// A server that says `listening on ADDR:PORT`.
pub fn announced(mut process: Running) -> anyhow::Result<Server> {
    let address = process.wait_for("where it listens", |line| {
        line.strip_prefix("listening on ")?.parse().ok()
    })?;
    Ok(Server { process, address })
}

/// Whether `program` can be run.
pub fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
