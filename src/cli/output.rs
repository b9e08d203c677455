//! How the commands speak: results on stdout, a failure in one line on stderr.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;

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

/// Text from agents as it may be shown on a terminal: as it is, unless something
/// in it is not plainly visible; then quoted and escaped.
pub(super) fn visible(text: &str) -> String {
    let quoted = format!("{text:?}");
    let plain = quoted.len() == text.len() + 2 && !text.is_empty() && !text.contains(' ');
    if plain { text.to_owned() } else { quoted }
}

/// Says something on stderr that is no failure.
pub(super) fn note(text: &str) {
    // Without stderr there is nobody to tell.
    let _untold = io::stderr()
        .lock()
        .write_all(format!("hawk: {text}\n").as_bytes());
}

/// Ends a command: says in one line on stderr what went wrong, if anything.
pub(super) fn conclude(outcome: anyhow::Result<()>) -> ExitCode {
    conclude_on(io::stderr().lock(), outcome)
}

/// The same, with what leads to stderr.
pub(super) fn conclude_on(mut stderr: impl Write, outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without stderr there is nobody to tell.
            let _untold = stderr.write_all(format!("hawk: {error:#}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mislead_is_escaped() {
        assert_eq!(visible("web-01"), "web-01");
        assert_eq!(visible("späße"), "späße");
        assert_eq!(visible(""), "\"\"");
        assert_eq!(visible("a b"), "\"a b\"");
        assert_eq!(visible("\x1b[2Jx"), "\"\\u{1b}[2Jx\"");
        assert_eq!(visible("a\u{202e}b"), "\"a\\u{202e}b\"");
        assert_eq!(visible("a\"b"), "\"a\\\"b\"");
    }
}
