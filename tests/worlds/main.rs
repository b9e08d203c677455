//! Simulated worlds without an event loop: the real handler, roster and store with dishonest
//! agents, clocks and files (`dishonest`), and the real queues of notification (`notified`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]
#![allow(unreachable_pub)]

mod agents;
mod dishonest;
mod files;
mod ledger;
mod notified;
mod plan;
mod server;
mod world;
