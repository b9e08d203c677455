//! Finding a server, and saying in one line why it cannot be reached.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};

/// Why there is no connection to a server.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address names no host, or is none.
    #[error(
        "cannot find {address}: {reason}; write it like 127.0.0.1:9876, [::1]:9876 or host:9876"
    )]
    Unknown {
        /// As the user wrote it.
        address: String,
        /// The resolver's words.
        reason: String,
    },
    /// No server takes connections there.
    #[error(
        "cannot connect to {address}: {reason}; is the server running there? start one with: hawk serve"
    )]
    Unreachable {
        /// As the user wrote it.
        address: String,
        /// What the attempt met.
        reason: String,
    },
}

impl DialError {
    /// Reports that no server takes connections at `address`; `error` is the cause.
    #[must_use]
    pub fn unreachable(address: &str, error: &io::Error) -> Self {
        Self::Unreachable {
            address: address.to_owned(),
            reason: reason(error),
        }
    }
}

/// All addresses that `address`, a host or number with a port, stands for: one
/// at least.
///
/// # Errors
/// [`DialError::Unknown`] if there is none.
pub fn look_up(address: &str) -> Result<Vec<SocketAddr>, DialError> {
    let unknown = |reason| DialError::Unknown {
        address: address.to_owned(),
        reason,
    };
    let found: Vec<_> = address
        .to_socket_addrs()
        .map_err(|error| unknown(reason(&error)))?
        .collect();
    if found.is_empty() {
        return Err(unknown("the name has no address".into()));
    }
    Ok(found)
}

/// An error's cause in a few lower-case words, without the system's number.
#[must_use]
pub fn reason(error: &io::Error) -> String {
    use io::ErrorKind as K;
    match error.kind() {
        // What a socket with a time limit says.
        K::WouldBlock => K::TimedOut.to_string(),
        K::ConnectionRefused
        | K::ConnectionReset
        | K::ConnectionAborted
        | K::BrokenPipe
        | K::TimedOut
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::AddrNotAvailable => error.kind().to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_names_or_numbers_with_a_port() {
        assert_eq!(
            look_up("127.0.0.1:9876").unwrap(),
            [SocketAddr::from(([127, 0, 0, 1], 9876))]
        );
        assert_eq!(
            look_up("[::1]:80").unwrap(),
            [SocketAddr::new("::1".parse().unwrap(), 80)]
        );
        assert!(look_up("localhost:1").unwrap()[0].ip().is_loopback());
        for bad in ["127.0.0.1", "::1", "", "127.0.0.1:http"] {
            let found = look_up(bad);
            assert!(matches!(found, Err(DialError::Unknown { .. })), "{bad}");
        }
    }

    #[test]
    fn reasons_are_words_without_numbers() {
        let error = io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        assert_eq!(reason(&error), "connection refused");
    }
}
