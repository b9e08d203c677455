//! The control socket: requests to a running server from its own machine.
//!
//! Owns the socket's file, its clients and the text protocol. Must not know what a request
//! does: the main loop carries it out and [answers](Server::answer).
//!
//! It is a Unix stream socket. The mode of its file, 0600, restricts which users may connect
//! (unix(7)). The server accepts a request that changes it only from its own user and the
//! superuser (`SO_PEERCRED`), whatever mode an operator has set. A client sends one line, the
//! [`Request`]; the server answers with lines, the last of which is the outcome, and closes the
//! stream:
//!
//! ```text
//! client: stats                       client: upgrade /usr/local/bin/hawk
//! server: stats connections=…         server: failed: …
//!         pool class=256 …
//!         done
//! ```
//!
//! A stream that ends without such a last line was cut off. The lines are text for operators
//! with `nc`, and for clients of another build than the server's.
//!
//! Start at [`Server`], which runs in an event loop and never blocks, and at [`ask`], the
//! client, which blocks until a deadline.

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

/// The longest request in bytes, with its end of line. The longest possible path (`PATH_MAX`,
/// 4,096 bytes with its end, path_resolution(7)) does not fit with the word before it.
pub const LONGEST_REQUEST: usize = 4096;
