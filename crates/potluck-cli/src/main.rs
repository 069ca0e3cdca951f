//! The `potluck` binary: everything is in the library, so that tests and benches can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    potluck_cli::main()
}
