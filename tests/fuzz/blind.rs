//! A harness for machines without cargo-fuzz: it changes inputs of the corpus at
//! random. It sees nothing of the code that they reach, so it learns nothing.

#![allow(clippy::print_stdout)] // Its figures are what it is run for.

use std::fs;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::targets::TARGETS;
use super::{corpus, folder, holds};

/// Inputs are kept below this: longer ones take long and show little more.
const LONGEST: usize = 4096;

/// Each target for `HAWK_FUZZ_TIME` seconds, by default one, with inputs that are
/// drawn from `HAWK_FUZZ_SEED`.
#[test]
#[ignore = "takes a minute for each target; make fuzz runs it where cargo-fuzz is missing"]
fn changed_inputs_find_nothing() {
    let time = Duration::from_secs(number("HAWK_FUZZ_TIME").unwrap_or(1));
    let seed = number("HAWK_FUZZ_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut findings = Vec::new();
    for target in TARGETS {
        let mut random = SmallRng::seed_from_u64(seed);
        let corpus: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
        let (start, mut executions) = (Instant::now(), 0_u64);
        while start.elapsed() < time {
            let input = changed(&corpus, &mut random);
            executions += 1;
            if !holds(target, &input) {
                let folder = folder().join("artifacts").join(target.name);
                fs::create_dir_all(&folder).unwrap();
                let path = folder.join(format!("blind-{seed}-{executions}"));
                fs::write(&path, input).unwrap();
                findings.push(path);
                break;
            }
        }
        println!("{:<10} {executions} executions", target.name);
    }
    assert!(findings.is_empty(), "{findings:#?}");
}

/// The number that a variable is set to, if it is set.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// An input of the corpus with a few changes.
fn changed(corpus: &[Vec<u8>], random: &mut SmallRng) -> Vec<u8> {
    let any = |random: &mut SmallRng| corpus.choose(random).unwrap().clone();
    let mut input = any(random);
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=input.len());
        let to = random.random_range(at..=input.len().min(at + 32));
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => input.insert(at, *[0, 0xFF, 0xFE, b'"', b'\\'].choose(random).unwrap()),
            3 => drop(input.drain(at..to)),
            4 => {
                let again = input[at..to].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = any(random);
                let from = random.random_range(0..=other.len());
                let to = random.random_range(from..=other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    input.truncate(LONGEST);
    input
}
