//! Agent and NVML tests on the NVIDIA GPUs of this machine, and a recording of what they say for machines without.
//!
//! Nothing of the driver is changed. What runs here ends by SIGTERM: killing a program in the middle of a driver call has
//! hung GPUs.

use std::path::{Path, PathBuf, absolute};
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::run::{Step, cargo, repository, target};

/// Exit status where there is no NVIDIA driver: neither passed nor failed.
pub(crate) const NO_DRIVER: u8 = 3;
/// Where a loaded kernel driver shows: Linux, and Windows' subsystem for it.
const KERNEL_DRIVERS: [&str; 2] = ["/proc/driver/nvidia/version", "/dev/dxg"];
/// How long the agent runs.
const AGENT_SECONDS: &str = "8";
/// What `timeout` answers when its time has come, which is how the agent is to end.
const ENDED_BY_TIMEOUT: i32 = 124;
/// How long a load has to begin, and to be left over after the recording, in seconds.
const WARM_UP_SECONDS: u32 = 10;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// NVML library, where it is not in the loader's path.
    #[arg(long, value_name = "PATH", value_parser = library)]
    nvml_lib: Option<PathBuf>,
    /// How long each recording is.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=3_600))]
    seconds: u32,
    /// Shell command that keeps the GPUs busy for longer than the recording; without it only idle GPUs are recorded.
    #[arg(long, value_name = "CMD")]
    load: Option<String>,
    /// Where the recordings go.
    #[arg(long, value_name = "DIR", default_value = "fixtures/nvml/recorded")]
    out: PathBuf,
}

/// A path that holds in every folder; what is no file of this one is a name that the loader knows.
fn library(path: &str) -> Result<PathBuf, std::io::Error> {
    if Path::new(path).exists() { absolute(path) } else { Ok(path.into()) }
}

/// How far it came.
#[derive(Debug)]
pub(crate) enum Done {
    Checked,
    NoDriver,
}

/// Everything, in this order: recording idle GPUs, the tests, the agent, recording under load.
pub(crate) fn run(args: &Args) -> Result<Done> {
    let fixtures = args.out == Path::new("fixtures/nvml/recorded");
    let fake = args.nvml_lib.as_ref().is_some_and(|lib| lib.to_string_lossy().contains("fake"));
    ensure!(!(fixtures && fake), "readings of the fake library are no fixture: give --out another folder");
    cargo(&["build", "-p", "aya-cli", "--bins"]).run()?;
    cargo(&["build", "-p", "aya-gpu", "--example", "record"]).run()?;
    if matches!(record(args, "idle")?, Done::NoDriver) {
        crate::say(
            "NO NVIDIA DRIVER ON THIS MACHINE: nothing was checked and nothing recorded (exit status 3)",
        );
        return Ok(Done::NoDriver);
    }
    tests(args.nvml_lib.as_deref())?;
    agent(args)?;
    match &args.load {
        Some(load) => under_load(args, load)?,
        None => crate::say("ONLY IDLE GPUS WERE RECORDED: --load CMD records them under load as well"),
    }
    Ok(Done::Checked)
}

/// The tests that need a driver; without a library, on the system's.
fn tests(nvml_lib: Option<&Path>) -> Result<()> {
    let mut tests = cargo(&["test", "-p", "aya-gpu", "--lib", "hardware", "--", "--ignored", "--nocapture"]);
    tests.command.env("AYA_TEST_NVML_LIB", nvml_lib.unwrap_or(Path::new("")));
    tests.run()
}

/// Runs them as a part of all tests on a machine that has a driver; elsewhere, what to say about it.
pub(crate) fn tests_where_there_is_a_driver() -> Result<Option<String>> {
    if KERNEL_DRIVERS.iter().any(|path| Path::new(path).exists()) {
        return tests(None).map(|()| None);
    }
    Ok(Some(
        "the tests on real GPUs (nvml::tests::hardware) were SKIPPED: this machine has no NVIDIA driver"
            .to_owned(),
    ))
}

fn record(args: &Args, state: &str) -> Result<Done> {
    let seconds = args.seconds.to_string();
    let mut step = Step::new(target().join("debug/examples/record"));
    step.command.arg(repository().join(&args.out)).args([state, &seconds]).args(&args.nvml_lib);
    match step.status()? {
        Some(0) => Ok(Done::Checked),
        Some(code) if code == i32::from(NO_DRIVER) => Ok(Done::NoDriver),
        code => bail!("the {state} GPUs could not be recorded (exit status {code:?})"),
    }
}

/// The whole agent, for some seconds, without a scheduler: it has to last, and to end when it is told to.
fn agent(args: &Args) -> Result<()> {
    let mut step = Step::new("timeout").args(&["--signal=TERM", "--kill-after=10", AGENT_SECONDS]);
    step.command.arg(target().join("debug/aya")).args(["agent", "--gpu-source", "nvml"]);
    step.command.args(["--scheduler", "http://127.0.0.1:9", "--admin-listen", "127.0.0.1:0"]);
    if let Some(lib) = &args.nvml_lib {
        step.command.arg("--nvml-lib").arg(lib);
    }
    let code = step.status()?;
    ensure!(code == Some(ENDED_BY_TIMEOUT), "the agent did not run and end as it was told to ({code:?})");
    Ok(())
}

/// A load that is told to end with whoever started it.
struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        // `timeout` passes the signal on to the whole group of the command; a load that has ended needs none.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

fn under_load(args: &Args, command: &str) -> Result<()> {
    crate::say(&format!("load: {command}"));
    let limit = (args.seconds + 6 * WARM_UP_SECONDS).to_string();
    let mut shell = Command::new("timeout");
    shell.args(["--signal=TERM", "--kill-after=30", &limit, "sh", "-c", command]).current_dir(repository());
    let mut load = Load(shell.spawn().with_context(|| format!("cannot start {command}"))?);
    Step::new("sleep").args(&[WARM_UP_SECONDS.to_string()]).run()?;
    record(args, "load")?;
    let ended = load.0.try_wait().context("cannot look after the load")?;
    ensure!(
        ended.is_none(),
        "the load ended before the recording did ({ended:?}): the recording is not of a load"
    );
    Ok(())
}
