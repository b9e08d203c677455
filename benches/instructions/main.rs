//! Counts the instructions of single operations with callgrind, independent of the
//! machine's noise, and compares them with `benches/instructions.txt`.
//!
//! ```text
//! cargo bench --bench instructions                # exit code 1: some take more, or are gone
//! cargo bench --bench instructions -- --update    # write the file anew
//! ```

// A benchmark prints its report, in Markdown, on standard output.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod baseline;
mod count;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use baseline::{Baseline, Conditions};
use hawk_testkit::operations::{Operation, unusual};

/// Counts instructions and compares them with the last ones.
#[derive(Parser)]
struct Options {
    /// Count only operations with this in their name
    filter: Option<String>,
    /// Write the counts into the file of the last ones, instead of comparing
    #[arg(long, conflicts_with = "filter")]
    update: bool,
    /// Most percent above the last counts
    #[arg(long, default_value_t = 3.0)]
    tolerance: f64,
    /// The last counts
    #[arg(long, value_name = "FILE", default_value = FILE)]
    file: PathBuf,
    /// Run the operation with this name, under callgrind
    #[arg(long, hide = true, requires = "times")]
    run: Option<String>,
    #[arg(long, hide = true)]
    times: Option<u64>,
    /// Print the processor's features, under valgrind
    #[arg(long, hide = true)]
    features: bool,
    /// Set by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    bench: bool,
}

/// Most of the instructions of a classic report that a compact one may take.
const COMPACT: f64 = 0.75;

/// Most of the instructions of a valid frame of the same shape that an unusual one may take,
/// and of a plain one of the same size.
const BY_VALID: f64 = 2.0;
const BY_PLAIN: f64 = 6.0;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

/// Returns the name of an operation in the file and on the command line.
fn name(operation: &Operation) -> String {
    format!("{}: {}", operation.group, operation.name)
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    if options.features {
        println!("{}", baseline::features());
        return Ok(ExitCode::SUCCESS);
    }
    let operations = hawk_testkit::operations::all();
    if let (Some(wanted), Some(times)) = (&options.run, options.times) {
        let operation = operations.iter().find(|it| name(it) == *wanted);
        count::run(operation.context("no such operation")?, times);
        return Ok(ExitCode::SUCCESS);
    }
    if !options.bench {
        println!("nothing to test here; measure with: cargo bench --bench instructions");
        return Ok(ExitCode::SUCCESS);
    }
    if !hawk_testkit::bench::callgrind::is_there() {
        println!("{}", hawk_testkit::bench::callgrind::MISSING);
        return Ok(ExitCode::SUCCESS);
    }
    let mut counts = Vec::new();
    for operation in &operations {
        let name = name(operation);
        if options
            .filter
            .as_ref()
            .is_none_or(|filter| name.contains(filter))
        {
            let count = count::instructions(operation, &name)?;
            counts.push((name, count));
        }
    }
    let found = Baseline {
        conditions: Conditions::here()?,
        counts,
    };
    let before = Baseline::read(&options.file)?;
    let comparable = before
        .as_ref()
        .filter(|before| before.conditions == found.conditions);
    let more = table(&found, comparable, options.tolerance);
    compact_by_classic(&found);
    unusual_by_valid(&found);
    if options.update {
        found.write(&options.file)?;
        println!("\nwritten to {}", options.file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let gone: Vec<&str> = before
        .iter()
        .flat_map(Baseline::names)
        .filter(|before| !operations.iter().any(|it| name(it) == *before))
        .collect();
    for name in &gone {
        println!(
            "\n{name}: has a last count but is no operation any more; if that is meant: \
             make bench-instructions UPDATE=1"
        );
    }
    match (&before, comparable) {
        (None, _) => println!("\nnothing to compare with: make bench-instructions UPDATE=1"),
        (Some(before), None) => println!(
            "\nnot compared: the last counts are of {}; these of {}",
            before.conditions, found.conditions
        ),
        (Some(_), Some(_)) => println!(
            "\n{more} of {} take over {} % more instructions than before",
            found.counts.len(),
            options.tolerance
        ),
    }
    Ok(if more > 0 || !gone.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints all counts beside the last, and returns the number of regressions.
fn table(found: &Baseline, before: Option<&Baseline>, tolerance: f64) -> usize {
    println!("| operation | instructions | before | change | |");
    println!("|---|---|---|---|---|");
    let mut more = 0;
    for (name, count) in &found.counts {
        let Some(before) = before.and_then(|before| before.count(name)) else {
            println!("| {name} | {count:.1} | | | |");
            continue;
        };
        let change = 100.0 * (count - before) / before;
        let verdict = if change > tolerance {
            more += 1;
            "**more**"
        } else if change < -tolerance {
            "less"
        } else {
            ""
        };
        println!("| {name} | {count:.1} | {before:.1} | {change:+.1} % | {verdict} |");
    }
    more
}

fn compact_by_classic(found: &Baseline) {
    let [classic, compact] = ["session: classic report", "session: compact report"];
    if let (Some(classic), Some(compact)) = (found.count(classic), found.count(compact)) {
        let ratio = compact / classic;
        let verdict = if ratio <= COMPACT {
            "met"
        } else {
            "**missed**"
        };
        println!(
            "\nA compact report through a session takes {ratio:.2} of the instructions of a \
             classic one; target ≤ {COMPACT}: {verdict}"
        );
    }
}

/// Prints the counts of unusual frames beside valid frames of their shape and beside plain
/// ones.
fn unusual_by_valid(found: &Baseline) {
    let count = |name: &str| found.count(&format!("{}: {name}", unusual::GROUP));
    let mut rows = Vec::new();
    for shape in unusual::SHAPES {
        let plain = unusual::PLAIN
            .iter()
            .find(|plain| plain[..7] == shape.name[..7]);
        if let Some(taken) = count(shape.name)
            && let Some(valid) = count(shape.valid)
            && let Some(plain) = plain.and_then(|plain| count(plain))
        {
            rows.push((shape.name, taken / valid, taken / plain));
        }
    }
    if rows.is_empty() {
        return;
    }
    println!(
        "\n| frame of 59 kB | by a valid one of its shape, ≤ {BY_VALID} | by a plain one, ≤ {BY_PLAIN} | |"
    );
    println!("|---|---|---|---|");
    for (name, by_valid, by_plain) in rows {
        let verdict = if by_valid <= BY_VALID && by_plain <= BY_PLAIN {
            "met"
        } else {
            "**missed**"
        };
        println!("| {name} | {by_valid:.2} | {by_plain:.2} | {verdict} |");
    }
}
