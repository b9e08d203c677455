//! The fuzz targets without libFuzzer: the corpus is tried anew, and, on demand,
//! the targets are fuzzed blindly. docs/testing.md describes their use.

#![allow(clippy::unwrap_used, clippy::panic)] // The helpers below are tests too.

mod blind;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use targets::{TARGETS, Target};

/// How long one input may take. Any takes milliseconds, but a decoder that no longer
/// moves on takes for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Every input that was ever worth keeping, through its target.
#[test]
fn nothing_in_the_corpus_finds_anything() {
    let inputs: Vec<(Target, PathBuf, Vec<u8>)> = TARGETS
        .into_iter()
        .flat_map(|target| {
            let named = move |(path, input)| (target, path, input);
            corpus(target).into_iter().map(named)
        })
        .collect();
    let mut paths: Vec<PathBuf> = inputs.iter().map(|(_, path, _)| path.clone()).collect();
    let (done, next) = mpsc::channel();
    thread::spawn(move || {
        for (target, _, input) in inputs {
            let _gone = done.send(holds(target, &input));
        }
    });
    paths.retain(|path| match next.recv_timeout(PATIENCE) {
        Ok(holds) => !holds,
        Err(error) => panic!("{}: {error}", path.display()),
    });
    assert!(paths.is_empty(), "{paths:#?}");
}

#[test]
fn every_target_has_a_binary_for_libfuzzer() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for Target { name, .. } in TARGETS {
        let path = format!("fuzz_targets/{name}.rs");
        let binary = fs::read_to_string(folder().join(&path)).unwrap();
        assert!(binary.contains(&format!("hawk_fuzz::{name}(input)")));
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"\n")));
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}

/// Where all of fuzzing is.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The inputs that are kept for a target; there must be some.
fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = folder().join("corpus").join(target.name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!paths.is_empty(), "{folder:?} is empty");
    paths.sort_unstable();
    let read = |path: PathBuf| {
        let input = fs::read(&path).unwrap();
        (path, input)
    };
    paths.into_iter().map(read).collect()
}

/// Returns whether a target finds no fault with `input`. Its panic prints the fault.
fn holds(target: Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok()
}
