//! The machine and the programs of the measurement.

use std::fs;
use std::process::Command;

/// Returns one line, without unknown parts.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    let known = [
        processor().map(|name| format!("{cores} cores of {name}")),
        kernel.map(|release| format!("Linux {}", release.trim())),
        said("rustc", "--version"),
        said("go", "version"),
        said("redis-server", "--version"),
    ];
    let known: Vec<_> = known.into_iter().flatten().collect();
    known.join("; ")
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the first line of a program's output.
fn said(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    // The version; builds and hashes follow it.
    let words = text.split_whitespace().take(3);
    let words: Vec<_> = words.filter(|word| !word.starts_with('(')).collect();
    Some(words.join(" "))
}
