//! `hawk upgrade`: has a server replaced by a new process.

use std::path::{self, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::control_args::ControlArgs;
use super::output;
use super::text::harmless;
use crate::control::{self, Request};

/// How long an answer may take: longer than all steps of a hand-over together, each of
/// which has its own limit in the server.
const PATIENCE: Duration = Duration::from_secs(120);

/// Most hand-overs are over by then. Whoever waits longer is to know that it waits.
const NOTICE: Duration = Duration::from_secs(10);

/// Have a running server replaced by a new process, which takes over every connection
///
/// Waits for the outcome and prints it. Without --binary the new process runs the file that
/// lies now where the server was started from, which is the last --binary if there was one.
/// If it cannot take over, the server goes on as if nothing had happened, and this fails
/// with the step and the cause. To interrupt this ends the waiting, and no hand-over that
/// has begun.
#[derive(Debug, Args)]
pub(super) struct UpgradeArgs {
    #[command(flatten)]
    control: ControlArgs,

    /// What the new process is to run, from this folder if the path is relative [default:
    /// the file that lies now where the server was started from]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

impl UpgradeArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        // The server may be in another folder.
        let binary = self.binary.as_deref().map(path::absolute).transpose();
        let binary = binary.context("cannot tell where the binary is")?;
        let (outcome, waited_for) = mpsc::channel::<()>();
        thread::spawn(move || {
            if waited_for.recv_timeout(NOTICE) == Err(RecvTimeoutError::Timeout) {
                let (so_far, most) = (NOTICE.as_secs(), PATIENCE.as_secs());
                output::note(&format!(
                    "no outcome after {so_far} s; waiting for one, up to {most} s in all"
                ));
            }
        });
        let control = self.control.path()?;
        let lines = control::ask(&control, &Request::Upgrade { binary }, PATIENCE)?;
        drop(outcome);
        lines
            .iter()
            .try_for_each(|line| output::print(&format!("{}\n", harmless(line))))
    }
}
