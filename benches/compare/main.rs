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

mod default_load;
mod goroutine;
mod idle;
mod saturate;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

use support::{Setup, say, scratch, write_json};

/// The peers keep nothing: hawk is measured without its store.
const NO_STORE: &[&str] = &["--store", "none"];

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
    let setup = Setup {
        rounds: options.rounds,
        duration: Duration::from_secs(options.seconds.into()),
        server_core: Some(options.server_core),
        load_core: Some(options.load_core),
        server: options.server,
        client: options.client,
        scratch: scratch("compare")?,
    };
    say!(
        "Median (least–greatest) of {} rounds; server on core {}, load on core {}.",
        setup.rounds,
        options.server_core,
        options.load_core
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
        write_json(&file, &outcomes)?;
    }
    Ok(())
}
