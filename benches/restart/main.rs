//! Hand-overs: the pause, the effect on agents, and leaks after a thousand in a row.
//!
//! ```text
//! cargo bench --bench restart -- --only pause --rounds 5 --json figures.json
//! ```
//!
//! The servers, the old one and the new one, run on one core, and the agents on another.
//! Each round, or all of `felt` with or without a store, starts with a fresh server and
//! fresh agents. Their connections live through all upgrades; at the end each agent checks
//! its own. Only that is asserted, and that a thousand upgrades lose, repeat and leak
//! nothing: other targets are printed beside the figures.

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod chart;
mod dynasty;
mod felt;
mod herd;
mod pause;
mod thousand;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use dynasty::Keeping;
use hawk_testkit::bench::options::Pinned;
use hawk_testkit::bench::{files, is_measured, write_json};
use pause::Load;

/// Measures hand-overs to a new process and prints Markdown.
#[derive(Parser)]
struct Options {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["pause", "copy", "store", "felt", "thousand"])]
    only: Vec<Part>,
    /// Quiet connections
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 1_000, 5_000, 15_000])]
    connections: Vec<usize>,
    /// Upgrades in each round
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    upgrades: u32,
    /// Upgrades of `thousand`
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    in_a_row: u32,
    /// Draw the pause by connections into this file, where `pause` and `copy` are measured
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    pinned: Pinned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The pause without a store
    Pause,
    /// The same beside a plain stop-and-copy
    Copy,
    /// The pause with a store
    Store,
    /// Round trips during upgrades
    Felt,
    /// A thousand upgrades in a row
    Thousand,
}

/// All figures; parts that were not measured are empty.
#[derive(Default, Serialize)]
struct Outcomes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pauses: Vec<pause::Outcome>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    felt: Vec<felt::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thousand: Option<thousand::Outcome>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !is_measured(options.pinned.bench, "restart") {
        return Ok(());
    }
    let setup = options.pinned.setup("restart")?;
    files::refuse_memory(&setup.scratch)?;
    options.pinned.introduce();
    let mut outcomes = Outcomes::default();
    let (counts, upgrades) = (&options.connections, options.upgrades);
    for part in options.only {
        match part {
            Part::Pause => {
                let loads = [Load::Original, Load::Busy];
                let pauses = pause::run(&setup, Keeping::Nothing, &loads, counts, upgrades)?;
                pause::print("The pause", &pauses);
                outcomes.pauses.extend(pauses);
            }
            Part::Copy => {
                let loads = [Load::None];
                let pauses = pause::run(&setup, Keeping::Nothing, &loads, counts, upgrades)?;
                pause::print_beside(&pauses);
                outcomes.pauses.extend(pauses);
            }
            Part::Store => {
                let loads = [Load::Original];
                let pauses = pause::run(&setup, Keeping::Reports, &loads, counts, upgrades)?;
                pause::print("The pause, with a store", &pauses);
                outcomes.pauses.extend(pauses);
            }
            Part::Felt => {
                let most = counts.iter().copied().max();
                let most = most.into_iter().collect::<Vec<_>>();
                let keepings = [Keeping::Nothing, Keeping::Reports];
                outcomes.felt = felt::run(&setup, &keepings, &most)?;
            }
            Part::Thousand => outcomes.thousand = Some(thousand::run(&setup, options.in_a_row)?),
        }
    }
    if let Some(file) = options.pinned.json {
        write_json(&file, &outcomes)?;
    }
    if let Some(file) = options.svg {
        let drawn = chart::draw(&outcomes.pauses).context("there is nothing to draw")?;
        fs::write(&file, drawn).with_context(|| file.display().to_string())?;
    }
    // The last part, so that the others are measured even if it fails.
    outcomes
        .thousand
        .map_or(Ok(()), |thousand| thousand.demand())
}
