//! Instructions of one operation, as callgrind counts them.
//!
//! The program runs itself under callgrind twice, with few and with many runs of
//! the operation. What it does besides is the same both times, so the difference
//! is the operation's own.

use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::operations::Operation;

/// Runs to begin with: after these all memory is as large as it gets.
const FEW: u64 = 10;

/// How many more make the difference.
const MORE: u64 = 50;

/// Whether valgrind is there.
pub(crate) fn is_possible() -> bool {
    let version = Command::new("valgrind").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// What is to be counted.
pub(crate) fn run(operation: &Operation, times: u64) {
    let mut run = (operation.prepare)();
    for _ in 0..times {
        run();
    }
}

/// Instructions that the operation takes once.
#[allow(clippy::cast_precision_loss)] // far below 2^53
pub(crate) fn instructions(operation: &Operation, name: &str) -> anyhow::Result<f64> {
    let few = collected(name, FEW)?;
    let many = collected(name, FEW + MORE)?;
    Ok((many - few) as f64 / (MORE * operation.times) as f64)
}

fn collected(name: &str, times: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        // As many characters each time: arguments lie on the stack and move it.
        .args(["--run", name, "--times", &format!("{times:04}")])
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "valgrind: {}\n{said}",
        output.status
    );
    said.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .with_context(|| format!("valgrind counted nothing but said:\n{said}"))
}
