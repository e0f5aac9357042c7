//! The one place that writes to stdout and stderr. A reader that has gone is no error.

use std::io::{self, Write};

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
