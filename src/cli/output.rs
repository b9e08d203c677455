//! How the commands speak: results on stdout, a failure in one line on stderr.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;

/// Writes a result to stdout. That nobody reads it is no failure.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// Ends a command: says in one line what went wrong, if anything.
pub(super) fn conclude(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _untold = writeln!(io::stderr().lock(), "hawk: {error:#}");
            ExitCode::FAILURE
        }
    }
}
