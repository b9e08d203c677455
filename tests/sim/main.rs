//! Simulated worlds of the event loop: the real reactor, sessions, decoder, buffer pool and
//! timers on a simulated machine. A seed determines the machine, the agents and the faults.
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
mod kernel;
mod link;
mod machine;
mod patience;
mod run;
mod samples;
mod store;
mod trace;
mod upgrade;
mod world;
