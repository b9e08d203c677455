//! The `hawk` binary; everything it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hawk::cli::main()
}
