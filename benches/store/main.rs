//! hawk's store on a real file, beside Redis and the disk's limit.
//!
//! ```text
//! cargo bench --bench store -- --rounds 5 --dir /var/tmp
//! cargo bench --bench store -- --soak 10m
//! ```
//!
//! Every report is acknowledged after its commit. The contestants take turns, each with a
//! fresh file on the same file system, and every figure is a median over the rounds with
//! its least and greatest value. Servers and clients are not pinned: hawk has two busy
//! threads, and the machine may have only two cores. Targets are printed beside the
//! figures; a missed target does not fail the run.

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod disk;
mod side_by_side;
mod soak;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use serde::Serialize;

use hawk_testkit::bench::{Setup, files, is_measured, scratch, write_json};

/// Measures hawk's store and prints Markdown.
#[derive(Parser)]
struct Options {
    /// Frames in flight on each of 50 connections
    #[arg(long, value_delimiter = ',', default_values_t = [128, 1], value_parser = clap::value_parser!(u32).range(1..))]
    depth: Vec<u32>,
    /// How many times each contestant has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load in each turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Instead, put an even load on the store for this long, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    soak: Option<Duration>,
    /// Where the files are: a folder on a disk [default: below the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The build of hawk to run as the server
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_hawk"))]
    server: PathBuf,
    /// The build of hawk to run as the load client
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_hawk"))]
    client: PathBuf,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Set by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

/// All figures; parts that were not measured are empty.
#[derive(Default, Serialize)]
struct Outcomes {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    side_by_side: Vec<side_by_side::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    soak: Option<soak::Outcome>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !is_measured(options.bench, "store") {
        return Ok(());
    }
    let scratch = scratch("store")?;
    let dir = options.dir.unwrap_or_else(|| scratch.clone());
    files::refuse_memory(&dir)?;
    let setup = Setup {
        rounds: options.rounds,
        duration: Duration::from_secs(options.seconds.into()),
        server_core: None,
        load_core: None,
        server: options.server,
        client: options.client,
        scratch,
    };
    let outcomes = match options.soak {
        Some(duration) => Outcomes {
            soak: Some(soak::run(&setup, &dir, duration)?),
            ..Outcomes::default()
        },
        None => Outcomes {
            side_by_side: side_by_side::run(&setup, &dir, &options.depth)?,
            ..Outcomes::default()
        },
    };
    match options.json {
        Some(file) => write_json(&file, &outcomes),
        None => Ok(()),
    }
}
