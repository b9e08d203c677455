//! A server with a goroutine for each connection and each packet.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::support::Setup;
use crate::support::child::{Running, Wanted};
use crate::support::servers::{Server, announced, is_there};

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
