//! What is asked, what is answered, and how both are written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::LONGEST_REQUEST;

/// The last line of an answer that says all that was asked for.
const DONE: &str = "done";

/// What the last line of any other answer begins with.
const FAILED: &str = "failed: ";

/// What a server may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Its statistics, as lines of the log.
    Statistics,
    /// To hand everything over to a new process, and to answer when it is known how
    /// that went.
    Upgrade {
        /// What the new process is to run; `None`: what this one was started from.
        binary: Option<PathBuf>,
    },
    /// To expire what is old by the clock as it is: the operator says that it is right.
    ConfirmClock,
}

/// Why something is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not one of those there are.
    #[error("unknown request; there are: stats, upgrade, upgrade BINARY, confirm-clock")]
    Unknown,
    /// It has no end within 4,096 bytes.
    #[error("a request may have {LONGEST_REQUEST} bytes at most")]
    TooLong,
    /// A path with the end of a line in it cannot be written down.
    #[error("a binary's path must not contain the end of a line")]
    Path,
}

impl Request {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// [`RequestError::Unknown`].
    pub fn parse(line: &[u8]) -> Result<Self, RequestError> {
        match line {
            // Some terminals and tools end a line with two bytes, and no path is cut for it.
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

    /// Whether the server runs a program for it, which the client may name, or may remove
    /// reports.
    #[must_use]
    pub const fn changes_the_server(&self) -> bool {
        match self {
            Self::Statistics => false,
            Self::Upgrade { .. } | Self::ConfirmClock => true,
        }
    }

    /// Its first word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Statistics => "stats",
            Self::Upgrade { .. } => "upgrade",
            Self::ConfirmClock => "confirm-clock",
        }
    }

    /// The line, with its end.
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

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done; what there is to tell, line by line.
    Done(Vec<String>),
    /// It was not, and why.
    Failed(String),
}

impl Answer {
    /// As it goes over the socket.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (lines, (word, why)) = match self {
            Self::Done(lines) => (lines.as_slice(), (DONE, "")),
            Self::Failed(why) => (&[][..], (FAILED, why.as_str())),
        };
        let mut text = String::new();
        for line in lines {
            // A line is one line, whatever is in it.
            text.extend(line.chars().map(|c| if c == '\n' { ' ' } else { c }));
            text.push('\n');
        }
        text.push_str(word);
        text.extend(why.chars().map(|c| if c == '\n' { ' ' } else { c }));
        text.push('\n');
        text.into_bytes()
    }

    /// Reads what came up to the end of the stream; `None`: it was cut off.
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
    fn what_is_no_request_is_told_apart() {
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
            // No other ending is taken for one, but where a line happens to be its like.
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
