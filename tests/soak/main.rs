//! A mixed load with faults, for any time: the server keeps every acknowledged report, and
//! leaks no resource.
//!
//! ```text
//! HAWK_SOAK=10m cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! Good agents report evenly, twice as many misbehave (`hawk load --chaos`), and other
//! programs read the store. There are fewer connections than agents and little memory for
//! receive buffers, so that the server is at its limits all the time. The server's
//! statistics, `/proc` and the store show the result.

// All code in here is a test or a test's helper: it may fail loudly, and it prints a table.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod demands;
mod run;
mod samples;

use std::time::Duration;

use run::{Plan, run};

/// The load of the long run, on the release binary: some tenth of the rate that client and
/// server reach together on one core.
const LONG: Plan = Plan {
    length: Duration::from_secs(600),
    rate: "2000",
    // Stalls take up to 25 s, and so reach both timeouts.
    limits: &["--frame-timeout", "5s", "--idle-timeout", "15s"],
};

/// For a debug binary on a machine that is busy with other tests: only the usual timeouts,
/// which are long.
const SHORT: Plan = Plan {
    length: Duration::from_secs(4),
    rate: "200",
    limits: &[],
};

/// Only the long run judges demands that depend on time, and so on the machine.
#[test]
fn a_short_soak_leaves_nothing_behind() {
    let soak = run(&SHORT);
    demands::expect(&soak.balance());
}

#[test]
#[ignore = "takes 10 minutes, or HAWK_SOAK; make soak"]
fn a_long_soak_leaves_nothing_behind_and_memory_flat() {
    let length = std::env::var("HAWK_SOAK").map_or(LONG.length, |text| {
        humantime::parse_duration(&text).expect("HAWK_SOAK is a time such as 10m")
    });
    let soak = run(&Plan { length, ..LONG });
    demands::expect(&[soak.balance(), soak.steadiness()].concat());
}
