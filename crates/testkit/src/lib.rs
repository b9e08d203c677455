//! What tests need to start the real server and to talk to it as agents do.
//!
//! Nothing here sleeps to let something happen: every wait is for a line, a
//! byte or a state, and ends in a panic with the whole log after [`PATIENCE`].

#![allow(
    missing_docs,
    clippy::new_without_default,
    clippy::should_implement_trait,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    reason = "a helper of tests is read beside the test; it fails loudly"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod agent;
pub mod bench;
mod clock;
mod descriptors;
pub mod emulated;
mod frames;
pub mod in_process;
mod kernel;
mod lines;
mod namespace;
pub mod operations;
pub mod place;
pub mod reference;
mod server;
mod stats;
mod trace;
pub mod worlds;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub use agent::{Agent, source};
pub use clock::Clock;
pub use descriptors::*;
pub use frames::*;
pub use kernel::ListenDrops;
pub use lines::{Fields, Lines};
pub use namespace::Namespace;
pub use server::{Exit, Launch, Process, Server, Suspended};
pub use stats::{CLASSES, Stats};
pub use trace::{Halt, can_trace};

/// The `hawk` binary of this build. Cargo names its path (`CARGO_BIN_EXE_hawk`) at compile
/// time of a test target alone; the binary is in the folder above that of the test programs.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn hawk_binary() -> &'static str {
    static BINARY: LazyLock<String> = LazyLock::new(|| {
        let program = std::env::current_exe().expect("this program has a path");
        let folder = program.ancestors().nth(2).expect("it is in target/*/deps");
        let binary = folder.join("hawk");
        assert!(binary.is_file(), "there is no {}", binary.display());
        binary.into_os_string().into_string().expect("it is UTF-8")
    });
    &BINARY
}

/// A folder for files that outlive a test, as cargo's own `CARGO_TARGET_TMPDIR`.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn scratch_folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let target = Path::new(hawk_binary()).ancestors().nth(2);
        let folder = target.expect("it is in target/*").join("tmp");
        std::fs::create_dir_all(&folder).expect("the folder can be made");
        folder
    });
    &FOLDER
}

/// How long anything that must happen may take. Generous, because machines
/// that run tests are slow and shared; only a failure ever takes as long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a state that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until `look` finds something; `None` when [`PATIENCE`] is at its end.
pub fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// Says to threads that it is over when this ends, also when it fails: who waits for them
/// would wait for ever.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the end of a process that is no child of ours. That it is reaped is not
/// waited for: whoever reaps orphans may take its time.
pub fn has_ended_within(pid: Pid, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).unwrap();
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(error) => error == Errno::SRCH,
        Ok(process) => {
            poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).unwrap() == 1
        }
    }
}

/// How many lines of one kind may have been logged since `start`: one, and one more
/// for every ten seconds.
pub fn lines_allowed(start: Instant) -> usize {
    usize::try_from(start.elapsed().as_secs() / 10).unwrap() + 1
}

/// Says that a test shows nothing on this machine, and why. Where `CI` is `true`
/// that is a failure.
#[track_caller]
#[allow(clippy::print_stderr)] // Whoever runs the tests must hear of it.
pub fn skip(why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!in_ci, "CI must not skip this test: {why}");
    eprintln!("SKIPPED: {why}");
}

/// The number that whoever runs the tests has set, if it is set.
#[track_caller]
pub fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}
