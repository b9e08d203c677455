//! Times single operations.
//!
//! ```text
//! cargo bench --bench micro -- decode                   # operations with this in their name
//! cargo bench --bench micro -- --save-baseline before   # … and later:
//! cargo bench --bench micro -- --baseline before
//! ```

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // Long enough: an operation takes microseconds at most, and a sample has thousands.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for operation in hawk_testkit::operations::all() {
        let name = match operation.times {
            1 => operation.name.to_owned(),
            times => format!("{} × {times}", operation.name),
        };
        criterion
            .benchmark_group(operation.group)
            .bench_function(name, |bencher| {
                let mut run = (operation.prepare)();
                bencher.iter(&mut run);
            });
    }
    criterion.final_summary();
}
