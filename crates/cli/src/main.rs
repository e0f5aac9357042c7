//! The binary `aya`. Everything is in the library, so that tests can run the same program.

use std::process::ExitCode;

/// A request is freed by the journal's thread, not by the one that made it; the C library's allocator pays for that with a lock.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    aya_cli::main()
}
