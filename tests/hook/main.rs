//! The command for each change of an agent's state: the real server, real
//! sockets, real shells.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../support/mod.rs"]
mod support;

mod desk;
mod events;
mod failures;
mod gathered;
mod processes;
mod stop;
mod stored;
