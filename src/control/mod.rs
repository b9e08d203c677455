//! The control socket: requests to a running server from its own machine.
//!
//! It is a Unix stream socket. The mode of its file, 0600, restricts which users may connect
//! (unix(7)). The server accepts a request that changes it only from its own user and the
//! superuser (`SO_PEERCRED`), whatever mode an operator has set. A client sends one line, the
//! [`Request`]; the server answers with lines, the last of which is the outcome, and ends the
//! stream:
//!
//! ```text
//! client: stats                       client: upgrade /usr/local/bin/hawk
//! server: stats connections=…         server: failed: …
//!         pool class=256 …
//!         done
//! ```
//!
//! A stream that ends without a last line of this kind was cut off.
//!
//! [`Server`] is the half in an event loop and never blocks; [`ask`] is the other, which
//! blocks until a deadline.

mod client;
mod request;
mod server;
mod socket;
#[cfg(test)]
mod tests;

pub use client::{AskError, ask};
pub use request::{Answer, Request, RequestError};
pub use server::{Asker, Server};
pub use socket::ListenError;

/// Bytes of a request, its end of line included: the longest path there is (`PATH_MAX`,
/// 4,096 with its end, path_resolution(7)) would just not fit with the word before it,
/// and nobody has one.
pub const LONGEST_REQUEST: usize = 4096;
