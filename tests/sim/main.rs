//! The server's heart in a simulated world: the real event loop, sessions, decoder,
//! pool and timers on a machine that a seed decides everything of.
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

mod agent;
mod checks;
mod conversation;
mod counts;
mod damage;
mod dice;
mod dishonest;
mod kernel;
mod link;
mod machine;
mod notified;
mod patience;
mod run;
mod samples;
mod store;
mod trace;
mod upgrade;
mod world;
