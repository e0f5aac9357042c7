//! The program `aya` under a name of this package, so that its tests can start it; with the allocator that it is shipped with.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    aya_cli::main()
}
