//! A chain of servers, in which each takes over from its predecessor.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hawk::control::{self, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use hawk_testkit::bench::servers::{self, Server};
use hawk_testkit::bench::{Setup, files};

/// How long a hand-over may take, and a predecessor to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Timeouts of hours, because connections are idle for long.
const PATIENT: [&str; 6] = [
    "--idle-timeout",
    "2h",
    "--frame-timeout",
    "2h",
    "--offline-after",
    "2h",
];

/// What a server stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Nothing,
    /// Reports and agents, in a file on a disk.
    Reports,
}

/// A server, through all its processes.
pub(crate) struct Dynasty {
    first: Server,
    folder: TempDir,
    reigns: Pid,
}

/// The figures of a hand-over.
pub(crate) struct Upgrade {
    /// From the freeze to the first turn of the new process, in seconds.
    pub(crate) pause: f64,
    /// Time of the copy before the freeze, in seconds.
    pub(crate) precopy: f64,
    /// The last commit before the freeze, in seconds.
    pub(crate) quiesce: f64,
    pub(crate) state_bytes: f64,
}

impl Dynasty {
    /// Starts the first process, with its files below the scratch folder.
    pub(crate) fn start(setup: &Setup, keeping: Keeping) -> anyhow::Result<Self> {
        let folder = files::fresh(&setup.scratch)?;
        let path = |name: &str| {
            let path = folder.path().join(name);
            let path = path.to_str().context("the folder's name is no UTF-8");
            path.map(str::to_owned)
        };
        let (control, store) = (path("control")?, path("hawk.db")?);
        let store = match keeping {
            Keeping::Nothing => "none",
            Keeping::Reports => &store,
        };
        let options = ["--control", &control, "--store", store];
        let first = servers::hawk(setup, &[&options[..], &PATIENT].concat())?;
        let reigns = i32::try_from(first.process.id()).ok();
        Ok(Self {
            reigns: reigns.and_then(Pid::from_raw).context("no process id")?,
            first,
            folder,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.first.address
    }

    /// The serving process.
    pub(crate) fn id(&self) -> u32 {
        self.reigns.as_raw_nonzero().get().unsigned_abs()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("hawk.db")
    }

    /// Starts a hand-over to a new process, and waits until the old one has ended.
    pub(crate) fn upgrade(&mut self) -> anyhow::Result<Upgrade> {
        let control = self.folder.path().join("control");
        let said = control::ask(&control, &Request::Upgrade { binary: None }, PATIENCE)
            .with_context(|| self.log())?;
        let line = said.concat();
        ensure!(line.starts_with("upgraded "), "{line}");
        let number = |key: &str| -> anyhow::Result<f64> {
            let mut words = line.split(' ');
            let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            Ok(value
                .with_context(|| format!("no {key} in {line:?}"))?
                .parse()?)
        };
        let mut words = line.split(' ');
        let next = words.find_map(|word| word.strip_prefix("pid=")?.parse().ok());
        let next = next.and_then(Pid::from_raw).context("no process id")?;
        let before = std::mem::replace(&mut self.reigns, next);
        self.wait_gone(before)?;
        Ok(Upgrade {
            pause: number("pause_us")? * 1e-6,
            precopy: number("precopy_us")? * 1e-6,
            quiesce: number("quiesce_us")? * 1e-6,
            state_bytes: number("state_bytes")?,
        })
    }

    fn wait_gone(&mut self, process: Pid) -> anyhow::Result<()> {
        if process.as_raw_nonzero().get().unsigned_abs() == self.first.process.id() {
            let status = self.first.process.finish(PATIENCE, || Ok(()))?;
            ensure!(status.success(), "the first process ended: {status}");
            return Ok(());
        }
        // It is no child of this process, and its reaper may take a while. It has ended
        // before.
        let process = match pidfd_open(process, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let patience = Timespec::try_from(PATIENCE)?;
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience))?;
        ensure!(
            ended == 1,
            "the process before does not end\n{}",
            self.log()
        );
        Ok(())
    }

    /// Returns the number of processes of the chain, the first included: each has the
    /// arguments of the first.
    pub(crate) fn processes(&self) -> anyhow::Result<usize> {
        let control = self.folder.path().join("control");
        let control = control.to_string_lossy().into_owned();
        let is_one = |entry: &fs::DirEntry| {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|byte| *byte == 0);
            arguments.any(|argument| argument == control.as_bytes())
        };
        let all = fs::read_dir("/proc")?.filter_map(Result::ok);
        Ok(all.filter(is_one).count())
    }

    /// Returns warnings and errors of the log.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let mut lines = self.first.process.lines();
        lines.retain(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        lines
    }

    fn log(&self) -> String {
        let lines = self.first.process.lines();
        let last = lines.len().saturating_sub(10);
        lines[last..].join("\n")
    }
}

impl Drop for Dynasty {
    fn drop(&mut self) {
        if self.id() != self.first.process.id() {
            // It fails only when the process has ended by itself.
            kill_process(self.reigns, Signal::KILL).ok();
        }
    }
}
