//! Instructions of the decoder, counted by valgrind's callgrind: the worst streams, against
//! valid frames of the same size.
//!
//! This program runs itself under callgrind, with `--decode`, and then runs only the
//! decoder. Only instructions of [`call_of_decode`] are counted.

mod search;
pub(crate) mod streams;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use hawk_wire::{Decoded, Decoder, Input, Step};
use serde::Serialize;

pub(crate) use self::search::search;
use self::streams::{LENGTH, SIZES, Stream, valid, worst};
use hawk_testkit::bench::spread::met;
use hawk_testkit::bench::{Setup, callgrind, say};

/// Most instructions for the worst stream, relative to valid frames.
const TARGET: f64 = 2.0;

/// Instructions for each byte of a stream.
#[derive(Serialize)]
pub(crate) struct Outcome {
    stream: &'static str,
    /// Bytes of each valid frame of the comparison.
    frame: usize,
    whole: Cost,
    byte_a_read: Cost,
}

#[derive(Clone, Copy, Serialize)]
struct Cost {
    instructions_per_byte: f64,
    valid: f64,
    ratio: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Vec<Outcome>> {
    if !callgrind::is_there() {
        say!("\n{}", callgrind::MISSING);
        return Ok(Vec::new());
    }
    let count = |bytes: &[u8], piece| count(setup, bytes, piece);
    let mut baselines = Vec::new();
    for size in SIZES {
        let bytes = valid(size);
        baselines.push((size, count(&bytes, LENGTH)?, count(&bytes, 1)?));
    }
    let mut outcomes = Vec::new();
    for stream in worst() {
        let Stream { name, like, .. } = stream;
        let bytes = stream.bytes();
        let baseline = baselines.iter().find(|(size, ..)| *size == like);
        let &(_, whole, byte_a_read) = baseline.context("no baseline of that size")?;
        let cost = |instructions, valid| Cost {
            instructions_per_byte: instructions,
            valid,
            ratio: instructions / valid,
        };
        outcomes.push(Outcome {
            stream: name,
            frame: like,
            whole: cost(count(&bytes, LENGTH)?, whole),
            byte_a_read: cost(count(&bytes, 1)?, byte_a_read),
        });
    }
    print(&outcomes);
    Ok(outcomes)
}

/// Returns the decoder's instructions for each byte, when `bytes` arrive in pieces.
#[allow(clippy::cast_precision_loss)] // far below 2^53
fn count(setup: &Setup, bytes: &[u8], piece: usize) -> anyhow::Result<f64> {
    let file = setup.scratch.join("stream");
    fs::write(&file, bytes)?;
    let file = file
        .to_str()
        .context("the scratch directory's name is no UTF-8")?;
    let options = ["--collect-atstart=no", "--toggle-collect=*call_of_decode*"];
    let piece = piece.to_string();
    let arguments = ["--bench", "--piece", &piece, "--decode", file];
    let total = callgrind::collected(&options, &arguments)?;
    Ok(total as f64 / bytes.len() as f64)
}

/// Decodes the stream: the run under callgrind.
pub(crate) fn drive(input: &Path, piece: usize) -> anyhow::Result<()> {
    let bytes = fs::read(input)?;
    say!("{} frames", decode_in_pieces(&bytes, piece));
    Ok(())
}

/// Returns the number of frames, valid or not, found in `stream` when it arrives in pieces.
fn decode_in_pieces(stream: &[u8], piece: usize) -> u32 {
    let mut decoder = Decoder::default();
    let mut found = 0;
    let (mut start, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + piece).min(stream.len());
        loop {
            let decoded = call_of_decode(&mut decoder, &stream[start..end]);
            start += decoded.consumed;
            match decoded.step {
                Step::Frame(_) | Step::ChecksumMismatch => found += 1,
                Step::Incomplete => break,
                Step::JunkLimit => return found,
            }
        }
    }
    found
}

/// A separate function, so that callgrind can count it.
#[inline(never)]
fn call_of_decode<'a>(decoder: &mut Decoder, window: &'a [u8]) -> Decoded<'a> {
    decoder.decode(window, Input::Open)
}

fn print(outcomes: &[Outcome]) {
    say!("\n### Decoder: instructions for each byte, worst streams and valid frames\n");
    say!(
        "| stream | compared with valid frames of | at once | valid | ratio | a byte a read | valid | ratio | ≤ {TARGET:.0} |"
    );
    say!("|---|---|---|---|---|---|---|---|---|");
    for Outcome {
        stream,
        frame,
        whole,
        byte_a_read,
    } in outcomes
    {
        say!(
            "| {stream} | {frame} bytes | {:.2} | {:.2} | {:.2} | {:.1} | {:.1} | {:.2} | {} |",
            whole.instructions_per_byte,
            whole.valid,
            whole.ratio,
            byte_a_read.instructions_per_byte,
            byte_a_read.valid,
            byte_a_read.ratio,
            met(whole.ratio <= TARGET && byte_a_read.ratio <= TARGET)
        );
    }
}
