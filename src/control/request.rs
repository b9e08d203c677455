//! Requests and answers, and their text.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::LONGEST_REQUEST;

/// The last line of a successful answer.
const DONE: &str = "done";

/// The begin of the last line of any other answer.
const FAILED: &str = "failed: ";

/// A request to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its statistics, in the lines of the log.
    Statistics,
    /// A hand-over to a new process; the answer has its outcome.
    Upgrade {
        /// The program of the new process; `None`: the file from which this one was started.
        binary: Option<PathBuf>,
    },
    /// The operator's confirmation that the clock is right, which resumes expiry by age.
    ConfirmClock,
}

/// Why a request is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no such request.
    #[error("unknown request; there are: stats, upgrade, upgrade BINARY, confirm-clock")]
    Unknown,
    /// It has no end of line within 4,096 bytes.
    #[error("a request may have {LONGEST_REQUEST} bytes at most")]
    TooLong,
    /// The path has an end of line in it.
    #[error("a binary's path must not contain the end of a line")]
    Path,
}

impl Request {
    /// Parses a line without its end.
    ///
    /// # Errors
    /// [`RequestError::Unknown`].
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        match line {
            // Some terminals and tools end a line with two bytes. A path keeps its last byte.
            b"stats\r" | b"upgrade\r" | b"confirm-clock\r" => Self::parse(&line[..line.len() - 1]),
            b"stats" => Ok(Self::Statistics),
            b"confirm-clock" => Ok(Self::ConfirmClock),
            b"upgrade" => Ok(Self::Upgrade { binary: None }),
            _ => match line.strip_prefix(b"upgrade ") {
                Some(path) if !path.is_empty() => Ok(Self::Upgrade {
                    binary: Some(OsStr::from_bytes(path).into()),
                }),
                _ => Err(RequestError::Unknown),
            },
        }
    }

    /// Returns whether the request runs a program that the client may name, or may remove
    /// reports.
    #[must_use]
    pub const fn changes_the_server(&self) -> bool {
        match self {
            Self::Statistics => false,
            Self::Upgrade { .. } | Self::ConfirmClock => true,
        }
    }

    /// Returns the first word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Statistics => "stats",
            Self::Upgrade { .. } => "upgrade",
            Self::ConfirmClock => "confirm-clock",
        }
    }

    /// Returns the line, with its end.
    ///
    /// # Errors
    /// [`RequestError::Path`] and [`RequestError::TooLong`].
    pub fn to_line(&self) -> Result<Vec<u8>, RequestError> {
        let mut line = match self {
            Self::Statistics => b"stats".to_vec(),
            Self::ConfirmClock => b"confirm-clock".to_vec(),
            Self::Upgrade { binary: None } => b"upgrade".to_vec(),
            Self::Upgrade { binary: Some(path) } => {
                let path = path.as_os_str().as_bytes();
                if path.contains(&b'\n') {
                    return Err(RequestError::Path);
                }
                [b"upgrade ", path].concat()
            }
        };
        line.push(b'\n');
        match line.len() {
            ..=LONGEST_REQUEST => Ok(line),
            _ => Err(RequestError::TooLong),
        }
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request was carried out; the lines to print.
    Done(Vec<String>),
    /// The request failed, with the reason.
    Failed(String),
}

impl Answer {
    /// Returns the text for the socket.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (lines, (word, why)) = match self {
            Self::Done(lines) => (lines.as_slice(), (DONE, "")),
            Self::Failed(why) => (&[][..], (FAILED, why.as_str())),
        };
        let mut text = String::new();
        for line in lines {
            // An end of line within a line becomes a blank.
            text.extend(line.chars().map(|c| if c == '\n' { ' ' } else { c }));
            text.push('\n');
        }
        text.push_str(word);
        text.extend(why.chars().map(|c| if c == '\n' { ' ' } else { c }));
        text.push('\n');
        text.into_bytes()
    }

    /// Parses a whole stream; `None` if it was cut off.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_suffix('\n')?;
        let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
        let last = lines.pop()?;
        if last == DONE {
            return Some(Self::Done(lines));
        }
        let why = last.strip_prefix(FAILED)?;
        Some(Self::Failed(why.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_reads_as_it_was_written() {
        let odd = OsStr::from_bytes(b"/opt/a b/\xFF hawk ");
        for (request, written) in [
            (Request::Statistics, &b"stats\n"[..]),
            (Request::ConfirmClock, b"confirm-clock\n"),
            (Request::Upgrade { binary: None }, b"upgrade\n"),
            (
                Request::Upgrade {
                    binary: Some(odd.into()),
                },
                b"upgrade /opt/a b/\xFF hawk \n",
            ),
        ] {
            let line = request.to_line().unwrap();
            assert_eq!(line, written);
            assert_eq!(Request::parse(&line[..line.len() - 1]), Ok(request));
        }
        assert_eq!(Request::parse(b"stats\r"), Ok(Request::Statistics));
    }

    #[test]
    fn unknown_and_invalid_requests_get_different_errors() {
        for line in ["", "upgrade ", "Stats", "stats ", "upgrades", "quit"] {
            let parsed = Request::parse(line.as_bytes());
            assert_eq!(parsed, Err(RequestError::Unknown), "{line}");
        }
        let upgrade = |path: String| Request::Upgrade {
            binary: Some(path.into()),
        };
        assert_eq!(upgrade("a\nb".into()).to_line(), Err(RequestError::Path));
        let longest = LONGEST_REQUEST - "upgrade \n".len();
        assert!(upgrade("x".repeat(longest)).to_line().is_ok());
        let too_long = upgrade("x".repeat(longest + 1)).to_line();
        assert_eq!(too_long, Err(RequestError::TooLong));
    }

    #[test]
    fn an_answer_is_whole_or_cut_off() {
        let answers = [
            Answer::Done(vec![]),
            Answer::Done(vec!["a b".into(), "done".into(), "failed: x".into()]),
            Answer::Failed("no such file".into()),
        ];
        for answer in answers {
            let bytes = answer.to_bytes();
            assert_eq!(Answer::parse(&bytes), Some(answer.clone()));
            // A shorter stream is cut off, unless one of its lines looks like an outcome.
            if answer == Answer::Done(vec![]) {
                (0..bytes.len()).for_each(|cut| assert_eq!(Answer::parse(&bytes[..cut]), None));
            }
        }
        let two = Answer::Failed("two\nlines".into()).to_bytes();
        assert_eq!(two, b"failed: two lines\n");
        let two = Answer::Done(vec!["two\nlines".into()]).to_bytes();
        assert_eq!(two, b"two lines\ndone\n");
    }
}
