//! What the benchmarks share: servers and load clients as child processes,
//! rounds, and how figures are told.

pub(crate) mod callgrind;
pub(crate) mod chart;
pub(crate) mod child;
pub(crate) mod dial;
pub(crate) mod files;
pub(crate) mod load;
pub(crate) mod options;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod servers;
pub(crate) mod spread;
pub(crate) mod statistics;
pub(crate) mod turn;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

/// Prints a line of the report.
macro_rules! say {
    ($($part:tt)*) => { println!($($part)*) };
}
pub(crate) use say;

/// Tells how it goes along, on standard error: no part of the report.
macro_rules! note {
    ($($part:tt)*) => { eprintln!($($part)*) };
}
pub(crate) use note;

/// Whether `bench`, given by `cargo bench` alone, is there; if not, says how to measure
/// with the benchmark of this name.
pub(crate) fn is_measured(bench: bool, name: &str) -> bool {
    if !bench {
        say!("nothing to test here; measure with: cargo bench --bench {name}");
    }
    bench
}

/// What all measurements share.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) rounds: u32,
    /// Load in each turn, where nothing else is said.
    pub(crate) duration: Duration,
    /// The core that servers run on; `None`: all of them.
    pub(crate) server_core: Option<u32>,
    /// The core that load clients run on; `None`: all of them.
    pub(crate) load_core: Option<u32>,
    pub(crate) server: PathBuf,
    pub(crate) client: PathBuf,
    /// A directory for files that are of no use later.
    pub(crate) scratch: PathBuf,
}

/// A directory for files that are of no use later, below cargo's own.
pub(crate) fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    let scratch = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    Ok(scratch)
}

/// Writes all figures to `file`.
pub(crate) fn write_json(file: &Path, outcomes: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(outcomes)?;
    fs::write(file, text + "\n").with_context(|| file.display().to_string())
}
