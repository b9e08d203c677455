//! A mixed load with faults, for as long as one likes: whatever agents do, the
//! server keeps what it acknowledged, and gives back what it took.
//!
//! ```text
//! HAWK_SOAK=10m cargo test --release --test soak -- --ignored --nocapture
//! ```
//!
//! Good agents report evenly, beside them twice as many misbehave
//! (`hawk load --chaos`), and others read the store meanwhile. There are fewer
//! connections than agents and little memory for receive buffers, so that limits
//! are met all the time. The server's own statistics, `/proc` and the store tell
//! what came of it.

// Everything in here is a test or a test's helper: it may fail loudly, and the
// table is for whoever started it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod demands;
mod run;
mod samples;

use std::time::Duration;

use run::{Plan, run};

/// The load of the long run, on the release binary: some tenth of what a core can
/// do in a client and a server together.
const LONG: Plan = Plan {
    length: Duration::from_secs(600),
    rate: "2000",
    // Stalls take up to 25 s, and so meet both of these.
    limits: &["--frame-timeout", "5s", "--idle-timeout", "15s"],
};

/// For a debug binary on a machine that is busy with other tests: no limit of time
/// but the usual ones, which are far away.
const SHORT: Plan = Plan {
    length: Duration::from_secs(4),
    rate: "200",
    limits: &[],
};

/// What depends on time, and so on the machine, is left to the long one.
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
