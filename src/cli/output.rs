//! How the commands speak: results on stdout, a failure in one line on stderr.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::text::harmless;

/// Whether what was written can still be read by somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// It can.
    There,
    /// Whoever read it, such as `head`, has had enough.
    Gone,
}

/// Writes a result to stdout. That nobody reads it is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(text.as_bytes()).map(|_audience| ())
}

/// Writes a part of a result to stdout.
pub(super) fn write(bytes: &[u8]) -> anyhow::Result<Audience> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Audience::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Audience::Gone),
        Err(error) => Err(error).context("cannot write to stdout"),
    }
}

/// Waits for `span`, or until stdout has no reader: the pipe's read end is closed, or the
/// terminal is gone.
pub(super) fn wait(span: Duration) -> Audience {
    let stdout = io::stdout();
    // Without a flag, poll(2) reports errors and hang-ups only.
    let mut source = [PollFd::new(&stdout, PollFlags::empty())];
    let start = Instant::now();
    let timeout = Timespec::try_from(span).ok();
    match poll(&mut source, timeout.as_ref()) {
        Ok(found) if found > 0 => Audience::Gone,
        Ok(_) => Audience::There,
        // A signal, which the process survived.
        Err(_) => {
            std::thread::sleep(span.saturating_sub(start.elapsed()));
            Audience::There
        }
    }
}

/// Says something on stderr that is no failure.
pub(super) fn note(text: &str) {
    // Without stderr there is nobody to tell.
    let _untold = io::stderr()
        .lock()
        .write_all(format!("hawk: {}\n", harmless(text)).as_bytes());
}

/// Returns the exit code of a command, and writes its error as one line to stderr.
pub(super) fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    exit_code_on(io::stderr().lock(), outcome)
}

/// Does the same with a writer that leads to stderr.
pub(super) fn exit_code_on(mut stderr: impl Write, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _untold =
                stderr.write_all(format!("hawk: {}\n", harmless(&format!("{error:#}"))).as_bytes());
            ExitCode::FAILURE
        }
    }
}
