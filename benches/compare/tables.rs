//! The report, in Markdown.

use crate::contestants::Contestant;
use crate::loads::{Figure, Part};
use crate::side_by_side::{Entry, Outcome};
use hawk_testkit::bench::say;
use hawk_testkit::bench::spread::met;

/// Most memory that hawk may have resident under the original's load.
const RESIDENT: f64 = 4.0 * 1024.0 * 1024.0;

/// Below this use a core counts as not full.
const FULL: f64 = 0.95;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// Prints one load: figures, ratios, and remarks.
pub(crate) fn outcome(outcome: &Outcome) {
    say!("\n### {}\n", outcome.load);
    say!(
        "| server | replies, 1000/s | CPU, ns per frame | p99, µs | most memory, MiB | \
         server's core, % | client's core, % |"
    );
    say!("|---|---|---|---|---|---|---|");
    outcome.contestants.iter().for_each(row);
    if !outcome.ratios.is_empty() {
        say!("\n| hawk by | replies a second | CPU time per frame | target | |");
        say!("|---|---|---|---|---|");
    }
    for ratios in &outcome.ratios {
        let target = match ratios.target {
            Some(target) if target.figure == Figure::Rate => {
                format!("replies ≥ {}", target.ratio)
            }
            Some(target) => format!("CPU time ≤ {}", target.ratio),
            None => String::new(),
        };
        say!(
            "| {} | {:.2} | {:.2} | {target} | {} |",
            ratios.against.name(),
            ratios.rate,
            ratios.cpu,
            ratios.is_met.map_or("", met)
        );
    }
    let notes = notes(outcome);
    if !notes.is_empty() {
        say!();
    }
    for note in notes {
        say!("- {note}");
    }
}

fn row(entry: &Entry) {
    let figures = &entry.figures;
    say!(
        "| {} | {:.1} | {:.0} | {:.0} | {:.1} | {:.0} | {:.0} |",
        entry.contestant.name(),
        figures.per_second.scaled(1e-3),
        figures.cpu_ns_per_frame,
        figures.p99_seconds.scaled(1e6),
        figures.resident_bytes.scaled(1.0 / MEBIBYTE),
        figures.cpu_share.median * 100.0,
        figures.client_share.median * 100.0
    );
}

fn notes(outcome: &Outcome) -> Vec<String> {
    let mut notes = Vec::new();
    if outcome.part == Part::Original {
        notes.extend(hawks_memory(outcome));
    } else {
        for (is_limit, what) in [
            (
                Limit::Client,
                "its load client's core was full and its own was not: the client set the pace, \
                 the rate is a lower bound, CPU time per frame is the fairer figure",
            ),
            (
                Limit::Neither,
                "neither core was full: both waited for each other, for a disk or for the \
                 machine's other guests; CPU time per frame is the fairer figure",
            ),
        ] {
            let entries = outcome.contestants.iter();
            let names: Vec<_> = entries
                .filter(|entry| limit(entry) == is_limit)
                .map(|entry| entry.contestant.name())
                .collect();
            if !names.is_empty() {
                notes.push(format!("{}: {what}", names.join("; ")));
            }
        }
    }
    for Entry {
        contestant,
        figures,
    } in &outcome.contestants
    {
        if figures.errors.max > 0.0 {
            let why = match contestant {
                // With a goroutine per packet, a heartbeat's reply may overtake a report's.
                Contestant::Goroutine => ", as they overtook each other",
                _ => "",
            };
            notes.push(format!(
                "{}: {:.0} replies were wrong or missing{why}",
                contestant.name(),
                figures.errors
            ));
        }
    }
    notes
}

/// Says which side limited a closed loop.
#[derive(PartialEq, Eq)]
enum Limit {
    Server,
    Client,
    Neither,
}

fn limit(entry: &Entry) -> Limit {
    if entry.figures.cpu_share.median >= FULL {
        Limit::Server
    } else if entry.figures.client_share.median >= FULL {
        Limit::Client
    } else {
        Limit::Neither
    }
}

fn hawks_memory(outcome: &Outcome) -> Option<String> {
    let mut entries = outcome.contestants.iter();
    let hawk = entries.find(|entry| entry.contestant == Contestant::Hawk)?;
    let memory = hawk.figures.resident_bytes;
    Some(format!(
        "most memory of hawk: {:.1} MiB; target ≤ 4 MiB: {}",
        memory.scaled(1.0 / MEBIBYTE),
        met(memory.median <= RESIDENT)
    ))
}
