//! The test kit: starts the real server and talks to it as agents do. Tests, benchmarks and
//! fuzz targets depend on it; the server and its libraries do not.
//!
//! Nothing here sleeps to let something happen: each wait is for a line, a byte or a state,
//! and panics with the whole log after [`PATIENCE`].
//!
//! | part | what it owns |
//! |---|---|
//! | [`Server`], [`Launch`], [`Process`] | a server process: its options, addresses, log and end |
//! | [`Agent`], [`Lines`], `frames` | an agent's connection, reply lines, frames to send |
//! | [`Stats`], [`Fields`] | `key=value` lines and snapshots of statistics |
//! | [`store_file`] | a store file for a test, and what is in it |
//! | [`Clock`], [`Halt`], [`Suspended`] | time that passes, and processes that stand still |
//! | [`Namespace`], [`ListenDrops`], `descriptors` | what the kernel gives and counts |
//! | [`emulated`] | a machine of its own under an emulator |
//! | [`in_process`], [`worlds`] | the server within the test's process |
//! | [`mod@reference`] | a second implementation of frames, to compare with |
//! | [`operations`] | single operations on fixed inputs, for benchmarks |
//! | [`mod@bench`] | rounds, tables, loads and peers of the benchmarks |
//!
//! Start at [`Server::start`] and [`Agent`].

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
pub mod reference;
mod server;
mod stats;
pub mod store_file;
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

/// Time between two polls of a state that raises no event.
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

/// Sets a flag when dropped, also by a panic, so that threads which poll it end and can be
/// joined.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the end of a process that is no child of ours. That it is reaped is not
/// waited for: the process that reaps orphans may take its time.
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
#[allow(clippy::print_stderr)] // The skipped test is to be seen.
pub fn skip(why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!in_ci, "CI must not skip this test: {why}");
    eprintln!("SKIPPED: {why}");
}

/// Returns the number in this environment variable, if it is set.
#[track_caller]
pub fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}
