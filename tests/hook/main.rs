//! The commands for changes of agents' states: the real server, sockets and shells.

#![allow(clippy::unwrap_used, clippy::panic)]

mod desk;
mod events;
mod failures;
mod gathered;
mod processes;
mod stop;
mod stored;
