//! The project's own commands: `cargo xtask test`, `ci`, `bench`, `hardware`, `tidy`.
//!
//! They start the tools a contributor would start by hand, with the same output, and fail if one of them fails.

mod bench;
mod engines;
mod hardware;
mod run;
#[cfg(test)]
mod tests;
mod tidy;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::run::{cargo, repository};

/// Automation of the Aya repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Command {
    /// Run every test; the engines and clients of the end-to-end tests are set up under target/ first.
    Test {
        /// Fail if the real engines cannot be set up, instead of skipping their tests.
        #[arg(long)]
        require_engines: bool,
        /// Passed on to the test runner, such as a filter.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Everything that a change has to pass: formatting, lints, tests, doc tests, documentation, benches.
    Ci,
    /// Measure this build; see benches/METHOD.md.
    Bench {
        /// Which measurement.
        bench: bench::Bench,
        /// Passed on to it, such as a criterion filter or `--rounds 5`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run agent and NVML tests on this machine's NVIDIA GPUs and record what they say, idle and under load.
    ///
    /// Exit status 3: there is no NVIDIA driver here, and nothing was checked.
    Hardware(hardware::Args),
    /// The rules that neither compiler nor clippy can hold; also one of the tests.
    Tidy,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Test { require_engines, args } => test(require_engines, &args),
        Command::Ci => ci(),
        Command::Bench { bench, args } => bench::run(bench, &args),
        Command::Hardware(args) => match hardware::run(&args) {
            Ok(hardware::Done::Checked) => Ok(()),
            Ok(hardware::Done::NoDriver) => return ExitCode::from(hardware::NO_DRIVER),
            Err(error) => Err(error),
        },
        Command::Tidy => tidy(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Progress and errors; the tools' own output goes where they send it.
fn say(line: &str) {
    // Nothing useful can be done about a closed stderr.
    let _ = writeln!(std::io::stderr().lock(), "xtask: {line}");
}

fn test(require_engines: bool, args: &[String]) -> Result<()> {
    let engines = engines::set_up();
    let mut step = if run::answers(cargo(&["nextest", "--version"])) {
        cargo(&["nextest", "run"])
    } else {
        say("cargo-nextest is not installed (cargo install cargo-nextest --locked); using cargo test");
        cargo(&["test", "--all-targets"])
    };
    // Both runners take --workspace for all packages even if some are named.
    if !args.iter().any(|arg| arg == "-p" || arg.starts_with("--package")) {
        step.command.arg("--workspace");
    }
    let missing = match &engines {
        Ok(engines) => {
            step.command.env("AYA_TEST_PYTHON", &engines.python).env("AYA_TEST_GGUF", &engines.model);
            None
        }
        Err(error) if require_engines => anyhow::bail!("the real engines cannot be set up: {error:#}"),
        Err(error) => Some(format!("the tests with real engines and clients were SKIPPED: {error:#}")),
    };
    if let Some(missing) = &missing {
        say(missing);
    }
    step.command.args(args);
    step.run()?;
    let no_driver = hardware::tests_where_there_is_a_driver()?;
    missing.iter().chain(&no_driver).for_each(|missing| say(missing));
    Ok(())
}

fn ci() -> Result<()> {
    cargo(&["fmt", "--all", "--check"]).run()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    test(false, &[])?;
    cargo(&["test", "--workspace", "--doc"]).run()?;
    let mut documentation = cargo(&["doc", "--workspace", "--no-deps", "--document-private-items"]);
    documentation.command.env("RUSTDOCFLAGS", "-D warnings");
    documentation.run()?;
    // The dev profile: this step asks whether they build, not how fast they are.
    cargo(&["bench", "--workspace", "--no-run", "--profile", "dev"]).run()?;
    say("all steps passed");
    Ok(())
}

fn tidy() -> Result<()> {
    let found = tidy::violations(&repository())?;
    for violation in &found {
        say(violation);
    }
    anyhow::ensure!(found.is_empty(), "{} tidy rules are broken", found.len());
    Ok(())
}
