//! The process at the other end of a Unix socket.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials as SoPeerCred;
use rustix::process::{Pid, RawPid, Uid};

/// The user and process that connected to a socket or made a pair of sockets, as the kernel
/// recorded them then (`SO_PEERCRED`, unix(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// The effective user id at that time, as this user namespace maps it.
    pub user: Uid,
    /// `None` if the process is outside this process's PID namespace (the kernel reports 0).
    pub process: Option<Pid>,
}

impl PeerCredentials {
    /// Reads the credentials of the process at the other end of `socket`.
    ///
    /// # Errors
    /// The error of `getsockopt(2)`.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        // rustix 1.1.6 reads the process id into a type that cannot hold 0.
        let recorded = getsockopt(socket, SoPeerCred)?;
        let pid: RawPid = recorded.pid();
        Ok(Self {
            user: Uid::from_raw(recorded.uid()),
            process: Pid::from_raw(pid),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ends_of_a_pair_belong_to_this_process() {
        let (one, other) = UnixStream::pair().unwrap();
        let expected = PeerCredentials {
            user: rustix::process::getuid(),
            process: Some(rustix::process::getpid()),
        };
        assert_eq!(PeerCredentials::of(&one).unwrap(), expected);
        assert_eq!(PeerCredentials::of(&other).unwrap(), expected);
    }
}
