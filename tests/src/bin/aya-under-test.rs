//! The program `aya` under a name of this package, so that its tests can start it.

fn main() -> std::process::ExitCode {
    aya_cli::main()
}
