//! The original demonstration's load, 7 connections with 300 senders of one
//! report a second each: what hawk and a goroutine server need for it.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::NO_STORE;
use crate::goroutine::Goroutine;
use crate::support::servers::{self, Server};
use crate::support::spread::{Spread, met};
use crate::support::{Setup, load, process, say};

/// Most of a goroutine server's CPU time that hawk may need.
const CPU_RATIO: f64 = 0.5;

/// Most memory that hawk may need.
const RESIDENT: f64 = 4.0 * 1024.0 * 1024.0;

/// For how long: long enough for some tens of the ticks in which Linux counts.
const DURATION: Duration = Duration::from_secs(10);

/// The figures; the goroutine server's and the ratio only where there is a Go.
#[derive(Serialize)]
pub(crate) struct Outcome {
    hawk: Figures,
    goroutine: Option<Figures>,
    cpu_ratio: Option<Spread>,
}

#[derive(Serialize)]
struct Figures {
    replies: Spread,
    errors: Spread,
    cpu_share: Spread,
    resident_bytes: Spread,
    resident_peak_bytes: Spread,
}

struct Round {
    replies: f64,
    errors: f64,
    cpu_share: f64,
    resident: f64,
    resident_peak: f64,
}

pub(crate) fn run(setup: &Setup) -> anyhow::Result<Outcome> {
    let goroutine = Goroutine::build()?;
    if let Err(missing) = &goroutine {
        say!("\nskipped: {missing}");
    }
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..setup.rounds {
        ours.push(round(setup, &servers::hawk(setup, NO_STORE)?)?);
        if let Ok(goroutine) = &goroutine {
            theirs.push(round(setup, &goroutine.start(setup)?)?);
        }
    }
    let ratios = ours
        .iter()
        .zip(&theirs)
        .map(|(a, b)| a.cpu_share / b.cpu_share);
    let ratios: Vec<f64> = ratios.collect();
    let outcome = Outcome {
        cpu_ratio: (!ratios.is_empty()).then(|| Spread::of(ratios)),
        hawk: figures(&ours),
        goroutine: (!theirs.is_empty()).then(|| figures(&theirs)),
    };
    print(&outcome);
    Ok(outcome)
}

#[allow(clippy::cast_precision_loss)] // bytes of memory are far below 2^53
fn round(setup: &Setup, server: &Server) -> anyhow::Result<Round> {
    let id = server.process.id();
    let cpu_before = process::cpu_time(id)?;
    let start = Instant::now();
    let mut resident = 0;
    let replied = load::hawk_load(setup, server, &[], DURATION, || {
        resident = process::memory(id, "VmRSS")?; // the last look is the one that counts
        Ok(())
    })?;
    let cpu = process::cpu_time(id)? - cpu_before;
    Ok(Round {
        replies: replied.replies,
        errors: replied.errors,
        cpu_share: cpu.as_secs_f64() / start.elapsed().as_secs_f64(),
        resident: resident as f64,
        resident_peak: process::memory(id, "VmHWM")? as f64,
    })
}

fn figures(rounds: &[Round]) -> Figures {
    Figures {
        replies: Spread::of(rounds.iter().map(|round| round.replies)),
        errors: Spread::of(rounds.iter().map(|round| round.errors)),
        cpu_share: Spread::of(rounds.iter().map(|round| round.cpu_share)),
        resident_bytes: Spread::of(rounds.iter().map(|round| round.resident)),
        resident_peak_bytes: Spread::of(rounds.iter().map(|round| round.resident_peak)),
    }
}

fn print(outcome: &Outcome) {
    let Outcome {
        hawk,
        goroutine,
        cpu_ratio,
    } = outcome;
    say!(
        "\n### The original's load: 7 connections × 300 senders × 1/s, {} s\n",
        DURATION.as_secs()
    );
    say!("| server | right replies | errors | CPU, % of a core | RSS, MiB | peak RSS, MiB |");
    say!("|---|---|---|---|---|---|");
    row("hawk", hawk);
    match goroutine {
        Some(goroutine) => row("goroutine per connection", goroutine),
        None => say!("| goroutine per connection | skipped | | | | |"),
    }
    // With a goroutine per packet, a heartbeat's reply may overtake a report's.
    say!("\n- errors of the goroutine server are replies that overtook each other");
    if let Some(ratio) = cpu_ratio {
        say!(
            "- CPU, hawk / goroutine: {ratio:.2}; target ≤ {CPU_RATIO:.1}: {}",
            met(ratio.median <= CPU_RATIO)
        );
    }
    say!(
        "- RSS of hawk: target ≤ 4 MiB: {}",
        met(hawk.resident_bytes.median <= RESIDENT)
    );
}

fn row(name: &str, figures: &Figures) {
    let Figures {
        replies,
        errors,
        cpu_share,
        resident_bytes,
        resident_peak_bytes,
    } = figures;
    let mebibytes = 1.0 / (1024.0 * 1024.0);
    say!(
        "| {name} | {replies:.0} | {errors:.0} | {:.1} | {:.1} | {:.1} |",
        cpu_share.scaled(100.0),
        resident_bytes.scaled(mebibytes),
        resident_peak_bytes.scaled(mebibytes)
    );
}
