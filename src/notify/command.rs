//! One command: its start, its end, and what it gets to read.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use super::environment::Environment;
use crate::children::Child;
use hawk_time::Moment;

/// A command to run for jobs.
#[derive(Debug)]
pub(super) struct Shell {
    /// For `sh -c`.
    pub(super) command: OsString,
    /// How long one may run; then it is killed, with its process group.
    pub(super) timeout: Duration,
    pub(super) environment: Arc<Environment>,
}

/// A command that runs, or has ended and was not asked about it yet.
pub(super) struct Running {
    child: Child,
    /// When its time is over; `None` once it was killed for that.
    kill_at: Option<Moment>,
}

/// Why a command did not do what it was to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("cannot be started: {0}")]
    Start(#[from] io::Error),
    #[error("ended with {0}")]
    Status(ExitStatus),
    #[error("has ended, its exit status is not known: {0}")]
    Lost(io::Error),
    #[error("took longer than {} and was killed", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

impl Running {
    /// Runs the command with `input` on its stdin; its time begins `now`.
    ///
    /// It is a process group of its own, so that all of it can be killed. It inherits the
    /// standard streams only: the input, and our stderr for both outputs, since our stdout
    /// carries the listening address alone. All other descriptors are opened close-on-exec.
    pub(super) fn start(shell: &Shell, input: &[u8], now: Moment) -> Result<Self, Failure> {
        let mut command = shell.environment.shell(&shell.command);
        command
            .stdin(readable(input)?)
            .stdout(io::stderr())
            .stderr(Stdio::inherit())
            .process_group(0);
        Ok(Self {
            child: Child::spawn(&mut command)?,
            kill_at: Some(now.after(shell.timeout)),
        })
    }

    /// What to wait for: it is readable once the command has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }

    /// When it is to be killed.
    pub(super) const fn kill_at(&self) -> Option<Moment> {
        self.kill_at
    }

    /// How it ended, if it has.
    pub(super) fn outcome(&mut self, timeout: Duration) -> Option<Result<(), Failure>> {
        let status = match self.child.try_wait() {
            Ok(status) => status?,
            Err(error) => return Some(Err(Failure::Lost(error))),
        };
        let killed = status.signal() == Some(Signal::KILL.as_raw());
        Some(match status.success() {
            true => Ok(()),
            false if killed && self.kill_at.is_none() => Err(Failure::TimedOut(timeout)),
            false => Err(Failure::Status(status)),
        })
    }

    /// Kills it with all its process group. Its end is still to be waited for, so its number
    /// cannot be another process's meanwhile.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.kill_at = None;
        Ok(kill_process_group(
            Pid::from_child(&self.child),
            Signal::KILL,
        )?)
    }
}

/// A file in memory to read `input` from.
///
/// Not a pipe: its capacity may be a single page (`pipe(7)`), and a write to a full pipe
/// would block this thread for as long as the command does not read.
fn readable(input: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC;
    let memory = match memfd_create("hawk-event", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know this flag, and later ones may insist.
        Err(Errno::INVAL) => memfd_create("hawk-event", flags),
        made => made,
    };
    let mut file = File::from(memory?);
    file.write_all(input)?;
    file.rewind()?;
    Ok(file)
}
