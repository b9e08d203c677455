//! A long chain of processes, each taking over from its predecessor under load: no report
//! is lost, and no resource leaks.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::dynasty::{Dynasty, Keeping};
use crate::herd::Herd;
use crate::pause::{BETWEEN, LONG};
use hawk_testkit::bench::load::{Client, GRACE};
use hawk_testkit::bench::spread::{met, quantile};
use hawk_testkit::bench::{Setup, note, process, say};

/// Connected and quiet agents beside the load.
const QUIET: usize = 300;

/// How much more resident memory the last process may have than an early one: the variation
/// of heap fragmentation.
const GROWTH: f64 = 1.2;

/// Time between two progress lines.
const TOLD: u32 = 100;

/// Most average time of an upgrade, with the load between two: many times the usual, so
/// that only a hanging server exceeds it.
const EACH: Duration = Duration::from_millis(600);

/// How long a process may take after an upgrade to free the resources of the hand-over.
const SETTLING: Duration = Duration::from_secs(1);
const LOOKS: u32 = 20;

#[derive(Serialize)]
pub(crate) struct Outcome {
    upgrades: u32,
    seconds: f64,
    /// In seconds.
    pause_median: f64,
    pause_p99: f64,
    pause_max: f64,
    sent: f64,
    answered: f64,
    /// Wrong, missing or reordered replies, and broken connections.
    errors: f64,
    told_errors: String,
    /// Acknowledged reports; all sent reports must be.
    reports: f64,
    /// Of these in the store.
    rows: i64,
    /// Rows that repeat another row.
    repeated: i64,
    /// Events of agents that came online or went offline.
    events: i64,
    agents: i64,
    /// At the end.
    processes: usize,
    /// Of the second process and of the last: both took over from another.
    early: Left,
    last: Left,
    complaints: Vec<String>,
}

/// The resources of a process.
#[derive(Clone, Copy, Serialize)]
struct Left {
    resident_bytes: u64,
    files: usize,
}

impl Left {
    /// Measures the process once it has freed the resources of its hand-over.
    fn of(id: u32) -> anyhow::Result<Self> {
        let mut files = process::open_files(id)?;
        for _ in 0..LOOKS {
            thread::sleep(SETTLING / LOOKS);
            files = files.min(process::open_files(id)?);
        }
        Ok(Self {
            resident_bytes: process::memory(id, "VmRSS")?,
            files,
        })
    }
}

/// The demands, and the results.
struct Demand {
    what: &'static str,
    measured: String,
    is_met: bool,
}

