//! A sample of the server at one moment of the run.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use hawk_testkit::Stats;
use hawk_testkit::bench::process;

/// A row of the table.
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// Bytes resident.
    pub(crate) resident: u64,
    /// Files open.
    pub(crate) files: u64,
    /// Bytes of the store's log.
    pub(crate) wal: u64,
    pub(crate) stats: Stats,
}

const MIB: f64 = 1024.0 * 1024.0;

impl Sample {
    pub(crate) const HEAD: &str = "after, s | memory, MiB | descriptors | connections | buffers | \
                                   reports | turned away | store's log, MiB";

    pub(crate) fn take(at: Duration, pid: u32, stats: Stats, store: &Path) -> Self {
        let mut wal = store.as_os_str().to_owned();
        wal.push("-wal");
        Self {
            at,
            resident: process::memory(pid, "VmRSS").unwrap(),
            files: process::open_files(pid).unwrap() as u64,
            wal: std::fs::metadata(wal).map_or(0, |found| found.len()),
            stats,
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:8} | {:11.2} | {:11} | {:11} | {:7} | {:7} | {:11} | {:16.2}",
            self.at.as_secs(),
            mebibytes(self.resident),
            self.files,
            self.stats.get("connections"),
            self.stats.in_use().iter().sum::<u64>(),
            self.stats.store("reports"),
            self.stats.get("closed_too_many_connections"),
            mebibytes(self.wal),
        )
    }
}

#[allow(clippy::cast_precision_loss)] // sizes are far below 2^53
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
