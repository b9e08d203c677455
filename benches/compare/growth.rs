//! How hawk's cost grows with depth, connections and the length of a frame, one at a time.

use std::time::Duration;

use serde::Serialize;

use crate::contestants::{Contestant, Field};
use crate::loads::hawk_load;
use hawk_testkit::bench::redis::ClosedLoop;
use hawk_testkit::bench::spread::Spread;
use hawk_testkit::bench::turn::{Figures, Turn};
use hawk_testkit::bench::{Setup, note, say};

/// The growing quantity, and the cost at each point.
#[derive(Serialize)]
pub(crate) struct Outcome {
    pub(crate) grows: &'static str,
    /// The constant conditions.
    pub(crate) fixed: &'static str,
    pub(crate) points: Vec<Point>,
}

#[derive(Serialize)]
pub(crate) struct Point {
    pub(crate) value: u32,
    per_second: Spread,
    pub(crate) cpu_ns_per_frame: Spread,
    resident_bytes: Spread,
}

/// One way to grow.
struct Growth {
    grows: &'static str,
    fixed: &'static str,
    values: &'static [u32],
    load: fn(u32) -> (ClosedLoop, Vec<String>),
}

const GROWTHS: &[Growth] = &[
    Growth {
        grows: "frames in flight on each connection",
        fixed: "50 connections, classic reports",
        values: &[1, 2, 4, 8, 16, 32, 64, 128, 256],
        load: |depth| (closed(50, depth), Vec::new()),
    },
    Growth {
        grows: "connections",
        fixed: "one classic report in flight on each",
        values: &[1, 10, 50, 200, 1_000, 5_000, 15_000],
        load: |connections| (closed(connections, 1), Vec::new()),
    },
    Growth {
        grows: "bytes of content in a report",
        fixed: "50 connections, 4 classic reports in flight on each",
        values: &[0, 64, 256, 1_024, 4_096, 16_384, 49_000],
        load: |bytes| (closed(50, 4), vec!["--size".into(), bytes.to_string()]),
    },
];

const fn closed(connections: u32, depth: u32) -> ClosedLoop {
    ClosedLoop { connections, depth }
}

/// There are many points, and a curve tolerates some noise: this many rounds and this much
/// time suffice.
const ROUNDS: u32 = 3;
const DURATION: Duration = Duration::from_secs(2);

pub(crate) fn run(setup: &Setup, field: &Field) -> anyhow::Result<Vec<Outcome>> {
    let setup = Setup {
        rounds: setup.rounds.min(ROUNDS),
        duration: setup.duration.min(DURATION),
        ..setup.clone()
    };
    let outcomes: Vec<_> = GROWTHS
        .iter()
        .map(|growth| grow(&setup, field, growth))
        .collect::<anyhow::Result<_>>()?;
    for outcome in &outcomes {
        print(&setup, outcome);
    }
    Ok(outcomes)
}

fn grow(setup: &Setup, field: &Field, growth: &Growth) -> anyhow::Result<Outcome> {
    note!("growth of {} …", growth.grows);
    let mut turns: Vec<Vec<Turn>> = growth.values.iter().map(|_| Vec::new()).collect();
    for _ in 0..setup.rounds {
        for (&value, turns) in growth.values.iter().zip(&mut turns) {
            let started = field.start(setup, Contestant::Hawk)?;
            let (closed, options) = (growth.load)(value);
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            turns.push(Turn::of(started.server, |server| {
                hawk_load(setup, server, closed, &options)
            })?);
        }
    }
    let points = growth.values.iter().zip(&turns).map(|(&value, turns)| {
        let figures = Figures::of(turns);
        Point {
            value,
            per_second: figures.per_second,
            cpu_ns_per_frame: figures.cpu_ns_per_frame,
            resident_bytes: figures.resident_bytes,
        }
    });
    Ok(Outcome {
        grows: growth.grows,
        fixed: growth.fixed,
        points: points.collect(),
    })
}

fn print(setup: &Setup, outcome: &Outcome) {
    let (rounds, seconds) = (setup.rounds, setup.duration.as_secs());
    say!("\n### Growth: {}\n", outcome.grows);
    say!(
        "The same at each point: {}; {rounds} rounds of {seconds} s.\n",
        outcome.fixed
    );
    say!(
        "| {} | replies, 1000/s | CPU, ns per frame | most memory, MiB |",
        outcome.grows
    );
    say!("|---|---|---|---|");
    for point in &outcome.points {
        say!(
            "| {} | {:.1} | {:.0} | {:.1} |",
            point.value,
            point.per_second.scaled(1e-3),
            point.cpu_ns_per_frame,
            point.resident_bytes.scaled(1.0 / (1024.0 * 1024.0))
        );
    }
}
