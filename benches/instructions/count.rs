//! Instructions of one operation, as callgrind counts them.
//!
//! The program runs itself under callgrind twice, with few and with many runs of
//! the operation. What it does besides is the same both times, so the difference
//! is the operation's own.

use hawk_testkit::operations::Operation;

/// Runs to begin with: after these all memory is as large as it gets.
const FEW: u64 = 10;

/// How many more make the difference.
const MORE: u64 = 50;

/// What is to be counted.
pub(crate) fn run(operation: &Operation, times: u64) {
    let mut run = (operation.prepare)();
    for _ in 0..times {
        run();
    }
}

/// Instructions that the operation takes once.
#[allow(clippy::cast_precision_loss)] // far below 2^53
pub(crate) fn instructions(operation: &Operation, name: &str) -> anyhow::Result<f64> {
    let few = collected(name, FEW)?;
    let many = collected(name, FEW + MORE)?;
    Ok((many - few) as f64 / (MORE * operation.times) as f64)
}

fn collected(name: &str, times: u64) -> anyhow::Result<u64> {
    // As many characters each time: arguments lie on the stack and move it.
    let times = format!("{times:04}");
    hawk_testkit::bench::callgrind::collected(&[], &["--run", name, "--times", &times])
}
