//! Worlds by the dozen.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hawk::stats::Cause;

use super::counts::{Counts, Event};
use super::dice::Dice;
use super::world::{Broken, World};

/// Steps of one world, at least and at most.
const STEPS: (usize, usize) = (500, 6000);

/// Steps that `make test` tries.
const BUDGET: u64 = 250_000;

/// One world, from the beginning to its end.
fn live(seed: u64) -> Result<Counts, Broken> {
    let steps = Dice::new(!seed).between(STEPS.0, STEPS.1) as u64;
    let world = World::new(seed);
    let machine = world.machine();
    match catch_unwind(AssertUnwindSafe(|| world.run(steps))) {
        Ok(end) => end,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            let (step, trace) = match machine.try_borrow() {
                Ok(machine) => (machine.counts.steps(), machine.tell_trace()),
                Err(_) => (0, String::new()),
            };
            Err(Broken {
                step,
                what: "a panic",
                more: said.unwrap_or_default(),
                port: 0,
                trace,
            })
        }
    }
}

/// Lives worlds from `first` on until they have had so many steps, or for so long.
fn live_many(first: u64, steps: u64, time: Duration) -> Counts {
    let (begun, busy) = (Instant::now(), busy());
    let mut counts = Counts::default();
    let mut seed = first;
    while counts.steps() < steps && begun.elapsed() < time {
        match live(seed) {
            Ok(more) => counts.add(&more),
            Err(broken) => {
                let all = counts.steps() + broken.step;
                panic!("{}", tell(seed, all, &broken));
            }
        }
        seed += 1;
    }
    let speed = |time: Duration| counts.steps() as f64 / time.as_secs_f64();
    println!(
        "seeds {first} to {}: {} steps, no broken invariant",
        seed - 1,
        counts.steps()
    );
    println!("{:.0} steps a second", speed(begun.elapsed()));
    println!(
        "{:.0} steps a second of the processor",
        speed(self::busy() - busy)
    );
    for event in Event::ALL {
        println!("{:>12} {event:?}", counts.of(event));
    }
    for (cause, count) in Cause::ALL.into_iter().zip(counts.closed) {
        println!("{count:>12} closed: {}", cause.name());
    }
    counts
}

/// For how long the processor has worked for this thread. On a machine that others use
/// too, only this tells how quick we are.
fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn tell(seed: u64, all: u64, broken: &Broken) -> String {
    let Broken {
        step,
        what,
        more,
        port,
        trace,
    } = broken;
    let release = if cfg!(debug_assertions) {
        ""
    } else {
        " --release"
    };
    format!(
        "broken: {what} (port {port}) {more}\nseed={seed} step={step} steps_in_all={all}\n\
         the last that happened:\n{trace}\
         to replay: HAWK_SIM_SEED={seed} cargo test{release} --test sim replay -- --nocapture"
    )
}

pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let digits = text.replace('_', "");
    Some(
        digits
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
    )
}

#[test]
fn no_invariant_breaks() {
    let counts = live_many(1, BUDGET, Duration::MAX);
    let missed: Vec<_> = Event::ALL
        .into_iter()
        // That so many long frames are begun when the pool shrinks is too rare to wait for.
        .filter(|event| counts.of(*event) == 0 && *event != Event::AdoptWithoutRoom)
        .collect();
    assert!(missed.is_empty(), "never happened: {missed:?}");
    let closed = Cause::ALL.into_iter().zip(counts.closed);
    let missed: Vec<_> = closed.filter(|(_, count)| *count == 0).collect();
    assert!(missed.is_empty(), "nobody was closed for: {missed:?}");
}

#[test]
fn a_seed_tells_everything() {
    let traces = [(); 2].map(|()| {
        let world = World::new(7);
        let machine = world.machine();
        assert!(world.run(2000).is_ok());
        let machine = machine.borrow();
        (machine.now, machine.bytes, machine.tell_trace())
    });
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn replay() {
    if let Some(seed) = number("HAWK_SIM_SEED")
        && let Err(broken) = live(seed)
    {
        panic!("{}", tell(seed, broken.step, &broken));
    }
}

#[test]
#[ignore = "runs as long as you like: make sim"]
fn sim() {
    let steps = number("HAWK_SIM_STEPS").unwrap_or(u64::MAX);
    let time = number("HAWK_SIM_TIME").map_or(Duration::MAX, Duration::from_secs);
    let first = number("HAWK_SIM_SEED").unwrap_or(1);
    live_many(first, steps, time);
}
