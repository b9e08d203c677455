//! Faults on demand, so that tests see what either process does when the other one fails at
//! any step. Only builds with debug assertions have them; in others nothing is looked at.
//!
//! The environment variable `HAWK_FAULT` names a file, which is read at each [`Point`]: a
//! test can change it between two attempts, and both processes read the same one. Each line
//! is a point and what happens there, or how long a step may take, in milliseconds:
//!
//! ```text
//! successor:batch-2 hang
//! deadline:pre-copy 50
//! ```
//!
//! | fault | what the process does |
//! |---|---|
//! | `abort`, `kill` | ends by this signal |
//! | `hang` | nothing any more |
//! | `close` | shuts its end of the line |
//! | `rubbish` | says what is no message |
//! | `untimely` | says what is not due |
//! | `damaged` | sends a snapshot that makes no sense; the predecessor alone has any |
//! | `unsealed` | sends one that could still change; likewise |
//!
//! When it has said something, or shut its end, a successor hangs, as some other program
//! may that waits for what it understands. A predecessor goes on.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::restart::channel::Step;

/// Where a process can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    /// The predecessor is about to start the successor.
    PredecessorSpawn,
    /// It has, and said nothing.
    PredecessorSpawned,
    /// It has said hello.
    PredecessorGreeted,
    /// It hears that the successor is set up.
    PredecessorReady,
    /// It has shared what there is one of.
    PredecessorShared,
    /// It is about to send this batch, or sees that there is none any more.
    PredecessorBatch(u32),
    /// It is about to wait for the last commit.
    PredecessorQuiesce,
    /// It stands still, and has not said so.
    PredecessorFreeze,
    /// It has given the token away.
    PredecessorFrozen,
    /// It has heard, or not, what became of it, and is about to look.
    PredecessorToken,
    /// It knows that the successor has taken it.
    PredecessorHandedOver,
    /// The successor has heard hello.
    SuccessorGreeted,
    /// It has said hello. Its arguments and the store are what it looks at next.
    SuccessorHello,
    /// It is set up, and has not said so.
    SuccessorReady,
    /// It has the listener.
    SuccessorShared,
    /// It has heard this batch.
    SuccessorBatch(u32),
    /// It has taken it in.
    SuccessorAck(u32),
    /// It has heard the last snapshot, and has the token within reach.
    SuccessorFreeze,
    /// It is about to take the token.
    SuccessorCommit,
    /// It has taken it, and has not said so.
    SuccessorTaken,
    /// It has said so, and its first turn is due.
    SuccessorCommitted,
}

#[cfg(debug_assertions)]
pub(super) use on_demand::{at, deadline, patience};

#[cfg(not(debug_assertions))]
pub(super) use never::{at, deadline, patience};

#[cfg(not(debug_assertions))]
mod never {
    use super::{AsFd, Duration, Point, Step};

    pub(in crate::restart) const fn at(_: Point, _line: &impl AsFd) {}

    pub(in crate::restart) const fn deadline(_: Step, usual: Duration) -> Duration {
        usual
    }

    pub(in crate::restart) const fn patience(usual: Duration) -> Duration {
        usual
    }
}

#[cfg(debug_assertions)]
mod on_demand {
    use std::io;
    use std::os::fd::{BorrowedFd, OwnedFd};

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{Shutdown, shutdown};
    use rustix::process::{Signal, getpid, kill_process};

    use super::{AsFd, Duration, Point, Step};
    use crate::restart::channel::{Channel, Sealed, SendError, ToPredecessor, ToSuccessor, Token};

    /// Names the file.
    const VARIABLE: &str = "HAWK_FAULT";

    /// What is no snapshot, and no message.
    const RUBBISH: &[u8] = b"nothing of ours";

    /// Has this process fail at this point, if it is to. Its end of the line is `line`.
    pub(in crate::restart) fn at(point: Point, line: &impl AsFd) {
        let Some(fault) = word_for(&point.name()) else {
            return;
        };
        let done = fail(&fault, point, line);
        assert!(done.is_ok(), "a fault that a test asked for: {done:?}");
        if point.is_successors() {
            hang();
        }
    }

    /// How long `step` may take, if not as long as `usual`.
    pub(in crate::restart) fn deadline(step: Step, usual: Duration) -> Duration {
        span_for(&format!("deadline:{step}"), usual)
    }

    /// How long the successor waits for the predecessor, if not as long as `usual`.
    pub(in crate::restart) fn patience(usual: Duration) -> Duration {
        span_for("deadline:patience", usual)
    }

