//! A long even load on a store with a size limit: neither memory nor files may grow.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tempfile::TempDir;

use hawk_testkit::bench::spread::{Spread, met};
use hawk_testkit::bench::{Setup, load, process, say, servers};

/// Reports a second, and the store's size limit: it is reached after some three minutes.
const RATE: &str = "20000";
const RETAIN: &str = "256MiB";

/// Most memory that hawk may need, in bytes.
const MEMORY: f64 = 64.0 * MIB;

/// The definition of flat: in the later half the greatest value is at most so many times
/// the least.
const FLAT: f64 = 1.05;

/// The time between two samples of the sizes.
const SAMPLE: Duration = Duration::from_secs(1);

/// Number of printed lines.
const LINES: u32 = 20;

const MIB: f64 = 1024.0 * 1024.0;

/// Sizes of the later half, and the peak of the whole run.
#[derive(Serialize)]
pub(crate) struct Outcome {
    per_second: f64,
    errors: f64,
    cpu_share: f64,
    resident_peak_bytes: f64,
    resident_bytes: Spread,
    database_bytes: Spread,
    log_bytes: Spread,
}

struct Sample {
    at: Duration,
    resident: f64,
    database: f64,
    log: f64,
}

pub(crate) fn run(setup: &Setup, dir: &Path, duration: Duration) -> anyhow::Result<Outcome> {
    let files = TempDir::with_prefix_in("hawk-bench-", dir)
        .with_context(|| format!("cannot make a folder in {}", dir.display()))?;
    let database = files.path().join("hawk.db");
    let log = files.path().join("hawk.db-wal");
    let path = database.to_str().context("the folder's name is no UTF-8")?;
    let server = servers::hawk(setup, &["--store", path, "--retain-size", RETAIN])?;
    let id = server.process.id();

    say!(
        "### {RATE} reports a second for {}, --retain-size {RETAIN}\n",
        humantime::format_duration(duration)
    );
    say!("| after, s | memory, MiB | file, MiB | log, MiB |\n|---|---|---|---|");
    let start = Instant::now();
    let mut samples = Vec::new();
    let (mut next_sample, mut next_line) = (Duration::ZERO, duration / LINES);
    let look = || {
        let at = start.elapsed();
        if at < next_sample {
            return Ok(());
        }
        next_sample = at + SAMPLE;
        let sample = Sample::take(at, id, &database, &log)?;
        if at >= next_line {
            next_line += duration / LINES;
            sample.print();
        }
        samples.push(sample);
        Ok(())
    };
    let arguments = ["--rate", RATE, "--connections", "50"];
    let replied = load::hawk_load(setup, &server, &arguments, duration, look)?;
    let later = |of: fn(&Sample) -> f64| {
        let later = samples.iter().filter(|sample| sample.at >= duration / 2);
        Spread::of(later.map(of))
    };
    let outcome = Outcome {
        per_second: replied.per_second,
        errors: replied.errors,
        cpu_share: process::cpu_time(id)?.as_secs_f64() / start.elapsed().as_secs_f64(),
        resident_peak_bytes: bytes(process::memory(id, "VmHWM")?),
        resident_bytes: later(|sample| sample.resident),
        database_bytes: later(|sample| sample.database),
        log_bytes: later(|sample| sample.log),
    };
    outcome.print();
    if let Some(bottleneck) = replied.bottleneck {
        say!("- the client says: {bottleneck}");
    }
    Ok(outcome)
}

impl Sample {
    fn take(at: Duration, id: u32, database: &PathBuf, log: &PathBuf) -> anyhow::Result<Self> {
        let length = |path: &PathBuf| fs::metadata(path).map_or(0.0, |found| bytes(found.len()));
        Ok(Self {
            at,
            resident: bytes(process::memory(id, "VmRSS")?),
            database: length(database),
            log: length(log),
        })
    }

    fn print(&self) {
        say!(
            "| {} | {:.1} | {:.1} | {:.1} |",
            self.at.as_secs(),
            self.resident / MIB,
            self.database / MIB,
            self.log / MIB
        );
    }
}

impl Outcome {
    fn print(&self) {
        say!(
            "\n- {:.0} right replies a second, {:.0} errors, {:.0} % of a core",
            self.per_second,
            self.errors,
            self.cpu_share * 100.0
        );
        say!(
            "- most memory: {:.1} MiB; target below {:.0}: {}",
            self.resident_peak_bytes / MIB,
            MEMORY / MIB,
            met(self.resident_peak_bytes < MEMORY)
        );
        for (name, size) in [
            ("memory", self.resident_bytes),
            ("file", self.database_bytes),
            ("log", self.log_bytes),
        ] {
            say!(
                "- {name} in the later half: {:.1} to {:.1} MiB; target flat, within 5 %: {}",
                size.min / MIB,
                size.max / MIB,
                met(size.max <= FLAT * size.min)
            );
        }
    }
}

#[allow(clippy::cast_precision_loss)] // sizes are far below 2^53
fn bytes(count: u64) -> f64 {
    count as f64
}
