//! hawk beside its peers, on one machine, in one session.
//!
//! ```text
//! cargo bench --bench compare -- --rounds 5 --json figures.json
//! ```
//!
//! The server runs on one core and its load on another. Contestants take turns,
//! so that a noisy minute hits both, and each figure is a median over the
//! rounds with its least and greatest value. Nothing is asserted: targets are
//! printed beside the figures.

// A benchmark speaks to whoever started it, in Markdown on standard output.
#![allow(clippy::print_stdout)]

mod child;
mod contestants;
mod default_load;
mod idle;
mod load;
mod process;
mod saturate;
mod spread;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Prints a line of the report.
macro_rules! say {
    ($($part:tt)*) => { println!($($part)*) };
}
pub(crate) use say;

/// Measures hawk beside its peers and prints Markdown.
#[derive(Parser)]
struct Options {
    /// What to measure
    #[arg(long, value_delimiter = ',', default_values = ["saturate", "default-load", "idle"])]
    only: Vec<Part>,
    /// How many times each contestant has its turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of load in each turn of `saturate`
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The core that servers run on
    #[arg(long, default_value_t = 0)]
    server_core: u32,
    /// The core that load clients run on
    #[arg(long, default_value_t = 1)]
    load_core: u32,
    /// The build of hawk that serves
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_hawk"))]
    server: PathBuf,
    /// The build of hawk whose load client is used
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_hawk"))]
    client: PathBuf,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Hawk and Redis, as fast as they go
    Saturate,
    /// Hawk and a goroutine server under the original's load
    DefaultLoad,
    /// Hawk with 15,000 idle connections
    Idle,
}

/// What all measurements share.
pub(crate) struct Setup {
    pub(crate) rounds: u32,
    pub(crate) duration: Duration,
    pub(crate) server_core: u32,
    pub(crate) load_core: u32,
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
    /// A directory for files that are of no use later.
    pub(crate) scratch: PathBuf,
}

/// All figures; what was not measured is left out.
#[derive(Default, Serialize)]
struct Outcomes {
    rounds: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    saturate: Option<Vec<saturate::Outcome>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_load: Option<default_load::Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle: Option<idle::Outcome>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        say!("nothing to test here; measure with: cargo bench --bench compare");
        return Ok(());
    }
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("compare");
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let setup = Setup {
        rounds: options.rounds,
        duration: Duration::from_secs(options.seconds.into()),
        server_core: options.server_core,
        load_core: options.load_core,
        server: options.server,
        client: options.client,
        scratch,
    };
    say!(
        "Median (least–greatest) of {} rounds; server on core {}, load on core {}.",
        setup.rounds,
        setup.server_core,
        setup.load_core
    );
    let has = |part| options.only.contains(&part);
    let outcomes = Outcomes {
        rounds: setup.rounds,
        saturate: has(Part::Saturate)
            .then(|| saturate::run(&setup))
            .transpose()?,
        default_load: has(Part::DefaultLoad)
            .then(|| default_load::run(&setup))
            .transpose()?,
        idle: has(Part::Idle).then(|| idle::run(&setup)).transpose()?,
    };
    if let Some(file) = options.json {
        let text = serde_json::to_string_pretty(&outcomes)?;
        fs::write(&file, text + "\n").with_context(|| file.display().to_string())?;
    }
    Ok(())
}
