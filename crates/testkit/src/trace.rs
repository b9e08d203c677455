//! Processes that strace(1) traces, and processes that it stops.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{Launch, eventually, skip};

/// Whether there is strace, and it may do its work; if not, a line says so.
#[track_caller]
pub fn can_trace() -> bool {
    let tried = try_strace();
    if let Err(why) = &tried {
        skip(&format!(
            "no process can be traced ({why}); it takes strace (Debian: strace)"
        ));
    }
    tried.is_ok()
}

fn try_strace() -> Result<(), String> {
    let mut strace = Command::new("strace");
    strace.args(["-D", "-ff", "-o", "/dev/null", "true"]);
    let output = strace.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("strace: {error}"))?;
    let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    (output.status.success() && told.is_empty())
        .then_some(())
        .ok_or(told)
}

/// A point at which a process stops by itself, until it is let go.
#[derive(Debug)]
pub struct Halt {
    folder: TempDir,
    /// The call behind which it stops, and which one of these calls; if none, it stops
    /// before it is what it is to be.
    call: Option<(&'static str, u32)>,
}

impl Halt {
    /// Before it is a hawk.
    pub fn at_the_door() -> Self {
        Self::at(None)
    }

    /// Behind its `number`th `call`, of its first thread. `None`, after a line that says
    /// so, where nothing can be traced.
    #[track_caller]
    pub fn behind(call: &'static str, number: u32) -> Option<Self> {
        can_trace().then(|| Self::at(Some((call, number))))
    }

    fn at(call: Option<(&'static str, u32)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let halt = Self { folder, call };
        let hawk = crate::hawk_binary();
        let script = match halt.strace() {
            None => format!("#!/bin/sh\nkill -STOP $$\nexec {hawk} \"$@\"\n"),
            Some(strace) => format!(
                "#!/bin/sh\nexec strace {} {hawk} \"$@\"\n",
                strace.join(" ")
            ),
        };
        let binary = halt.binary();
        fs::write(&binary, script).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        halt
    }

    /// A program that becomes a hawk that stops there.
    pub fn binary(&self) -> PathBuf {
        self.folder.path().join("hawk")
    }

    /// The server of this launch stops there.
    pub fn launch(&self, launch: Launch) -> Launch {
        let strace = self.strace().unwrap();
        let strace: Vec<_> = strace.iter().map(String::as_str).collect();
        launch.under("strace", &strace)
    }

    fn strace(&self) -> Option<[String; 7]> {
        let (call, number) = self.call?;
        // As a grandchild in a group of its own: the process has its parent's number, and
        // what is sent to its group is not for the tracer. Without -f it is the first
        // thread alone. The signal comes behind the call.
        Some([
            "-DD".to_owned(),
            "-o".to_owned(),
            self.trace().display().to_string(),
            "-e".to_owned(),
            format!("trace={call}"),
            "-e".to_owned(),
            format!("inject={call}:signal=SIGSTOP:when={number}"),
        ])
    }

    fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    /// Waits until this process stands there.
    #[track_caller]
    pub fn wait(&self, pid: Pid) {
        let stands = || match self.call {
            // It stops at each call for a moment.
            Some(_) => fs::read_to_string(self.trace())
                .is_ok_and(|trace| trace.contains("--- stopped by SIGSTOP ---")),
            None => {
                let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
                stat.is_ok_and(|stat| stat.contains(") T "))
            }
        };
        assert!(
            eventually(|| stands().then_some(())).is_some(),
            "process {pid:?} does not stop"
        );
    }

    /// Resumes the process.
    pub fn let_go(&self, pid: Pid) {
        kill_process(pid, Signal::CONT).unwrap();
    }
}
