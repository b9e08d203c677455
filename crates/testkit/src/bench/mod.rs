//! Shared parts of the benchmarks: servers and load clients as child processes,
//! rounds, and the format of figures.

pub mod callgrind;
pub mod chart;
pub mod child;
pub mod dial;
pub mod files;
pub mod load;
pub mod options;
pub mod process;
pub mod redis;
pub mod servers;
pub mod spread;
pub mod statistics;
pub mod turn;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

/// Prints a line of the report.
#[macro_export]
macro_rules! say {
    ($($part:tt)*) => { println!($($part)*) };
}
pub use say;

/// Prints progress on standard error, outside of the report.
#[macro_export]
macro_rules! note {
    ($($part:tt)*) => { eprintln!($($part)*) };
}
pub use note;

/// Whether `bench`, given by `cargo bench` alone, is there; if not, says how to measure
/// with the benchmark of this name.
pub fn is_measured(bench: bool, name: &str) -> bool {
    if !bench {
        say!("nothing to test here; measure with: cargo bench --bench {name}");
    }
    bench
}

/// What all measurements share.
#[derive(Clone)]
pub struct Setup {
    pub rounds: u32,
    /// Load in each turn, where nothing else is said.
    pub duration: Duration,
    /// The core that servers run on; `None`: all of them.
    pub server_core: Option<u32>,
    /// The core that load clients run on; `None`: all of them.
    pub load_core: Option<u32>,
    pub server: PathBuf,
    pub client: PathBuf,
    /// A directory for files that are of no use later.
    pub scratch: PathBuf,
}

/// A directory for files that are of no use later, below cargo's own.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    let scratch = crate::scratch_folder().join(name);
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    Ok(scratch)
}

/// Writes all figures to `file`.
pub fn write_json(file: &Path, outcomes: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(outcomes)?;
    fs::write(file, text + "\n").with_context(|| file.display().to_string())
}
