//! The binary `aya`. Everything is in the library, so that tests can run the same program.

use std::process::ExitCode;

fn main() -> ExitCode {
    aya_cli::main()
}
