//! What happens at each limit, and to everybody else meanwhile: the real binary,
//! real sockets, and as many agents as the limit of open files allows.
//!
//! `docs/limits.md` is the list of limits and says which test shows what; the
//! simpler cases are in `tests/server/`. Nothing here measures speed: that is
//! what `make bench-limits` is for.

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
