//! As many connections to one server process as an emulated machine can hold.
//!
//! ```text
//! make bench-scale ARGS="--connections 300000"
//! ```
//!
//! An emulated machine has its own limits, independent of this machine's limit of open
//! files. Agents connect there in stages; each sends a heartbeat, gets its reply, and is
//! idle. The memory of the server and of the kernel is read after each stage. Then all send
//! a second heartbeat, and the server closes some silent agents at their deadline.
//! docs/scale.md has the figures as printed here.

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod account;
mod guest;
mod tables;
mod verdict;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Parser;

use account::Account;
use guest::Plan;
use hawk_testkit::bench::{note, say};

/// Holds many connections in an emulated machine and prints Markdown.
#[derive(Parser)]
struct Options {
    /// Connections to one server process
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(20_000..))]
    connections: u64,
    /// Mebibytes of memory of the emulated machine [default: enough]
    #[arg(long, value_name = "MIB")]
    memory: Option<u64>,
    /// Print the tables of an earlier run with as many connections, from its guest's output
    #[arg(long, value_name = "FILE")]
    console: Option<PathBuf>,
    /// The build of hawk to run as server and load
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_hawk"))]
    server: PathBuf,
    /// Set by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Numbers of connections after which the memory is read, up to the total.
const STAGES: [u64; 8] = [
    10_000, 50_000, 100_000, 200_000, 300_000, 450_000, 600_000, 800_000,
];

/// Addresses of the connections of these stages: few, to measure connections without
/// agents.
const FEW_ADDRESSES: u64 = 64;

/// Silent connections.
const SILENT: u64 = 1_000;

/// Kibibytes of memory for each connection: its two ends, the client, and a reserve. This
/// machine provides only the used part.
const KIBIBYTES_EACH: u64 = 11;

/// Mebibytes of memory that the guest always needs.
const MEBIBYTES: u64 = 768;

impl Options {
    fn plan(&self) -> Plan {
        let all = self.connections;
        // The last sixth has an address for each connection, like real agents.
        let own = all / 6;
        let few = all - own;
        let mut totals: Vec<_> = STAGES.into_iter().filter(|total| *total < few).collect();
        totals.push(few);
        let before = [0].into_iter().chain(totals.clone());
        let counts = totals
            .iter()
            .zip(before)
            .map(|(total, before)| total - before);
        let mut stages: Vec<_> = counts.map(|count| (count, FEW_ADDRESSES)).collect();
        stages.push((own, own));
        // Longer than the time to open all connections, so that no second heartbeat is sent
        // before the last first one.
        let interval = 150 + all / 1000;
        Plan {
            stages,
            silent: SILENT,
            interval,
            // A heartbeat may be late by half as much.
            idle_timeout: interval * 3 / 2,
            memory: self
                .memory
                .unwrap_or(MEBIBYTES + all * KIBIBYTES_EACH / 1024),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if !options.bench {
        say!("nothing to test here; measure with: make bench-scale");
        return Ok(());
    }
    let plan = options.plan();
    let started = Instant::now();
    let sections = match &options.console {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
            guest::sections(text.lines().map(str::to_owned).collect())?
        }
        None => guest::run(
            &options.server,
            &plan,
            &hawk_testkit::bench::scratch("scale")?,
        )?,
    };
    note!("{} min", started.elapsed().as_secs() / 60);
    let account = Account::read(&sections)?;
    tables::print(&plan, &account)?;
    let wrong = verdict::wrong(&plan, &account);
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}
