//! The binary `aya`. Everything is in the library, so that tests can run the same program.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: aya_cli::Allocator = aya_cli::Allocator;

fn main() -> ExitCode {
    aya_cli::main()
}
