//! The client: one request, and its answer.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use super::request::{Answer, Request, RequestError};
use super::socket::TOO_LONG;

/// The longest answer in bytes. Answers have a few lines of some hundred bytes; a longer
/// stream is not of this protocol.
const LONGEST_ANSWER: usize = 1 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The request is invalid.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No server listens at the path.
    #[error(
        "cannot connect to the control socket {}: {error}{}",
        path.display(),
        hint(path, error)
    )]
    Unreachable {
        /// The path of the socket.
        path: PathBuf,
        /// The error of connect(2).
        error: io::Error,
    },
    /// The answer took too long.
    #[error(
        "the server at {} did not answer in time; see whether it is stopped, or has many clients \
         there that send no request",
        .0.display()
    )]
    TimedOut(PathBuf),
    /// The connection ended before the end of the answer.
    #[error("the server at {} ended before it had answered", .0.display())]
    CutOff(PathBuf),
    /// The server's reason.
    #[error("{0}")]
    Failed(String),
}

/// Returns what to do about it.
fn hint(path: &Path, error: &io::Error) -> &'static str {
    let is_socket = || fs::metadata(path).is_ok_and(|file| file.file_type().is_socket());
    match error.kind() {
        // connect(2) fails so for any other file.
        io::ErrorKind::ConnectionRefused if !is_socket() => "; it is no socket",
        io::ErrorKind::PermissionDenied => "; it is for the user that the server has",
        io::ErrorKind::InvalidInput => TOO_LONG,
        _ => "; is the server running, with --control?",
    }
}

/// Sends a request to the server at `path`, and returns the lines of its answer. Takes at most
/// `patience` in all.
///
/// # Errors
/// [`AskError`].
pub fn ask(path: &Path, request: &Request, patience: Duration) -> Result<Vec<String>, AskError> {
    let line = request.to_line()?;
    let deadline = Instant::now() + patience;
    let mut socket = connect(path, patience).map_err(|error| match error.kind() {
        // The backlog stays full.
        io::ErrorKind::WouldBlock => AskError::TimedOut(path.to_owned()),
        _ => AskError::Unreachable {
            path: path.to_owned(),
            error,
        },
    })?;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::TimedOut(path.to_owned()),
        _ => AskError::CutOff(path.to_owned()),
    };
    // A server that refuses early may close before it has the whole request. Its answer can
    // still be read.
    let _refused = socket.write_all(&line);
    let bytes = read_to_end(&mut socket, deadline).map_err(failed)?;
    match Answer::parse(&bytes) {
        Some(Answer::Done(lines)) => Ok(lines),
        Some(Answer::Failed(why)) => Err(AskError::Failed(why)),
        None => Err(AskError::CutOff(path.to_owned())),
    }
}

/// Connects; waits for a place in the backlog for at most `patience`: `SO_SNDTIMEO`
/// (socket(7)) applies to connect(2), too.
fn connect(path: &Path, patience: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

fn read_to_end(socket: &mut Socket, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut space = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut space) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&space[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The server has answered without reading the rest of the request.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(bytes),
            Err(error) => return Err(error),
        }
        if bytes.len() > LONGEST_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}
