//! The store, from outside: the real server, real sockets, a real file.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod faults;
mod keeping;
mod kill;
mod liveness;
mod place;
mod retention;
mod startup;
mod tmpfs;
mod waiting;
