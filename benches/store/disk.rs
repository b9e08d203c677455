//! The disk's speed: how long a small write takes until it is durable.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

/// Writes of each kind: enough for a median, done within a second.
const WRITES: u64 = 300;

/// Bytes of each write: a page of memory, the least that a file system writes.
const PIECE: u64 = 4096;

/// Bytes that are overwritten repeatedly: the size of the store's log before a checkpoint.
const PREALLOCATED: u64 = 8 << 20;

/// Median times of a write of 4 KiB and its `fdatasync(2)`, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    /// At the end of a growing file.
    pub(crate) append: f64,
    /// Within a file of fixed length, as SQLite mostly writes its log: after a checkpoint
    /// it starts at the beginning.
    pub(crate) overwrite: f64,
}

/// Measures the disk of `dir`.
pub(crate) fn latency(dir: &Path) -> anyhow::Result<Latency> {
    let file = tempfile::tempfile_in(dir).context("cannot make a file")?;
    let append = median(&file, |write| write * PIECE)?;
    let file = tempfile::tempfile_in(dir).context("cannot make a file")?;
    file.write_all_at(&vec![b'-'; usize::try_from(PREALLOCATED)?], 0)?;
    file.sync_all()?;
    let overwrite = median(&file, |write| write * PIECE % PREALLOCATED)?;
    Ok(Latency { append, overwrite })
}

fn median(file: &File, place: impl Fn(u64) -> u64) -> anyhow::Result<f64> {
    let mut piece = vec![0; usize::try_from(PIECE)?];
    let mut times = Vec::new();
    for write in 0..WRITES {
        // Different bytes each time, so that no layer below skips the write.
        piece[..8].copy_from_slice(&write.to_le_bytes());
        let start = Instant::now();
        file.write_all_at(&piece, place(write))?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64())
}
