//! The folder for the files of the servers that store something.

use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::FsWord;
use tempfile::TempDir;

/// Refuses a folder on tmpfs: a sync of its files costs nothing.
pub fn refuse_memory(dir: &Path) -> anyhow::Result<()> {
    /// As in `statfs(2)`.
    const TMPFS: FsWord = 0x0102_1994;
    let found = rustix::fs::statfs(dir).with_context(|| dir.display().to_string())?;
    if found.f_type == TMPFS {
        bail!(
            "the files of {} are in memory, where a commit costs nothing; give a folder on a disk \
             with --dir",
            dir.display()
        );
    }
    Ok(())
}

/// An empty folder in `dir`, removed with the value that names it.
pub fn fresh(dir: &Path) -> anyhow::Result<TempDir> {
    TempDir::with_prefix_in("hawk-bench-", dir)
        .with_context(|| format!("cannot make a folder in {}", dir.display()))
}
