//! The program's log: lines on stderr, as text or JSON, filtered by target and level.
//!
//! Prompts, keys and tokens never reach a log line; callers log sizes and ids.

use std::io;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line, for a log shipper.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not of the form `info,aya_proxy=debug`.
    #[error("bad log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// This process already has a log.
    #[error("the log is already set up")]
    Twice(#[from] TryInitError),
}

/// Whether a filter such as `info,aya_proxy=debug` is well formed, for checking a configuration.
///
/// # Errors
/// [`LoggingError::Filter`] if it is not.
pub fn check_filter(filter: &str) -> Result<(), LoggingError> {
    EnvFilter::try_new(filter).map(|_| ()).map_err(LoggingError::from)
}

/// Sends the process's log to stderr from now on. `colour` is for text on a terminal where `NO_COLOR` is not set.
///
/// # Errors
/// A malformed filter, or a second call in the same process.
pub fn init(filter: &str, format: Format, colour: bool) -> Result<(), LoggingError> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        Format::Text => lines.with_ansi(colour).finish().try_init()?,
        Format::Json => lines.json().flatten_event(true).with_current_span(false).finish().try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_filter_is_refused_before_anything_is_set_up() {
        assert!(check_filter("info,aya_proxy=debug").is_ok());
        assert!(check_filter("info,aya_proxy=loud").is_err());
        assert!(matches!(init("a=b=c", Format::Text, false), Err(LoggingError::Filter(_))));
    }

    #[test]
    fn a_process_has_one_log() {
        init("off", Format::Json, false).unwrap();
        assert!(matches!(init("off", Format::Text, false), Err(LoggingError::Twice(_))));
    }
}
