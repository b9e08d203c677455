//! hawk as a service of systemd: its messages, the passed socket, and its units.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod activation;
mod notify;
mod reload;
mod units;
