//! The program `aya` under a name of this package, so that its tests can start it; with the allocator that it is shipped with.

#[global_allocator]
static ALLOCATOR: aya_cli::Allocator = aya_cli::Allocator;

fn main() -> std::process::ExitCode {
    aya_cli::main()
}
