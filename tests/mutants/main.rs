//! Whether the simulator finds faults. The library is compiled once more with small deliberate
//! faults in it, each behind a condition; each of them, switched on, must be found within a
//! bounded number of steps.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]
#![allow(unreachable_pub)]

mod copy;
mod table;

use std::collections::HashMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use table::{World, mutants};

/// Only a mutant that hangs takes as long.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn every_mutant_has_its_place() {
    let places = copy::places(root());
    let lost: Vec<_> = places.into_iter().filter_map(Result::err).collect();
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}

#[test]
#[ignore = "compiles the library once more: make mutants"]
fn every_mutant_is_found() {
    let programs = build();
    // Each kind of world without a mutant, and each mutant; HAWK_MUTANT=71 picks one.
    let plain = World::ALL.map(|world| (0, "(none)", world));
    let numbered = (1..).zip(mutants());
    let numbered = numbered.map(|(number, mutant)| (number, mutant.name, mutant.world));
    let only: Option<usize> = std::env::var("HAWK_MUTANT")
        .ok()
        .map(|only| only.parse().unwrap());
    let runs: Vec<_> = plain
        .into_iter()
        .chain(numbered)
        .filter(|(number, ..)| only.is_none_or(|only| only == *number))
        .collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((number, name, world)) =
                    runs.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let end = run(&programs, *number, *world);
                    println!("{number:>3} | {name} | {end}");
                    if (*number == 0) != (end == NOTHING_FOUND) {
                        missed.lock().unwrap().push((*number, *name, *world));
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not as it should be: {missed:?}");
}

/// How a run ends that finds nothing.
const NOTHING_FOUND: &str = "nothing is found";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compiles the copy; returns the test programs by their names.
fn build() -> HashMap<String, PathBuf> {
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
            "--test",
            "worlds",
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
    let programs = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let name = message["target"]["name"].as_str()?.to_owned();
        Some((name, PathBuf::from(message["executable"].as_str()?)))
    });
    programs.collect()
}

/// Runs worlds with one mutant or, with the number 0, none; returns what they found.
fn run(programs: &HashMap<String, PathBuf>, number: usize, world: World) -> String {
    let (program, test) = world.test();
    let mut child = Command::new("sh")
        // A mutant that runs wild is not to take the machine's memory.
        .args(["-c", "ulimit -v 2000000; exec \"$0\" \"$@\""])
        .arg(&programs[program])
        .args(["--ignored", "--exact", test, "--nocapture"])
        .env("HAWK_MUTANT", number.to_string())
        .env("HAWK_SIM_STEPS", world.steps().to_string())
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
        Some(true) => NOTHING_FOUND.to_owned(),
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
