//! `hawk confirm-clock`: the operator says that the server's clock is right.

use std::time::Duration;

use clap::Args;

use super::control_args::ControlArgs;
use super::output;
use crate::control::{self, Request};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tell a server that its machine's clock is right
///
/// A server whose clock jumps ahead by more than an hour pauses expiry by age (--retain),
/// so that a wrong clock removes nothing, and logs that. If the clock is right, this
/// resumes it; if not, set the clock. Asks the server over its control socket, and so needs
/// to be run as its user or the superuser.
#[derive(Debug, Args)]
pub(super) struct ConfirmClockArgs {
    #[command(flatten)]
    control: ControlArgs,
}

impl ConfirmClockArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        control::ask(&self.control.path()?, &Request::ConfirmClock, PATIENCE)?;
        output::print("expiry by age is resumed\n")
    }
}
