//! Builds the servers of `benches/peers`. An inner `Err` names the program that is missing
//! on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use hawk_testkit::bench::note;
use hawk_testkit::bench::servers::is_there;

/// The peers in Rust.
pub(crate) struct Programs {
    pub(crate) tokio: PathBuf,
    pub(crate) floor: PathBuf,
}

/// The server in Go.
pub(crate) fn goroutine() -> anyhow::Result<Result<PathBuf, String>> {
    if !is_there("go", "version") {
        return Ok(Err(
            "the goroutine server, for want of Go (Debian: golang-go)".into(),
        ));
    }
    let directory = target()?.join("peers");
    fs::create_dir_all(&directory)?;
    let program = directory.join("goroutine");
    run(Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source("goroutine")))?;
    Ok(Ok(program))
}

/// The servers in Rust, a separate workspace. It shares the target directory, so that
/// common crates are built once.
pub(crate) fn rust() -> anyhow::Result<Result<Programs, String>> {
    if !is_there("cargo", "--version") {
        return Ok(Err(
            "the tokio codec and the floor, for want of cargo (https://rustup.rs)".into(),
        ));
    }
    note!("building the peers in Rust …");
    let target = target()?;
    run(Command::new("cargo")
        .args(["build", "--release", "--locked", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(source("")))?;
    let release = target.join("release");
    Ok(Ok(Programs {
        tokio: release.join("hawk-peer-tokio"),
        floor: release.join("hawk-peer-floor"),
    }))
}

fn source(peer: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(peer)
}

/// Returns cargo's target directory, the parent of the temporary one.
fn target() -> anyhow::Result<PathBuf> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let target = scratch.parent().context("the target directory is a root")?;
    Ok(target.to_owned())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
