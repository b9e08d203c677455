//! The servers that are compared, each started afresh for each measurement.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, thread};

use anyhow::{Context as _, bail};

use crate::Setup;
use crate::child::{Running, STEP, Wanted};

/// A server that takes connections.
pub(crate) struct Server {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
}

/// `hawk serve`.
pub(crate) fn hawk(setup: &Setup) -> anyhow::Result<Server> {
    let arguments = ["serve", "--listen", "127.0.0.1:0"];
    let process = Running::start(setup.server_core, &setup.server, &arguments, Wanted::Both)?;
    announced(process)
}

/// The goroutine-per-connection server, built from `benches/peers/goroutine`;
/// `Err` says what is missing.
pub(crate) struct Goroutine(PathBuf);

impl Goroutine {
    pub(crate) fn build() -> anyhow::Result<Result<Self, String>> {
        if !is_there("go", "version") {
            return Ok(Err("Go is not installed (Debian: golang-go)".into()));
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/goroutine");
        let directory = std::env::current_exe()?
            .parent()
            .context("this program is in no directory")?
            .join("peers");
        fs::create_dir_all(&directory)?;
        let program = directory.join("goroutine");
        let status = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(source)
            .status()?;
        if !status.success() {
            bail!("go build of the goroutine server failed: {status}");
        }
        Ok(Ok(Self(program)))
    }

    pub(crate) fn start(&self, setup: &Setup) -> anyhow::Result<Server> {
        let arguments = ["-listen", "127.0.0.1:0"];
        announced(Running::start(
            setup.server_core,
            &self.0,
            &arguments,
            Wanted::Errors,
        )?)
    }
}

/// Redis and its own load client.
pub(crate) struct Redis;

impl Redis {
    pub(crate) fn find() -> Result<Self, String> {
        if is_there("redis-server", "--version") && is_there("redis-benchmark", "--version") {
            Ok(Self)
        } else {
            Err("Redis is not installed (Debian: redis-server and redis-tools)".into())
        }
    }

    #[allow(clippy::unused_self)] // Only who has found it can start it.
    pub(crate) fn start(&self, setup: &Setup) -> anyhow::Result<Server> {
        let address = free_address()?;
        let port = address.port().to_string();
        let arguments = [
            "--save",
            "",
            "--appendonly",
            "no",
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
        ];
        let program = Path::new("redis-server");
        let mut process = Running::start(setup.server_core, program, &arguments, Wanted::Output)?;
        let deadline = Instant::now() + std::time::Duration::from_secs(20);
        while TcpStream::connect(address).is_err() {
            process.still_runs()?;
            anyhow::ensure!(Instant::now() < deadline, "redis-server does not listen");
            thread::sleep(STEP);
        }
        Ok(Server { process, address })
    }
}

/// A port that was free a moment ago, for a server that cannot pick one itself.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn announced(mut process: Running) -> anyhow::Result<Server> {
    let address = process.wait_for("where it listens", |line| {
        line.strip_prefix("listening on ")?.parse().ok()
    })?;
    Ok(Server { process, address })
}

fn is_there(program: &str, argument: &str) -> bool {
    Command::new(program)
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
