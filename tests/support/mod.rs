//! What tests need to start the real server and to talk to it as agents do.
//!
//! Nothing here sleeps to let something happen: every wait is for a line, a
//! byte or a state, and ends in a panic with the whole log after [`PATIENCE`].

#![allow(
    dead_code,
    unused_imports,
    reason = "each test crate that includes this uses a part of it"
)]

mod agent;
mod clock;
mod descriptors;
mod frames;
pub(crate) mod in_process;
mod kernel;
mod lines;
mod namespace;
mod server;
mod stats;
mod trace;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

pub(crate) use agent::{Agent, source};
pub(crate) use clock::Clock;
pub(crate) use descriptors::*;
pub(crate) use frames::*;
pub(crate) use kernel::ListenDrops;
pub(crate) use lines::{Fields, Lines};
pub(crate) use namespace::Namespace;
pub(crate) use server::{Exit, Launch, Process, Server, Suspended};
pub(crate) use stats::{CLASSES, Stats};
pub(crate) use trace::{Halt, can_trace};

/// How long anything that must happen may take. Generous, because machines
/// that run tests are slow and shared; only a failure ever takes as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two looks at a state that nobody announces.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Looks until `look` finds something; `None` when [`PATIENCE`] is at its end.
pub(crate) fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
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
pub(crate) struct SetAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits for the end of a process that is no child of ours. That it is reaped is not
/// waited for: whoever reaps orphans may take its time.
pub(crate) fn has_ended_within(pid: Pid, patience: Duration) -> bool {
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
pub(crate) fn lines_allowed(start: Instant) -> usize {
    usize::try_from(start.elapsed().as_secs() / 10).unwrap() + 1
}

/// Says that a test shows nothing on this machine, and why. Where `CI` is `true`
/// that is a failure.
#[track_caller]
#[allow(clippy::print_stderr)] // Whoever runs the tests must hear of it.
pub(crate) fn skip(why: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!in_ci, "CI must not skip this test: {why}");
    eprintln!("SKIPPED: {why}");
}

/// The number that whoever runs the tests has set, if it is set.
#[track_caller]
pub(crate) fn number<T: std::str::FromStr>(variable: &str) -> Option<T> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number: {text}")),
    )
}
