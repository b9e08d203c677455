//! A long line of processes, each taking over from the one before under load: nothing
//! is lost on the way, and nothing is left over.

use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

use crate::dynasty::{Dynasty, Keeping};
use crate::herd::Herd;
use crate::pause::LONG;
use crate::support::load::Client;
use crate::support::spread::{met, quantile};
use crate::support::{Setup, note, process, say};

/// Agents that are connected and quiet beside the load.
const QUIET: usize = 300;

/// How much more memory the last process may have resident than an early one: what a
/// heap's fragments differ by.
const GROWTH: f64 = 1.2;

/// How often it is told how far it is.
const TOLD: u32 = 100;

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
    /// Replies that were wrong, missing or out of order, and connections that broke.
    errors: f64,
    /// Of reports in the store.
    rows: i64,
    /// Of these, such as there are more than one of.
    repeated: i64,
    /// Of agents that came or went.
    events: i64,
    agents: i64,
    /// Of the second process and of the last: both took over.
    early: Left,
    last: Left,
    complaints: Vec<String>,
}

/// What a process has.
#[derive(Clone, Copy, Serialize)]
struct Left {
    resident_bytes: u64,
    files: usize,
}

impl Left {
    fn of(id: u32) -> anyhow::Result<Self> {
        Ok(Self {
            resident_bytes: process::memory(id, "VmRSS")?,
            files: process::open_files(id)?,
        })
    }
}

pub(crate) fn run(setup: &Setup, upgrades: u32) -> anyhow::Result<Outcome> {
    note!("{upgrades} upgrades in a row …");
    let mut dynasty = Dynasty::start(setup, Keeping::Reports)?;
    let herd = Herd::gather(dynasty.address(), QUIET)?;
    let client = Client::start(setup, dynasty.address(), &["--reply-timeout", "20s"], LONG)?;
    let mut client = client;
    let begun = Instant::now();
    let mut pauses = Vec::new();
    let mut early = None;
    for number in 1..=upgrades {
        let upgrade = dynasty
            .upgrade()
            .with_context(|| format!("upgrade {number}"))?;
        pauses.push(upgrade.pause);
        client.still_runs()?;
        if early.is_none() {
            early = Some(Left::of(dynasty.id())?);
        }
        if number % TOLD == 0 {
            note!(
                "{number} upgrades after {:.0} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let last = Left::of(dynasty.id())?;
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
        rows: count("SELECT count(*) FROM reports")? - i64::try_from(in_mid_frame)?,
        repeated: count(
            "SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT peer, content, rand, \
             timestamp FROM reports)) FROM reports",
        )?,
        events: count("SELECT count(*) FROM events")?,
        agents: count("SELECT count(*) FROM agents")?,
        early: early.context("no upgrade")?,
        last,
        complaints: dynasty.complaints(),
    };
    outcome.print(report.sent.reports);
    Ok(outcome)
}

impl Outcome {
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    fn print(&self, reports: f64) {
        say!("\n### {} upgrades in a row\n", self.upgrades);
        say!(
            "The original's load, {QUIET} quiet connections, a store: {:.0} s, one upgrade after \
             the other. Pause: median {:.2} ms, p99 {:.2} ms, at most {:.2} ms.\n",
            self.seconds,
            self.pause_median * 1e3,
            self.pause_p99 * 1e3,
            self.pause_max * 1e3
        );
        say!("| figure | measured | target |\n|---|---|---|");
        let row = |figure: &str, measured: &str, is_met: bool| {
            say!("| {figure} | {measured} | {} |", met(is_met));
        };
        row(
            "frames sent, answered rightly and in order",
            &format!("{:.0}, {:.0}", self.sent, self.answered),
            self.sent <= self.answered,
        );
        row(
            "connections reset, refused or made again, replies lost, repeated or out of order",
            &format!("{:.0}", self.errors),
            self.errors <= 0.0,
        );
        row(
            "reports acknowledged, and in the store",
            &format!("{reports:.0}, {}", self.rows),
            (reports - self.rows as f64).abs() < 0.5,
        );
        row(
            "reports in the store twice",
            &self.repeated.to_string(),
            self.repeated == 0,
        );
        row(
            "agents, and events of them",
            &format!("{}, {}", self.agents, self.events),
            self.agents == self.events,
        );
        row(
            "processes left over",
            "0: each has ended before the next upgrade",
            true,
        );
        row(
            "descriptors of the second process, of the last",
            &format!("{}, {}", self.early.files, self.last.files),
            self.last.files <= self.early.files,
        );
        let (early, last) = (self.early.resident_bytes, self.last.resident_bytes);
        row(
            "memory of the second process, of the last, MiB",
            &format!("{:.1}, {:.1}", mebibytes(early), mebibytes(last)),
            mebibytes(last) <= GROWTH * mebibytes(early),
        );
        row(
            "warnings and errors in the log",
            &self.complaints.len().to_string(),
            self.complaints.is_empty(),
        );
    }
}

#[allow(clippy::cast_precision_loss)] // far below 2^53
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
