//! Faults on demand: tests observe each process while the other one fails at any step. Only
//! builds with debug assertions have them; in other builds [`fault!`] expands to nothing.
//!
//! The environment variable `HAWK_FAULT` names a file, which both processes read at each point,
//! so that a test can change it between two hand-overs. Each line is a point and its fault, or
//! a time limit in milliseconds:
//!
//! ```text
//! successor:batch-2 hang
//! deadline:pre-copy 50
//! ```
//!
//! | fault | effect |
//! |---|---|
//! | `abort`, `kill` | the process ends by this signal |
//! | `hang` | the process stops |
//! | `close` | the process shuts its end of the channel |
//! | `rubbish` | the process sends bytes that are no message |
//! | `untimely` | the process sends a message that is not allowed in the phase |
//! | `damaged` | the predecessor sends an invalid snapshot |
//! | `unsealed` | the predecessor sends a snapshot that can still change |
//!
//! After `close` and after a message a successor hangs, like a program that waits for a message
//! that it understands. A predecessor continues.
//!
//! | point of the predecessor | when |
//! |---|---|
//! | `predecessor:spawn`, `spawned` | before and after the start of the successor |
//! | `predecessor:greeted` | after its `Hello` |
//! | `predecessor:ready` | after the successor's `Ready` |
//! | `predecessor:shared` | after `Shared` |
//! | `predecessor:batch-N` | before batch N, or when no batch N follows |
//! | `predecessor:quiesce` | before the last commit |
//! | `predecessor:freeze`, `frozen` | before and after `Freeze` |
//! | `predecessor:token` | before it tries to take the token |
//! | `predecessor:handed-over` | after the successor's `Committed` |
//!
//! | point of the successor | when |
//! |---|---|
//! | `successor:greeted`, `hello` | before and after its `Hello` |
//! | `successor:ready` | before `Ready` |
//! | `successor:shared` | after the predecessor's `Shared` |
//! | `successor:batch-N`, `ack-N` | before batch N is adopted, and before its `Ack` |
//! | `successor:freeze` | after the predecessor's `Freeze` |
//! | `successor:commit`, `taken` | before and after it takes the token |
//! | `successor:committed` | after `Committed` |

/// `fault!(channel, "point")` injects the fault of this point. `fault!(limit name, usual)`
/// returns the time limit of this name, by default `usual`.
macro_rules! fault {
    (limit $name:expr, $usual:expr) => {{
        #[cfg(debug_assertions)]
        let limit = $crate::restart::fault::limit($name, $usual);
        #[cfg(not(debug_assertions))]
        let limit = $usual;
        limit
    }};
    ($channel:expr, $($point:tt)+) => {
        #[cfg(debug_assertions)]
        $crate::restart::fault::inject(&format!($($point)+), &$channel)
    };
}

#[cfg(debug_assertions)]
pub(super) use on_demand::{inject, limit};

#[cfg(debug_assertions)]
mod on_demand {
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::time::Duration;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{Shutdown, shutdown};
    use rustix::process::{Signal, getpid, kill_process};

    use crate::restart::channel::{
        MessageSocket, SealedFile, SendError, ToPredecessor, ToSuccessor, Token,
    };

    const VARIABLE: &str = "HAWK_FAULT";

    /// Neither a snapshot nor a message.
    const RUBBISH: &[u8] = b"nothing of ours";

    /// Injects the fault of `point`, if the file has one.
    pub(in crate::restart) fn inject(point: &str, channel: &impl AsFd) {
        let Some(fault) = word_for(point) else {
            return;
        };
        let done = fail(&fault, point, channel);
        assert!(done.is_ok(), "a fault that a test requested: {done:?}");
        if is_successors(point) {
            hang();
        }
    }

    /// Returns the time limit of this `name` in the file, or `usual`.
    pub(in crate::restart) fn limit(name: &str, usual: Duration) -> Duration {
        let milliseconds = word_for(&format!("deadline:{name}")).and_then(|word| word.parse().ok());
        milliseconds.map_or(usual, Duration::from_millis)
    }

    /// Returns the word after `name` in the file.
    fn word_for(name: &str) -> Option<String> {
        let file = std::fs::read_to_string(std::env::var_os(VARIABLE)?).ok()?;
        let mut lines = file.lines().filter_map(|line| line.split_once(' '));
        let (_, word) = lines.find(|(point, _)| *point == name)?;
        Some(word.to_owned())
    }

    fn is_successors(point: &str) -> bool {
        point.starts_with("successor:")
    }

    fn fail(fault: &str, point: &str, channel: &impl AsFd) -> io::Result<()> {
        match fault {
            "abort" => Ok(kill_process(getpid(), Signal::ABORT)?),
            "kill" => Ok(kill_process(getpid(), Signal::KILL)?),
            "hang" => hang(),
            "close" => Ok(shutdown(channel, Shutdown::Both)?),
            "rubbish" => send(channel, RUBBISH, &[]),
            // Each is a message of its side, and allowed at no point.
            "untimely" if is_successors(point) => send(
                channel,
                &ToPredecessor::Ack { number: u32::MAX }.encode(),
                &[],
            ),
            "untimely" => send_to_successor(channel, &ToSuccessor::Stop),
            "damaged" => send_snapshot(channel, point, owned(&SealedFile::write(RUBBISH)?)?),
            "unsealed" => {
                let file = memfd_create("hawk-unsealed", MemfdFlags::CLOEXEC)?;
                rustix::io::write(&file, RUBBISH)?;
                send_snapshot(channel, point, file)
            }
            unknown => Err(io::Error::other(format!("there is no fault {unknown}"))),
        }
    }

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }

    /// Sends the message of this point with these `records`. A freeze has a token, which is not
    /// the predecessor's.
    fn send_snapshot(channel: &impl AsFd, point: &str, records: OwnedFd) -> io::Result<()> {
        let length = RUBBISH.len() as u64;
        let sockets = Vec::new();
        let number = point.strip_prefix("predecessor:batch-");
        let message = match number.and_then(|number| number.parse().ok()) {
            Some(number) => ToSuccessor::Batch {
                number,
                length,
                records,
                sockets,
            },
            None => ToSuccessor::Freeze {
                length,
                records,
                token: owned(&Token::new()?)?,
                sockets,
            },
        };
        send_to_successor(channel, &message)
    }

    fn send_to_successor(channel: &impl AsFd, message: &ToSuccessor<OwnedFd>) -> io::Result<()> {
        let (bytes, descriptors) = message.encode();
        send(channel, &bytes, &descriptors)
    }

    /// Sends on the socket of `channel`, which does not check the phase.
    fn send(channel: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match MessageSocket::from_socket(owned(channel)?)?.send(bytes, descriptors) {
            // A process that has left receives no fault.
            Ok(()) | Err(SendError::Gone) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn owned(descriptor: &impl AsFd) -> io::Result<OwnedFd> {
        descriptor.as_fd().try_clone_to_owned()
    }
}