    fn span_for(name: &str, usual: Duration) -> Duration {
        let milliseconds = word_for(name).and_then(|word| word.parse().ok());
        milliseconds.map_or(usual, Duration::from_millis)
    }

    /// The word behind `name` in the file.
    fn word_for(name: &str) -> Option<String> {
        let file = std::fs::read_to_string(std::env::var_os(VARIABLE)?).ok()?;
        let mut lines = file.lines().filter_map(|line| line.split_once(' '));
        let (_, word) = lines.find(|(point, _)| *point == name)?;
        Some(word.to_owned())
    }

    fn fail(fault: &str, point: Point, line: &impl AsFd) -> io::Result<()> {
        match fault {
            "abort" => Ok(kill_process(getpid(), Signal::ABORT)?),
            "kill" => Ok(kill_process(getpid(), Signal::KILL)?),
            "hang" => hang(),
            "close" => Ok(shutdown(line, Shutdown::Both)?),
            "rubbish" => say(line, RUBBISH, &[]),
            // Each is a message of its side, and due at no point.
            "untimely" if point.is_successors() => {
                say(line, &ToPredecessor::Ack { number: u32::MAX }.encode(), &[])
            }
            "untimely" => say_to_successor(line, &ToSuccessor::Stop),
            "damaged" => send_snapshot(line, point, owned(&Sealed::write(RUBBISH)?)?),
            "unsealed" => {
                let file = memfd_create("hawk-unsealed", MemfdFlags::CLOEXEC)?;
                rustix::io::write(&file, RUBBISH)?;
                send_snapshot(line, point, file)
            }
            unknown => Err(io::Error::other(format!("there is no fault {unknown}"))),
        }
    }

    fn hang() -> ! {
        loop {
            std::thread::park();
        }
    }

    /// What the predecessor sends at this point, with these `records`. There is a token in
    /// the last snapshot, though not the one.
    fn send_snapshot(line: &impl AsFd, point: Point, records: OwnedFd) -> io::Result<()> {
        let length = RUBBISH.len() as u64;
        let sockets = Vec::new();
        say_to_successor(
            line,
            &match point {
                Point::PredecessorBatch(number) => ToSuccessor::Batch {
                    number,
                    length,
                    records,
                    sockets,
                },
                _ => ToSuccessor::Freeze {
                    length,
                    records,
                    token: owned(&Token::new()?)?,
                    sockets,
                },
            },
        )
    }

    fn say_to_successor(line: &impl AsFd, message: &ToSuccessor<OwnedFd>) -> io::Result<()> {
        let (bytes, descriptors) = message.encode();
        say(line, &bytes, &descriptors)
    }

    /// Past the order of messages, of which `line` keeps the books.
    fn say(line: &impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        match Channel::from_socket(owned(line)?)?.send(bytes, descriptors) {
            // Whoever has left hears nothing wrong either.
            Ok(()) | Err(SendError::Gone) => Ok(()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn owned(descriptor: &impl AsFd) -> io::Result<OwnedFd> {
        descriptor.as_fd().try_clone_to_owned()
    }

    impl Point {
        fn is_successors(self) -> bool {
            self.name().starts_with("successor:")
        }

        /// As a line of the file has it.
        fn name(self) -> String {
            let name = match self {
                Self::PredecessorSpawn => "predecessor:spawn",
                Self::PredecessorSpawned => "predecessor:spawned",
                Self::PredecessorGreeted => "predecessor:greeted",
                Self::PredecessorReady => "predecessor:ready",
                Self::PredecessorShared => "predecessor:shared",
                Self::PredecessorBatch(number) => return format!("predecessor:batch-{number}"),
                Self::PredecessorQuiesce => "predecessor:quiesce",
                Self::PredecessorFreeze => "predecessor:freeze",
                Self::PredecessorFrozen => "predecessor:frozen",
                Self::PredecessorToken => "predecessor:token",
                Self::PredecessorHandedOver => "predecessor:handed-over",
                Self::SuccessorGreeted => "successor:greeted",
                Self::SuccessorHello => "successor:hello",
                Self::SuccessorReady => "successor:ready",
                Self::SuccessorShared => "successor:shared",
                Self::SuccessorBatch(number) => return format!("successor:batch-{number}"),
                Self::SuccessorAck(number) => return format!("successor:ack-{number}"),
                Self::SuccessorFreeze => "successor:freeze",
                Self::SuccessorCommit => "successor:commit",
                Self::SuccessorTaken => "successor:taken",
                Self::SuccessorCommitted => "successor:committed",
            };
            name.to_owned()
        }
    }
}
