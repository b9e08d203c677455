//! The tests: many worlds, one after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use hawk::stats::Cause;
use hawk_testkit::worlds::{self, Dice, Tally as _, Worlds};

use super::counts::{Counts, Event};
use super::world::{Broken, World};

/// Steps of one world, at least and at most.
const STEPS: (usize, usize) = (500, 6000);

/// Steps that `make test` takes.
const BUDGET: u64 = 250_000;

const WORLDS: Worlds<Counts> = Worlds {
    replay: "--test sim replay",
    run,
};

/// Runs the world of a seed from its start to its end.
fn run(seed: u64) -> Result<Counts, worlds::Broken> {
    let steps = Dice::new(!seed).between(STEPS.0, STEPS.1) as u64;
    let world = World::new(seed);
    let machine = world.machine();
    let end = catch_unwind(AssertUnwindSafe(|| world.run(steps))).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        let (step, trace) = match machine.try_borrow() {
            Ok(machine) => (machine.counts.steps(), machine.tell_trace()),
            Err(_) => (0, String::new()),
        };
        Err(Broken {
            step,
            what: "a panic",
            more: message.unwrap_or_default(),
            port: 0,
            trace,
        })
    });
    end.map_err(|broken| worlds::Broken {
        step: broken.step,
        report: format!(
            "{} (port {}) {}\nlast events:\n{}",
            broken.what, broken.port, broken.more, broken.trace
        ),
    })
}

#[test]
fn no_invariant_breaks() {
    let counts = WORLDS.run_many(1, BUDGET, Duration::MAX);
    let mut missing = counts.events.missing();
    // That so many long frames are partial when the pool shrinks is too rare to wait for.
    missing.retain(|event| *event != Event::AdoptWithoutRoom);
    assert!(missing.is_empty(), "never happened: {missing:?}");
    let closed = Cause::ALL.into_iter().zip(counts.closed);
    let missing: Vec<_> = closed.filter(|(_, count)| *count == 0).collect();
    assert!(missing.is_empty(), "no connection closed for: {missing:?}");
}

#[test]
fn a_seed_determines_its_world() {
    let traces = [(); 2].map(|()| {
        let world = World::new(7);
        let machine = world.machine();
        assert!(world.run(2000).is_ok());
        let machine = machine.borrow();
        (machine.now, machine.bytes, machine.tell_trace())
    });
    assert_eq!(traces[0], traces[1]);
}

/// Seeds that found a fault of the server or of a check, and enough steps to find it again.
const FOUND: [(u64, u64); 4] = [
    // A connection with a pending reply, closed by its agent, waited for the rate of its address.
    (70_003_933, 3000),
    // A connection read the rest of its frame and got a buffer from the queue of its host, before
    // connections of other hosts: a check took that for a read beyond the end of the frame.
    (70_000_918, 3000),
    (70_004_631, 4219),
    (70_006_663, 1500),
];

#[test]
fn worlds_that_found_a_fault_find_none() {
    for (seed, steps) in FOUND {
        let outcome = World::new(seed).run(steps).map_err(|broken| broken.what);
        assert!(outcome.is_ok(), "seed {seed}: {:?}", outcome.err());
    }
}

#[test]
fn replay() {
    WORLDS.replay();
}

#[test]
#[ignore = "runs until a world breaks: make sim"]
fn sim() {
    WORLDS.run_as_asked();
}
