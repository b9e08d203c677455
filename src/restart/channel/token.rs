//! The one thing that only one of two processes can take.
//!
//! An eventfd that was made with the count 1. A read takes the whole count and leaves 0,
//! in one step, and finds nothing when it is 0 already (`eventfd(2)`; fs/eventfd.c does
//! both under one lock). So of all that hold a duplicate of it, in whatever process,
//! exactly one takes the token, and every other one learns that it is gone. Nobody needs
//! to know whether a message about it arrived.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::socket::again;

/// A hold on the token; whoever takes it has the connections for good.
#[derive(Debug)]
pub struct Token {
    event: OwnedFd,
}

/// What came of an attempt to take the token.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Ownership),
    /// Somebody else has taken it.
    Theirs,
}

/// The proof that this process has taken the token. There is one in all the processes
/// that had a hold on it.
#[derive(Debug)]
pub struct Ownership(());

impl Token {
    /// A new token, which nobody has taken.
    ///
    /// # Errors
    /// What `eventfd(2)` says, such as that too many files are open.
    pub fn new() -> io::Result<Self> {
        // Without EFD_SEMAPHORE: a read takes all there is.
        let event = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event })
    }

    /// The token that another process has sent.
    ///
    /// # Errors
    /// That it is something else. A read of that could block, or bring what was never
    /// a token.
    pub fn from_descriptor(event: OwnedFd) -> io::Result<Self> {
        // What an eventfd is called there: `proc_pid_fd(5)`.
        let path = format!("/proc/self/fd/{}", event.as_raw_fd());
        if std::fs::read_link(path)? != Path::new("anon_inode:[eventfd]") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no eventfd",
            ));
        }
        Ok(Self { event })
    }

    /// Takes it, unless somebody has before. Never blocks.
    ///
    /// # Errors
    /// Whatever else `read(2)` says; there is nothing that it could.
    pub fn take(&self) -> io::Result<Taken> {
        let mut count = [0; size_of::<u64>()];
        match again(|| rustix::io::read(&self.event, &mut count)) {
            Ok(_) => Ok(Taken::Ours(Ownership(()))),
            Err(Errno::AGAIN) => Ok(Taken::Theirs),
            Err(error) => Err(error.into()),
        }
    }
}

/// To be sent: the other process's hold on the same token.
impl AsFd for Token {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    #[test]
    fn exactly_one_of_many_takes_it_and_all_others_learn_it() {
        const MANY: usize = 8;
        for _ in 0..200 {
            let token = Token::new().unwrap();
            let start = Barrier::new(MANY);
            let attempt = || {
                // A descriptor of its own, as another process has.
                let event = token.event.try_clone().unwrap();
                let token = Token::from_descriptor(event).unwrap();
                start.wait();
                matches!(token.take().unwrap(), Taken::Ours(_))
            };
            let taken: Vec<bool> = thread::scope(|scope| {
                let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(attempt)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().filter(|ours| **ours).count(), 1);
            assert!(matches!(token.take().unwrap(), Taken::Theirs));
        }
    }

    #[test]
    fn what_is_no_eventfd_is_no_token() {
        let (reader, _writer) = io::pipe().unwrap();
        let refused = Token::from_descriptor(reader.into()).unwrap_err();
        assert_eq!(refused.to_string(), "it is no eventfd");
    }
}
