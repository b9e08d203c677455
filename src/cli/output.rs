//! The output of commands: results on stdout, an error as one line on stderr.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::text::harmless;

/// Whether stdout still has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    /// It has.
    There,
    /// The reader, such as `head`, has closed its end.
    Gone,
}

/// Writes a result to stdout. A missing reader is no error.
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
        // A signal.
        Err(_) => {
            std::thread::sleep(span.saturating_sub(start.elapsed()));
            Audience::There
        }
    }
}

/// Writes a note to stderr.
pub(super) fn note(text: &str) {
    // An error of stderr has no place to be reported.
    let _unwritten = io::stderr()
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
            // An error of stderr has no place to be reported.
            let _unwritten =
                stderr.write_all(format!("hawk: {}\n", harmless(&format!("{error:#}"))).as_bytes());
            ExitCode::FAILURE
        }
    }
}
