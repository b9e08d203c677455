//! How fast hawk is under each bad condition, against an undisturbed run.
//!
//! ```text
//! cargo bench --bench limits -- --rounds 5 --json figures.json
//! ```
//!
//! The server runs on one core, and on another both the agents that misbehave and the good
//! ones. Disturbed and undisturbed runs take turns, each with its own server, ratios are
//! taken within a round, and each figure is a median over the rounds with its least and
//! greatest value. Targets are printed beside the figures; a missed target does not fail
//! the run.

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cost;
mod crowd;
mod decoder;
mod felt;
mod habits;
mod held;
mod junk;
mod pool;
mod rows;
mod storm;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use hawk_testkit::bench::options::Pinned;
use hawk_testkit::bench::{is_measured, write_json};
use rows::Row;

/// Measures hawk under bad conditions and prints Markdown.
#[derive(Parser)]
struct Options {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["storm", "felt", "pool", "junk", "decoder", "cost", "held"])]
    only: Vec<Part>,
    /// Only conditions with this in their name, in parts with several
    #[arg(long, value_name = "TEXT", default_value = "")]
    like: String,
    #[command(flatten)]
    pinned: Pinned,
    /// Instead, search for streams that are expensive to decode
    #[arg(long)]
    search: bool,
    /// Instead, decode this file, under callgrind
    #[arg(long, value_name = "FILE", hide = true)]
    decode: Option<PathBuf>,
    /// In pieces of this many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1, hide = true)]
    piece: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// 19,000 agents that connect at once
    Storm,
    /// Good agents beside agents that misbehave
    Felt,
    /// Long frames and few buffers
    Pool,
    /// Bytes that are no frames
    Junk,
    /// Instructions of the decoder
    Decoder,
    /// Limits that are not reached
    Cost,
    /// The server's CPU while agents are paused at a limit
    Held,
}

/// All figures; parts that were not measured are empty.
#[derive(Default, Serialize)]
struct Outcomes {
    rounds: u32,
    rows: Vec<Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    decoder: Vec<decoder::Outcome>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !is_measured(options.pinned.bench, "limits") {
        return Ok(());
    }
    if let Some(file) = &options.decode {
        return decoder::drive(file, options.piece);
    }
    if options.search {
        decoder::search();
        return Ok(());
    }
    let setup = options.pinned.setup("limits")?;
    options.pinned.introduce();
    let mut outcomes = Outcomes {
        rounds: setup.rounds,
        ..Outcomes::default()
    };
    for part in options.only {
        outcomes.rows.extend(match part {
            Part::Storm => storm::run(&setup)?,
            Part::Felt => felt::run(&setup, &options.like)?,
            Part::Pool => pool::run(&setup)?,
            Part::Junk => junk::run(&setup, &options.like)?,
            Part::Cost => cost::run(&setup)?,
            Part::Held => held::run(&setup, &options.like)?,
            Part::Decoder => {
                outcomes.decoder = decoder::run(&setup)?;
                Vec::new()
            }
        });
    }
    match options.pinned.json {
        Some(file) => write_json(&file, &outcomes),
        None => Ok(()),
    }
}
