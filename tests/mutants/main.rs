//! Does the simulator bite? The core is compiled once more with small deliberate
//! faults that sleep in it; each of them, woken, must be found within a million steps.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(unreachable_pub)]

mod copy;
mod table;

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use table::mutants;

/// Steps within which each must be found.
const STEPS: u64 = 1_000_000;

/// Only a mutant that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn every_mutant_has_its_place() {
    let places = copy::places(root());
    let lost: Vec<_> = places.into_iter().filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
#[ignore = "compiles the core once more: make mutants"]
fn every_mutant_is_caught() {
    let program = build();
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(vec![None; mutants().count() + 1]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > mutants().count() {
                        break;
                    }
                    let end = run(&program, number);
                    rows.lock().unwrap()[number] = Some(end);
                }
            });
        }
    });
    let rows = rows.into_inner().unwrap();
    let mut missed = Vec::new();
    for (number, end) in rows.iter().enumerate() {
        let name = match number {
            0 => "(none)",
            _ => mutants().nth(number - 1).map_or("?", |mutant| mutant.name),
        };
        println!("{number:>3} | {name} | {}", end.as_deref().unwrap_or("?"));
        if (number == 0) != (end.as_deref() == Some(UNNOTICED)) {
            missed.push(name);
        }
    }
    assert!(missed.is_empty(), "not as it should be: {missed:?}");
}

/// How a run ends that finds nothing.
const UNNOTICED: &str = "nothing is found";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles the copy; the simulator's program.
fn build() -> PathBuf {
    let folder = root().join("target/mutants");
    fs::create_dir_all(folder.join("pool")).unwrap();
    copy::write(root(), &folder).unwrap_or_else(|error| panic!("{error}"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "test",
            "--offline",
            "--profile",
            "mutants",
            "--test",
            "sim",
            "--no-run",
        ])
        .args(["--message-format", "json-render-diagnostics"])
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .current_dir(&folder)
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo starts");
    let messages = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the copy does not compile");
    let mut programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message["executable"].as_str()?))
    });
    programs.next().expect("cargo names the program")
}

/// Runs one mutant, or none; what the simulator found.
fn run(program: &Path, number: usize) -> String {
    let mut child = Command::new("sh")
        // A mutant that runs wild is not to take the machine's memory.
        .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
        .arg(program)
        .args(["--ignored", "--exact", "run::sim", "--nocapture"])
        .env("HAWK_MUTANT", number.to_string())
        .env("HAWK_SIM_STEPS", STEPS.to_string())
        .env_remove("HAWK_SIM_SEED")
        .env_remove("HAWK_SIM_TIME")
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the simulator starts");
    let mut stderr = child.stderr.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _all = stderr.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let begun = Instant::now();
    let success = loop {
        match child.try_wait().expect("it can be waited for") {
            Some(status) => break Some(status.success()),
            None if begun.elapsed() > PATIENCE => {
                let _gone = child.kill();
                let _status = child.wait();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let said = reader.join().unwrap_or_default();
    let find = |key: &str| said.lines().find_map(|line| line.split(key).nth(1));
    match success {
        Some(true) => UNNOTICED.to_owned(),
        None => "it hangs".to_owned(),
        Some(false) => {
            let what = find("broken: ")
                .unwrap_or("it crashes")
                .split(" (port")
                .next();
            let steps = find("steps_in_all=").unwrap_or("?");
            format!("{} | {steps}", what.unwrap_or("?"))
        }
    }
}
