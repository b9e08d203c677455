//! The server's behaviour at each limit, towards all agents: the real binary, real sockets,
//! and as many agents as the limit of open files allows.
//!
//! `docs/limits.md` lists the limits with their tests; the simpler cases are in
//! `tests/server/`. `make bench-limits` measures speed, these tests do not.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod crowd;
mod descriptors;
mod flood;
mod junk;
mod loris;
mod names;
mod pool;
mod readers;
mod storm;
