//! One command: its environment, its start, its input and its end.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Signal, getrlimit, kill_process_group};

use crate::children::Child;
use hawk_time::Moment;

/// A command that is run for each job.
#[derive(Debug)]
pub(super) struct Shell {
    /// For `sh -c`.
    pub(super) command: OsString,
    /// Time after which a call is killed, with its process group.
    pub(super) timeout: Duration,
    pub(super) environment: Arc<Environment>,
}

/// A call of a command, which runs or has ended.
pub(super) struct Running {
    child: Child,
    /// The end of its timeout; `None` once it was killed.
    kill_at: Option<Moment>,
}

/// How a call of a command failed.
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
    /// Runs the command with `input` on its stdin; its timeout begins `now`.
    ///
    /// The call has a process group of its own, so that it can be killed as a whole. It inherits
    /// the standard streams only: the input, and hawk's stderr for both outputs, since hawk's
    /// stdout carries the listening address alone. All other descriptors are close-on-exec.
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

    /// Returns a descriptor that is readable once the call has ended.
    pub(super) fn end(&self) -> BorrowedFd<'_> {
        self.child.as_fd()
    }

    /// Returns the end of its timeout; `None` once it was killed.
    pub(super) const fn kill_at(&self) -> Option<Moment> {
        self.kill_at
    }

    /// Returns how the call ended; `None` while it runs.
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

    /// Kills its process group. The call has not been waited for, so its process id cannot
    /// belong to another process yet.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.kill_at = None;
        Ok(kill_process_group(
            Pid::from_child(&self.child),
            Signal::KILL,
        )?)
    }
}

/// Returns a file in memory that contains `input`.
///
/// A pipe may have a capacity of a single page (`pipe(7)`), and a write to a full pipe would
/// block this thread until the command reads.
fn readable(input: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC;
    let memory = match memfd_create("hawk-event", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know this flag; later versions may require it.
        Err(Errno::INVAL) => memfd_create("hawk-event", flags),
        made => made,
    };
    let mut file = File::from(memory?);
    file.write_all(input)?;
    file.rewind()?;
    Ok(file)
}

/// Names and prefixes of variables that commands do not get: from the service manager, for a
/// successor of this process, and options of this server. A command may run hawk itself.
const HIDDEN: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "HAWK_"];

/// Value of [`Environment::open_files`] for this process's own limit.
const UNKNOWN: u64 = 0;

/// The environment variables and the limits of commands: those with which hawk was started.
///
/// Signals need no preparation: `exec` removes handlers, std resets SIGPIPE, and hawk blocks
/// and ignores no signal.
#[derive(Debug)]
pub(super) struct Environment {
    variables: Vec<(OsString, OsString)>,
    open_files: AtomicU64,
}

impl Environment {
    /// Copies the environment of this process.
    pub(super) fn new(open_files: Option<u64>) -> Self {
        Self {
            variables: env::vars_os()
                .filter(|(name, _)| !is_hidden(name))
                .collect(),
            open_files: AtomicU64::new(open_files.unwrap_or(UNKNOWN)),
        }
    }

    /// Returns the soft limit of open files of commands; `None`: that of this process.
    pub(super) fn open_files(&self) -> Option<u64> {
        let limit = self.open_files.load(Ordering::Relaxed);
        (limit != UNKNOWN).then_some(limit)
    }

    /// Sets the soft limit of open files of commands.
    pub(super) fn set_open_files(&self, limit: u64) {
        self.open_files.store(limit, Ordering::Relaxed);
    }

    /// Returns `sh -c command`.
    pub(super) fn shell(&self, command: &OsStr) -> Command {
        let mut shell = Command::new("sh");
        shell
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let current = getrlimit(Resource::Nofile).current;
        match self.open_files() {
            // A first shell sets the limit and executes the second: setting it between fork and
            // exec takes unsafe code, and setting it from outside is a race.
            Some(limit) if Some(limit) != current => shell
                .args(["-c", r#"ulimit -Sn "$1"; exec sh -c "$0""#])
                .arg(command)
                .arg(limit.to_string()),
            _ => shell.arg("-c").arg(command),
        };
        shell
    }
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    HIDDEN.iter().any(|hidden| match hidden.ends_with('_') {
        true => name.starts_with(hidden.as_bytes()),
        false => name == hidden.as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_service_and_of_hawk_are_hidden() {
        let names = crate::service::VARIABLES;
        let more = ["HAWK_LISTEN", "HAWK_SUCCESSOR", "WATCHDOG_X", "LISTEN_X"];
        assert!(
            names
                .iter()
                .chain(&more)
                .all(|name| is_hidden(OsStr::new(name)))
        );
        for name in ["PATH", "HAWKEYE", "NOTIFY_SOCKETS", "LISTENER", ""] {
            assert!(!is_hidden(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_command_has_the_given_limit_of_open_files() {
        let environment = Environment::new(None);
        let limit = || {
            let mut shell = environment.shell(OsStr::new("ulimit -Sn; echo \"$0 $#\""));
            String::from_utf8(shell.output().unwrap().stdout).unwrap()
        };
        let inherited = limit();
        environment.set_open_files(57);
        assert_eq!(limit(), "57\nsh 0\n");
        assert!(inherited.ends_with("\nsh 0\n"), "{inherited}");
    }
}
