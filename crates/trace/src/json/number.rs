//! Numbers as JSON can hold them.

use std::time::Duration;

/// JSON has no infinity and no NaN.
pub(super) fn finite(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

/// Milliseconds to the microsecond: finer digits are noise.
#[expect(clippy::cast_precision_loss, reason = "microseconds stay below 2^53 for 285 years")]
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}
