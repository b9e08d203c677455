//! Child processes that end with the value that holds them.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// A process, most often pinned to one core; killed when dropped.
pub struct Running {
    name: String,
    child: Child,
    /// The lines of the two outputs that have been asked for.
    lines: Arc<Mutex<Vec<String>>>,
}

/// Which of a child's outputs is wanted; nothing reads the other ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Standard output; errors go where ours go.
    Output,
    /// Standard error alone.
    Errors,
    /// Both, their lines interleaved.
    Both,
}

impl Running {
    /// Starts `program` on `core`, or wherever the kernel likes.
    pub fn start(
        core: Option<u32>,
        program: &Path,
        arguments: &[&str],
        wanted: Wanted,
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let stdout = match wanted {
            Wanted::Errors => Stdio::null(),
            Wanted::Output | Wanted::Both => Stdio::piped(),
        };
        let stderr = match wanted {
            Wanted::Output => Stdio::inherit(),
            Wanted::Errors | Wanted::Both => Stdio::piped(),
        };
        let (mut command, missing) = match core {
            // `taskset` becomes the program, so that the child's id is the program's.
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(program);
                (
                    command,
                    "cannot start taskset (Debian: util-linux)".to_owned(),
                )
            }
            None => (Command::new(program), format!("cannot start {name}")),
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .context(missing)?;
        let lines = Arc::default();
        if let Some(output) = child.stdout.take() {
            collect(output, Arc::clone(&lines));
        }
        if let Some(errors) = child.stderr.take() {
            collect(errors, Arc::clone(&lines));
        }
        Ok(Self {
            name: name.into_owned(),
            child,
            lines,
        })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Discards the lines written so far.
    pub fn forget_lines(&self) {
        self.lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Waits for a line that `find` takes something from.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Check for the end first: a line written right before the end counts.
            let ended = self.child.try_wait()?;
            if let Some(found) = self.lines().iter().find_map(|line| find(line)) {
                return Ok(found);
            }
            if let Some(status) = ended {
                let said = self.lines().join("\n");
                bail!(
                    "{} ended ({status}) without saying {what}\n{said}",
                    self.name
                );
            }
            if Instant::now() > deadline {
                bail!("{} does not say {what}", self.name);
            }
            thread::sleep(STEP);
        }
    }

    /// Waits until it ends by itself, in at most `longest`; calls `meanwhile` now
    /// and then.
    pub fn finish(
        &mut self,
        longest: Duration,
        mut meanwhile: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + longest;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {longest:?}", self.name);
            }
            meanwhile()?;
            thread::sleep(STEP);
        }
    }

    /// Whether it still runs; an error that names it if not.
    pub fn still_runs(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended: {status}\n{}", self.name, self.lines().join("\n"));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Either fails only when the process has ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// How long a child may take to say what it is expected to say.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a child is looked at: often enough to end in time, seldom enough
/// to take next to nothing from the cores that are measured.
pub const STEP: Duration = Duration::from_millis(20);

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    });
}
