//! Counts the instructions of one operation with callgrind.
//!
//! The program runs itself under callgrind twice, with few and with many runs of the
//! operation. All other work is the same both times, so the difference is the operation's.

use hawk_testkit::operations::Operation;

/// Warm-up runs: after these all buffers have their final size.
const FEW: u64 = 10;

/// Further runs, which make the difference.
const MORE: u64 = 50;

/// The program to count.
pub(crate) fn run(operation: &Operation, times: u64) {
    let mut run = (operation.prepare)();
    for _ in 0..times {
        run();
    }
}

/// Returns the instructions of one run of the operation.
#[allow(clippy::cast_precision_loss)] // far below 2^53
pub(crate) fn instructions(operation: &Operation, name: &str) -> anyhow::Result<f64> {
    let few = collected(name, FEW)?;
    let many = collected(name, FEW + MORE)?;
    Ok((many - few) as f64 / (MORE * operation.times) as f64)
}

fn collected(name: &str, times: u64) -> anyhow::Result<u64> {
    // Always as many characters, because arguments lie on the stack and move it.
    let times = format!("{times:04}");
    hawk_testkit::bench::callgrind::collected(&[], &["--run", name, "--times", &times])
}
