//! How long agents are not served while a new process takes over, by the number of
//! connections.

use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::dynasty::{Dynasty, Keeping, Upgrade};
use crate::herd::Herd;
use hawk_testkit::bench::load::{Client, GRACE};
use hawk_testkit::bench::spread::{met, quantile};
use hawk_testkit::bench::{Setup, note, say};

/// The targets of the pause: its median, and its p99.
const MEDIAN: f64 = 5e-3;
const P99: f64 = 25e-3;

/// For this many connections.
const AT: usize = 15_000;

/// Between two upgrades: load for the process that serves.
pub(crate) const BETWEEN: Duration = Duration::from_millis(50);

/// The load beside the quiet agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    None,
    /// 2,100 reports a second on 7 connections.
    Original,
    /// 50 connections that send as soon as they are answered.
    Busy,
}

impl Load {
    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Original => "the original's",
            Self::Busy => "50 busy connections",
        }
    }

    pub(crate) const fn arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::None => None,
            Self::Original => Some(&[]),
            Self::Busy => Some(&["--saturate", "--connections", "50", "--depth", "1"]),
        }
    }
}

/// The results of all upgrades at one point. Times are in seconds.
#[derive(Serialize)]
pub(crate) struct Outcome {
    store: bool,
    load: &'static str,
    pub(crate) connections: usize,
    upgrades: usize,
    pub(crate) pause: Quantiles,
    precopy: Quantiles,
    quiesce: Quantiles,
    /// Pre-copy and pause together.
    pub(crate) all: Quantiles,
    state_bytes: f64,
    errors: f64,
}

#[derive(Clone, Copy, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) median: f64,
    pub(crate) p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let figures: Vec<f64> = figures.collect();
        Self {
            median: quantile(&figures, 0.5),
            p99: quantile(&figures, 0.99),
            max: quantile(&figures, 1.0),
        }
    }
}

/// Measures `loads` with so many `connections`, and `upgrades` in each round.
pub(crate) fn run(
    setup: &Setup,
    keeping: Keeping,
    loads: &[Load],
    connections: &[usize],
    upgrades: u32,
) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for &load in loads {
        for &connections in connections {
            note!("{connections} connections, load: {} …", load.name());
            let mut rounds = Vec::new();
            let mut errors = 0.0;
            for _ in 0..setup.rounds {
                errors += round(setup, keeping, load, connections, upgrades, &mut rounds)?;
            }
            outcomes.push(Outcome::of(keeping, load, connections, &rounds, errors));
        }
    }
    Ok(outcomes)
}

/// The upgrades of one server and its successors; errors of the load.
fn round(
    setup: &Setup,
    keeping: Keeping,
    load: Load,
    connections: usize,
    upgrades: u32,
    into: &mut Vec<Upgrade>,
) -> anyhow::Result<f64> {
    let mut dynasty = Dynasty::start(setup, keeping)?;
    let herd = Herd::gather(dynasty.address(), connections)?;
    let arguments = load.arguments();
    let client = arguments.map(|it| Client::start(setup, dynasty.address(), it, LONG));
    let mut client = client.transpose()?;
    for _ in 0..upgrades {
        thread::sleep(BETWEEN);
        into.push(dynasty.upgrade()?);
        if let Some(client) = &mut client {
            client.still_runs()?;
        }
    }
    let errors = client.map(Client::interrupt).transpose()?;
    herd.check()?;
    Ok(errors.map_or(0.0, |report| report.errors()))
}

/// Longer than any round: the load is interrupted.
pub(crate) const LONG: Duration = GRACE.saturating_mul(30);

impl Outcome {
    /// Returns whether it was measured under this load, and without a store.
    pub(crate) fn is_of(&self, load: Load) -> bool {
        !self.store && self.load == load.name()
    }

    fn of(
        keeping: Keeping,
        load: Load,
        connections: usize,
        upgrades: &[Upgrade],
        errors: f64,
    ) -> Self {
        let of = |figure: fn(&Upgrade) -> f64| Quantiles::of(upgrades.iter().map(figure));
        Self {
            store: keeping == Keeping::Reports,
            load: load.name(),
            connections,
            upgrades: upgrades.len(),
            pause: of(|it| it.pause),
            precopy: of(|it| it.precopy),
            quiesce: of(|it| it.quiesce),
            all: of(|it| it.precopy + it.pause),
            state_bytes: of(|it| it.state_bytes).median,
            errors,
        }
    }
}

/// Prints the pause.
pub(crate) fn print(title: &str, outcomes: &[Outcome]) {
    say!("\n### {title}\n");
    say!(
        "| load | quiet connections | upgrades | pause, ms: median | p99 | most | last commit \
         before, ms: median | most | copied before, ms | state, KiB | errors of the load |"
    );
    say!("|---|---|---|---|---|---|---|---|---|---|---|");
    for it in outcomes {
        let last_commit = if it.store {
            format!(
                "{:.2} | {:.2}",
                it.quiesce.median * 1e3,
                it.quiesce.max * 1e3
            )
        } else {
            " | ".to_owned()
        };
        say!(
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {last_commit} | {:.1} | {:.0} | {} |",
            it.load,
            it.connections,
            it.upgrades,
            it.pause.median * 1e3,
            it.pause.p99 * 1e3,
            it.pause.max * 1e3,
            it.precopy.median * 1e3,
            it.state_bytes / 1024.0,
            it.errors,
        );
    }
    for it in outcomes.iter().filter(|it| it.connections == AT) {
        say!(
            "\n- {AT} connections, load: {}: median ≤ {:.0} ms: {}; p99 ≤ {:.0} ms: {}",
            it.load,
            MEDIAN * 1e3,
            met(it.pause.median <= MEDIAN),
            P99 * 1e3,
            met(it.pause.p99 <= P99)
        );
    }
}

/// Prints the pause beside the pause of a stop-and-copy.
pub(crate) fn print_beside(outcomes: &[Outcome]) {
    say!("\n### Beside a plain stop-and-copy\n");
    say!(
        "Agents are quiet here, so that nothing is served between two steps of the copy: \
         what it takes is what it would take with the server standing still.\n"
    );
    say!(
        "| connections | upgrades | pause, ms: median | most | all copied in the pause, ms: \
         median | most |"
    );
    say!("|---|---|---|---|---|---|");
    for it in outcomes {
        say!(
            "| {} | {} | {:.2} | {:.2} | {:.1} | {:.1} |",
            it.connections,
            it.upgrades,
            it.pause.median * 1e3,
            it.pause.max * 1e3,
            it.all.median * 1e3,
            it.all.max * 1e3,
        );
    }
}
