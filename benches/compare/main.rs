//! hawk beside its peers, on one machine, in one session.
//!
//! ```text
//! cargo bench --bench compare -- --rounds 5 --json figures.json --svg chart.svg
//! ```
//!
//! The server runs on one core and its load on another. Contestants take turns, so that a
//! noisy minute affects all of them, and each figure is a median over the rounds with its
//! least and greatest value. Targets are printed beside the figures; a missed target does
//! not fail the run. Progress goes to standard error.

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod chart;
mod contestants;
mod growth;
mod idle;
mod loads;
mod machine;
mod peers;
mod side_by_side;
mod tables;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum as _};
use serde::Serialize;

use contestants::{Contestant, Field};
use hawk_testkit::bench::options::Pinned;
use hawk_testkit::bench::{files, is_measured, say, write_json};
use loads::{Part, loads};

/// Measures hawk beside its peers and prints Markdown.
#[derive(Parser)]
struct Options {
    /// What to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Contestants to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    contestants: Vec<Contestant>,
    /// Where hawk's store is: a folder on a disk [default: below the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Draw the rates with classic reports into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw the growth of the cost into this file
    #[arg(long, value_name = "FILE")]
    svg_growth: Option<PathBuf>,
    #[command(flatten)]
    pinned: Pinned,
}

/// All figures; parts that were not measured are empty.
#[derive(Serialize)]
struct Outcomes {
    machine: String,
    rounds: u32,
    seconds: u64,
    skipped: Vec<String>,
    loads: Vec<side_by_side::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<idle::Outcome>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    growth: Vec<growth::Outcome>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !is_measured(options.pinned.bench, "compare") {
        return Ok(());
    }
    let parts = or_all(&options.only, Part::value_variants());
    let contestants = or_all(&options.contestants, Contestant::ALL);
    let setup = options.pinned.setup("compare")?;
    let dir = options.dir.unwrap_or_else(|| setup.scratch.clone());
    if contestants.contains(&Contestant::HawkStore) {
        files::refuse_memory(&dir)?;
    }
    let field = Field::prepare(contestants, &dir)?;
    let machine = machine::describe();
    say!("{machine}.\n");
    options.pinned.introduce();
    for missing in &field.skipped {
        say!("\nskipped: {missing}");
    }
    let mut outcomes = Outcomes {
        machine,
        rounds: setup.rounds,
        seconds: setup.duration.as_secs(),
        skipped: field.skipped.clone(),
        loads: Vec::new(),
        idle: None,
        growth: Vec::new(),
    };
    for load in loads(parts) {
        let outcome = side_by_side::run(&setup, &field, &load)?;
        tables::outcome(&outcome);
        outcomes.loads.push(outcome);
    }
    if parts.contains(&Part::Idle) && contestants.contains(&Contestant::Hawk) {
        outcomes.idle = Some(idle::run(&setup)?);
    }
    if parts.contains(&Part::Growth) && contestants.contains(&Contestant::Hawk) {
        outcomes.growth = growth::run(&setup, &field)?;
    }
    if let Some(file) = options.pinned.json {
        write_json(&file, &outcomes)?;
    }
    if let Some(file) = options.svg {
        let chart = chart::rates(&outcomes.loads);
        let chart = chart.context("the chart needs classic reports, which were not measured")?;
        fs::write(&file, chart).with_context(|| file.display().to_string())?;
    }
    if let Some(file) = options.svg_growth {
        let chart = chart::growth(&outcomes.growth);
        let chart = chart.context("the chart needs the growth, which was not measured")?;
        fs::write(&file, chart).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn or_all<'a, T>(picked: &'a [T], all: &'a [T]) -> &'a [T] {
    if picked.is_empty() { all } else { picked }
}
