//! The one program: its commands, flags, tables and exit codes.
//!
//! Thin by rule: flags become configuration overlays, commands call the libraries, tables are pure functions of the
//! admin API's JSON. Data goes to stdout through [`out`], logs to stderr.

mod allocator;
mod args;
mod ask;
mod check;
mod decisions;
mod demo;
mod events;
mod exit;
mod explain;
mod fleet;
mod out;
mod policies;
mod replay;
mod serve;
mod simulate;
mod status;
mod table;
mod text;
mod why_not;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub use allocator::Allocator;
use args::{Args, Command};
use exit::Failure;

/// Runs the program with the process's arguments.
#[must_use]
pub fn main() -> ExitCode {
    aya_scheduler::prepare_process();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Scheduler(args) => serve::scheduler(&args),
        Command::Agent(args) => serve::agent(&args),
        Command::SimEngine(args) => serve::sim_engine(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Simulate(args) => simulate::run(&args),
        Command::Status(args) => ask::status(&args),
        Command::Decisions(args) => ask::decisions(&args),
        Command::Events(args) => ask::events(&args),
        Command::Explain(args) => ask::explain(&args),
        Command::Replay(args) => replay::run(&args),
        Command::CheckConfig(args) => check::config(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "aya", &mut script);
            out::say(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
    }
}
