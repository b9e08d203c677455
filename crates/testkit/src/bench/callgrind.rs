//! Instructions of this very program, counted by valgrind's callgrind.

use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// What to say where it is missing.
pub const MISSING: &str = "skipped: valgrind is not installed (Debian: valgrind)";

/// Whether it is there.
pub fn is_there() -> bool {
    let version = Command::new("valgrind").arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Instructions that this program takes when it is started with `arguments`: all of
/// them, or those that callgrind's `options` have it collect.
pub fn collected(options: &[&str], arguments: &[&str]) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(options)
        .arg(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
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
        .filter(|&instructions| instructions > 0)
        .with_context(|| format!("valgrind counted nothing but said:\n{said}"))
}