pub(crate) fn run(setup: &Setup, upgrades: u32) -> anyhow::Result<Outcome> {
    note!("{upgrades} upgrades in a row …");
    let mut dynasty = Dynasty::start(setup, Keeping::Reports)?;
    let herd = Herd::gather(dynasty.address(), QUIET)?;
    let mut client = Client::start(setup, dynasty.address(), &["--reply-timeout", "20s"], LONG)?;
    let begun = Instant::now();
    let mut pauses = Vec::new();
    let mut early = None;
    let longest = EACH * upgrades + GRACE;
    for number in 1..=upgrades {
        thread::sleep(BETWEEN);
        let upgrade = dynasty
            .upgrade()
            .with_context(|| format!("upgrade {number}"))?;
        pauses.push(upgrade.pause);
        client.still_runs()?;
        if early.is_none() {
            early = Some(Left::of(dynasty.id())?);
        }
        ensure!(
            begun.elapsed() < longest,
            "only {number} of {upgrades} upgrades in {} s; one takes {:.0} ms, with the load before it",
            longest.as_secs(),
            1e3 * begun.elapsed().as_secs_f64() / f64::from(number)
        );
        if number % TOLD == 0 {
            note!(
                "{number} upgrades after {:.0} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let last = Left::of(dynasty.id())?;
    let processes = dynasty.processes()?;
    let report = client.interrupt()?;
    let in_mid_frame = herd.check()?;
    let store = rusqlite::Connection::open_with_flags(
        dynasty.store(),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )?;
    let count = |query: &str| store.query_row(query, [], |row| row.get::<_, i64>(0));
    let outcome = Outcome {
        upgrades,
        seconds,
        pause_median: quantile(&pauses, 0.5),
        pause_p99: quantile(&pauses, 0.99),
        pause_max: quantile(&pauses, 1.0),
        sent: report.sent.reports + report.sent.heartbeats,
        answered: report.answered,
        errors: report.errors(),
        told_errors: report.told_errors(),
        reports: report.sent.reports,
        rows: count("SELECT count(*) FROM reports")? - i64::try_from(in_mid_frame)?,
        repeated: count(
            "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT peer, content, rand, \
             timestamp FROM reports)) FROM reports",
        )?,
        events: count("SELECT count(*) FROM events")?,
        agents: count("SELECT count(*) FROM agents")?,
        processes,
        early: early.context("no upgrade")?,
        last,
        complaints: dynasty.complaints(),
    };
    outcome.print();
    Ok(outcome)
}

impl Outcome {
    fn print(&self) {
        say!("\n### {} upgrades in a row\n", self.upgrades);
        say!(
            "The original's load, {QUIET} quiet connections, a store: {:.0} s, {} ms of load before \
             each upgrade. Pause: median {:.2} ms, p99 {:.2} ms, at most {:.2} ms.\n",
            self.seconds,
            BETWEEN.as_millis(),
            self.pause_median * 1e3,
            self.pause_p99 * 1e3,
            self.pause_max * 1e3
        );
        say!("| figure | measured | target |\n|---|---|---|");
        for Demand {
            what,
            measured,
            is_met,
        } in self.demands()
        {
            say!("| {what} | {measured} | {} |", met(is_met));
        }
    }

    /// Checks that no report was lost or repeated, and no resource leaked.
    ///
    /// # Errors The demands that were missed.
    pub(crate) fn demand(&self) -> anyhow::Result<()> {
        let missed = self.demands().into_iter().filter(|demand| !demand.is_met);
        let missed = missed.map(|it| format!("{}: {}", it.what, it.measured));
        let missed = missed.collect::<Vec<_>>().join("\n");
        ensure!(
            missed.is_empty(),
            "{missed}\n{}\n{}",
            self.told_errors,
            self.complaints.join("\n")
        );
        Ok(())
    }

    #[allow(clippy::cast_precision_loss)] // far below 2^53
    fn demands(&self) -> Vec<Demand> {
        let Self { early, last, .. } = self;
        let memory = [early, last].map(|left| left.resident_bytes as f64 / (1024.0 * 1024.0));
        let [early_memory, last_memory] = memory;
        let mut demands = Vec::new();
        let mut demand = |what, measured, is_met| {
            demands.push(Demand {
                what,
                measured,
                is_met,
            });
        };
        demand(
            "frames sent, answered rightly and in order",
            format!("{:.0}, {:.0}", self.sent, self.answered),
            (self.sent - self.answered).abs() < 0.5,
        );
        demand(
            "connections reset, refused or made again, replies lost, repeated or out of order",
            format!("{:.0}", self.errors),
            self.errors <= 0.0,
        );
        demand(
            "reports acknowledged, and in the store",
            format!("{:.0}, {}", self.reports, self.rows),
            (self.reports - self.rows as f64).abs() < 0.5,
        );
        demand(
            "reports in the store twice",
            self.repeated.to_string(),
            self.repeated == 0,
        );
        demand(
            "agents, and events of them: each came online once",
            format!("{}, {}", self.agents, self.events),
            self.agents == self.events,
        );
        demand(
            "processes at the end",
            self.processes.to_string(),
            self.processes == 1,
        );
        demand(
            "descriptors of the second process, of the last",
            format!("{}, {}", early.files, last.files),
            last.files <= early.files,
        );
        demand(
            "memory of the second process, of the last, MiB",
            format!("{early_memory:.1}, {last_memory:.1}"),
            last_memory <= GROWTH * early_memory,
        );
        demand(
            "warnings and errors in the log",
            self.complaints.len().to_string(),
            self.complaints.is_empty(),
        );
        demands
    }
}
