//! The token: exactly one of two processes can take it.
//!
//! An eventfd with the count 1. A read takes the whole count and leaves 0 in one step, and fails
//! at 0 (`eventfd(2)`; fs/eventfd.c does both under one lock). So exactly one of all processes
//! with a duplicate takes the token, and every other process learns that it is gone. No message
//! needs to arrive for that.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::socket::retry;

/// One process's descriptor of the token. The process that takes the token owns the
/// connections.
#[derive(Debug)]
pub struct Token {
    event: OwnedFd,
}

/// The proof that this process has taken the token. Only one process has it.
#[derive(Debug)]
pub struct Ownership(());

impl Token {
    /// Creates a token that is not taken.
    ///
    /// # Errors
    /// The error of `eventfd(2)`.
    pub fn new() -> io::Result<Self> {
        // Without EFD_SEMAPHORE: a read takes the whole count.
        let event = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event })
    }

    /// Uses a received descriptor as the token.
    ///
    /// # Errors
    /// That it is no eventfd: a read of another file could block or succeed without a token.
    pub fn from_descriptor(event: OwnedFd) -> io::Result<Self> {
        // The name of an eventfd in `proc_pid_fd(5)`.
        let path = format!("/proc/self/fd/{}", event.as_raw_fd());
        if std::fs::read_link(path)? != Path::new("anon_inode:[eventfd]") {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no eventfd",
            ));
        }
        Ok(Self { event })
    }

    /// Takes the token. Returns `None` if the other process has taken it. Never blocks.
    ///
    /// # Errors
    /// Any other error of `read(2)`; none is known.
    pub fn take(&self) -> io::Result<Option<Ownership>> {
        let mut count = [0; size_of::<u64>()];
        match retry(|| rustix::io::read(&self.event, &mut count)) {
            Ok(_) => Ok(Some(Ownership(()))),
            Err(Errno::AGAIN) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

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
                token.take().unwrap().is_some()
            };
            let taken: Vec<bool> = thread::scope(|scope| {
                let threads: Vec<_> = (0..MANY).map(|_| scope.spawn(attempt)).collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            assert_eq!(taken.iter().filter(|ours| **ours).count(), 1);
            assert!(token.take().unwrap().is_none());
        }
    }

    #[test]
    fn only_an_eventfd_is_a_token() {
        let (reader, _writer) = io::pipe().unwrap();
        let refused = Token::from_descriptor(reader.into()).unwrap_err();
        assert_eq!(refused.to_string(), "it is no eventfd");
    }
}
