//! Searches for streams that are expensive to decode: every short sequence of the bytes
//! with a meaning, repeated.

use std::time::{Duration, Instant};

use super::decode_in_pieces;
use super::streams::repeated;
use hawk_testkit::bench::say;

/// The bytes with a meaning, two small lengths, and one without a meaning.
const ALPHABET: [u8; 6] = [0xFF, 0xFE, 0, 1, 4, b'x'];

/// Sequences of up to so many bytes: there are 55,986 of them.
const LONGEST: usize = 6;

/// Bytes of each trial.
const TRIAL: usize = 8 * 1024;

/// A trial takes the fastest of so many runs, because disturbances only slow it down.
const ATTEMPTS: usize = 5;

/// Number of sequences printed.
const DEAREST: usize = 12;

/// Prints the sequences that take the decoder longest, at once and at a byte a read. These
/// are times, not instructions: they show which streams to count.
pub(crate) fn search() {
    for piece in [TRIAL, 1] {
        let mut found: Vec<(Duration, Vec<u8>)> = sequences()
            .map(|sequence| (time(&repeated(&sequence)[..TRIAL], piece), sequence))
            .collect();
        found.sort();
        say!("\n### The dearest sequences in reads of {piece}\n");
        for (taken, sequence) in found.iter().rev().take(DEAREST) {
            let nanoseconds = taken.as_secs_f64() * 1e9 / TRIAL as f64;
            say!("- {sequence:02X?}: {nanoseconds:.1} ns a byte");
        }
    }
}

fn sequences() -> impl Iterator<Item = Vec<u8>> {
    (1..=LONGEST).flat_map(|length| {
        let count = ALPHABET.len().pow(u32::try_from(length).unwrap_or(0));
        (0..count).map(move |mut number| {
            (0..length)
                .map(|_| {
                    let byte = ALPHABET[number % ALPHABET.len()];
                    number /= ALPHABET.len();
                    byte
                })
                .collect()
        })
    })
}

fn time(stream: &[u8], piece: usize) -> Duration {
    let attempts = (0..ATTEMPTS).map(|_| {
        let start = Instant::now();
        std::hint::black_box(decode_in_pieces(std::hint::black_box(stream), piece));
        start.elapsed()
    });
    attempts.min().unwrap_or_default()
}
