//! Worlds with dishonest agents, clocks and files.
//!
//! The handler, the roster, both halves of the store and SQLite are the real ones, and so are
//! the files, in memory where the machine has `/dev/shm`. The clocks are manual. The writer
//! runs on the thread of the world: the server takes a turn where the writer would wait for a
//! batch. So a seed determines everything. Sockets and sessions are absent; `tests/sim` has
//! them.

use std::process::Command;

use hawk_testkit::worlds::{Broken, Counts, Dice, Worlds};

use super::world::{Event, World};

/// Steps of one world, at least and at most.
const STEPS: (usize, usize) = (300, 4000);

/// Steps that `make test` takes.
const BUDGET: u64 = 30_000;

const WORLDS: Worlds<Counts<Event>> = Worlds {
    replay: "--test worlds dishonest::replay",
    run,
};

/// Runs the world of a seed from its start to its end.
fn run(seed: u64) -> Result<Counts<Event>, Broken> {
    let steps = Dice::new(!seed).between(STEPS.0, STEPS.1) as u64;
    World::new(seed).run(steps)
}

/// Events that take more steps than `make test` has.
const RARE: [Event; 1] = [Event::NoPlace];

/// Runs worlds in a process of its own: a full disk is a limit on the size of the files of a
/// process, and the harness of this one may write its results to a file.
#[test]
fn no_promise_is_broken() {
    let worlds = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "dishonest::bounded", "--nocapture"])
        .env_remove("HAWK_SIM_SEED")
        .output()
        .unwrap();
    let output = [worlds.stdout, worlds.stderr].concat();
    let output = String::from_utf8_lossy(&output);
    assert!(worlds.status.success(), "{output}");
    println!("{output}");
}

#[test]
#[ignore = "limits the size of files of its process: no_promise_is_broken runs it"]
fn bounded() {
    let counts = WORLDS.run_many(1, BUDGET, std::time::Duration::MAX);
    let mut missing = counts.missing();
    missing.retain(|event| !RARE.contains(event));
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn replay() {
    WORLDS.replay();
}

#[test]
#[ignore = "runs until a world breaks: make sim-dishonest"]
fn sim() {
    WORLDS.run_as_asked();
}
