//! Seamless restart: real binaries that hand over to each other, and agents that do not
//! notice.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod binary;
mod bounds;
mod builds;
mod chaos;
mod during;
mod dynasty;
#[cfg(not(debug_assertions))]
mod faultless;
#[cfg(debug_assertions)]
mod faults;
mod generations;
mod listener;
mod moving;
mod open_files;
mod refusals;
mod signals;
mod store;
mod versions;
mod witnesses;
