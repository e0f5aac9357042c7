//! Exit codes, a contract: 0 ok, 1 failure, 2 usage or configuration, 3 unreachable, 4 not found.

use std::process::ExitCode;

use crate::out;

/// Why a command did not do its work; the variant is the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: it failed while it worked.
    Failed(anyhow::Error),
    /// 2: it was asked for something impossible; all problems, one per line.
    Usage(String),
    /// 3: nobody answers there.
    Unreachable(String),
    /// 4: what was asked for does not exist.
    NotFound(String),
}

impl Failure {
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::NotFound(_) => 4,
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Says what failed and gives the code.
pub(crate) fn report(failure: &Failure) -> ExitCode {
    match failure {
        // Our error types name their cause themselves.
        Failure::Failed(error) => out::complain(&format!("error: {error}")),
        Failure::Usage(problems) => out::complain(problems),
        Failure::Unreachable(text) | Failure::NotFound(text) => out::complain(&format!("error: {text}")),
    }
    ExitCode::from(failure.code())
}

/// clap's own answers: help and version are no failures.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // A closed pipe is the reader's choice.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS }
}
