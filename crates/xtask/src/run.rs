//! Starting a tool: shown as it would be typed, its output untouched, its failure ours.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// One tool with its arguments.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) command: Command,
}

/// The repository this xtask was built in.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> PathBuf {
    option_env!("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), Into::into)
}

/// The cargo that built this xtask.
pub(crate) fn cargo(args: &[&str]) -> Step {
    let step = Step::new(option_env!("CARGO").unwrap_or("cargo"));
    step.args(args)
}

impl Step {
    /// A tool, to be run at the root of the repository.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(repository());
        Self { command }
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: &[S]) -> Self {
        self.command.args(args);
        self
    }

    fn typed(&self) -> String {
        let program = Path::new(self.command.get_program()).file_name().unwrap_or_default();
        let words = std::iter::once(program).chain(self.command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }

    /// Runs it to its end, its output on ours.
    pub(crate) fn run(mut self) -> Result<()> {
        let typed = self.typed();
        crate::say(&typed);
        let status = self.command.status().with_context(|| format!("cannot start {typed}"))?;
        ensure!(status.success(), "{typed}: {status}");
        Ok(())
    }

    /// Runs it to its end, its output on ours, and gives its exit status; a signal is none.
    pub(crate) fn status(mut self) -> Result<Option<i32>> {
        let typed = self.typed();
        crate::say(&typed);
        Ok(self.command.status().with_context(|| format!("cannot start {typed}"))?.code())
    }

    /// Runs it to its end and shows its output only if it fails.
    pub(crate) fn run_quietly(mut self) -> Result<()> {
        let typed = self.typed();
        let output = self.command.output().with_context(|| format!("cannot start {typed}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        ensure!(output.status.success(), "{typed}: {}: {last}", output.status);
        Ok(())
    }
}

/// Whether a tool can be started and succeeds; its output is dropped.
pub(crate) fn answers(mut step: Step) -> bool {
    let command = step.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
