//! `hawk upgrade`: has a server replaced by a new process.

use std::path::{self, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::output;
use crate::control::{self, Request};

/// How long an answer may take: longer than all steps of a hand-over together, each of
/// which has its own limit in the server.
const PATIENCE: Duration = Duration::from_secs(120);

/// Have a running server replaced by a new process, which takes over every connection
///
/// Waits for the outcome and prints it. Without --binary the new process runs what the
/// server was started from, as it is now. If it cannot take over, the server goes on as if
/// nothing had happened, and this fails with the step and the cause.
#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    /// The control socket of the server
    #[arg(long, env = "HAWK_CONTROL", value_name = "PATH")]
    control: PathBuf,

    /// What the new process is to run [default: the file that lies now where the server was
    /// started from]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

impl UpgradeArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        // The server may be in another folder.
        let binary = self.binary.as_deref().map(path::absolute).transpose();
        let binary = binary.context("cannot tell where the binary is")?;
        let lines = control::ask(&self.control, &Request::Upgrade { binary }, PATIENCE)?;
        lines
            .iter()
            .try_for_each(|line| output::print(&format!("{line}\n")))
    }
}
