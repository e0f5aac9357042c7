//! The one place that writes to stdout and stderr. A reader that has gone is no error.

use std::io::{self, IsTerminal, Write};

/// Data, with a line end.
pub(crate) fn say(text: &str) {
    let mut stdout = io::stdout().lock();
    // `aya decisions | head` closes the pipe early, and that is fine.
    let _ = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}

/// A complaint, with a line end.
pub(crate) fn complain(text: &str) {
    // Nobody is left to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether stdout is a terminal of somebody who has not set `NO_COLOR`.
pub(crate) fn colour() -> bool {
    io::stdout().is_terminal() && colour_wanted()
}

/// Whether stderr is one.
pub(crate) fn colour_of_log() -> bool {
    io::stderr().is_terminal() && colour_wanted()
}

/// As no-color.org has it: set and not empty.
fn colour_wanted() -> bool {
    !aya_config::process_env().iter().any(|(name, value)| name == "NO_COLOR" && !value.is_empty())
}
