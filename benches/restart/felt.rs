//! The effect of upgrades on agents: their slowest round trips, beside a run without
//! upgrades.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::dynasty::{Dynasty, Keeping};
use crate::herd::Herd;
use hawk_testkit::bench::load::{Client, GRACE};
use hawk_testkit::bench::spread::{Spread, met};
use hawk_testkit::bench::{Setup, note, say};

/// How much longer p99.9 of the round trips may be, in seconds.
const LONGER: f64 = 30e-3;

/// Time between upgrades: one in every second, as seen by the load.
const EVERY: Duration = Duration::from_secs(1);

/// Turns without and with upgrades in each round. The slowest of a thousand are few, and a
/// shared disk or machine has bad moments, so many turns are needed.
const TURNS: u32 = 2;

/// In seconds, from the moment at which a report was due.
#[derive(Serialize)]
pub(crate) struct Outcome {
    store: bool,
    connections: usize,
    without: Tail,
    with: Tail,
    /// The difference with and without upgrades, for each round.
    longer: Spread,
    upgrades: usize,
    errors: f64,
}

#[derive(Serialize)]
struct Tail {
    p99_9: Spread,
    max: Spread,
}

/// The results of one turn.
struct Turn {
    p99_9: f64,
    max: f64,
    upgrades: usize,
    errors: f64,
}

/// Runs the original's load with and without upgrades, beside so many `connections`.
pub(crate) fn run(
    setup: &Setup,
    keepings: &[Keeping],
    connections: &[usize],
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for &keeping in keepings {
        for &connections in connections {
            note!("round trips, {connections} connections, {keeping:?} kept …");
            let mut dynasty = Dynasty::start(setup, keeping)?;
            let herd = Herd::gather(dynasty.address(), connections)?;
            let mut rounds = Vec::new();
            for _ in 0..setup.rounds * TURNS {
                let without = turn(setup, &mut dynasty, false)?;
                rounds.push((without, turn(setup, &mut dynasty, true)?));
            }
            herd.check()?;
            outcomes.push(Outcome::of(keeping, connections, &rounds));
        }
    }
    print(&outcomes);
    Ok(outcomes)
}

fn turn(setup: &Setup, dynasty: &mut Dynasty, upgraded: bool) -> anyhow::Result<Turn> {
    let span = setup.duration;
    let mut client = Client::start(setup, dynasty.address(), &[], span + GRACE)?;
    let begun = Instant::now();
    let mut upgrades = 0;
    while begun.elapsed() < span {
        thread::sleep(EVERY.min(span));
        if upgraded {
            dynasty.upgrade()?;
            upgrades += 1;
        }
        client.still_runs()?;
    }
    let report = client.interrupt()?;
    Ok(Turn {
        p99_9: report.latency.from_intended.p99_9 * 1e-9,
        max: report.latency.from_intended.max * 1e-9,
        upgrades,
        errors: report.errors(),
    })
}

impl Outcome {
    fn of(keeping: Keeping, connections: usize, rounds: &[(Turn, Turn)]) -> Self {
        let without = || rounds.iter().map(|(without, _)| without);
        let with = || rounds.iter().map(|(_, with)| with);
        let longer = rounds
            .iter()
            .map(|(without, with)| with.p99_9 - without.p99_9);
        Self {
            store: keeping == Keeping::Reports,
            connections,
            without: Tail {
                p99_9: Spread::of(without().map(|turn| turn.p99_9)),
                max: Spread::of(without().map(|turn| turn.max)),
            },
            with: Tail {
                p99_9: Spread::of(with().map(|turn| turn.p99_9)),
                max: Spread::of(with().map(|turn| turn.max)),
            },
            longer: Spread::of(longer),
            upgrades: with().map(|turn| turn.upgrades).sum(),
            errors: with().map(|turn| turn.errors).fold(0.0, |sum, it| sum + it),
        }
    }
}

fn print(outcomes: &[Outcome]) {
    say!("\n### Round trips\n");
    say!(
        "| store | quiet connections | upgrades | p99.9 without, ms | with, ms | longer by, ms | \
         target | | most without, ms | with, ms | errors |"
    );
    say!("|---|---|---|---|---|---|---|---|---|---|---|");
    for it in outcomes {
        say!(
            "| {} | {} | {} | {:.1} | {:.1} | {:.1} | ≤ {:.0} | {} | {:.1} | {:.1} | {} |",
            if it.store { "a file" } else { "none" },
            it.connections,
            it.upgrades,
            it.without.p99_9.scaled(1e3),
            it.with.p99_9.scaled(1e3),
            it.longer.scaled(1e3),
            LONGER * 1e3,
            met(it.longer.median <= LONGER),
            it.without.max.scaled(1e3),
            it.with.max.scaled(1e3),
            it.errors,
        );
    }
}
