//! The command for each change of an agent's state: the real server, real
//! sockets, real shells.

#![allow(clippy::unwrap_used, clippy::panic)]

mod desk;
mod events;
mod failures;
mod gathered;
mod processes;
mod stop;
mod stored;
