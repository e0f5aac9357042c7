//! What to say in `Retry-After`: the predicted wait in whole seconds, bounded so that it stays believable.
//!
//! Never zero: an immediate retry is what the answer is meant to prevent.

/// The longest wait a client is told; predictions beyond it are worth nothing.
pub const RETRY_AFTER_MAX_S: u64 = 120;

/// Said when nothing is known about the rate at which the queue drains.
const UNKNOWN_DRAIN_S: f64 = 5.0;

/// Seconds until a queue of this length has drained at `drain_per_s` requests per second; `None`: no rate
/// known. From 1 to [`RETRY_AFTER_MAX_S`].
#[must_use]
pub fn retry_after_s(queue_len: usize, drain_per_s: Option<f64>) -> u64 {
    let len = f64::from(u32::try_from(queue_len).unwrap_or(u32::MAX));
    retry_after_wait_s(drain_per_s.map(|rate| len / rate))
}

/// A predicted wait in seconds as whole seconds from 1 to [`RETRY_AFTER_MAX_S`]; `None`: nothing was
/// predicted.
#[must_use]
pub fn retry_after_wait_s(wait_s: Option<f64>) -> u64 {
    let wait = wait_s.unwrap_or(UNKNOWN_DRAIN_S);
    (1..RETRY_AFTER_MAX_S).find(|&whole| wait <= seconds(whole)).unwrap_or(RETRY_AFTER_MAX_S)
}

const fn seconds(whole: u64) -> f64 {
    std::time::Duration::from_secs(whole).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_and_bounded() {
        for (wait, expect) in [
            (Some(0.0), 1),
            (Some(-3.0), 1),
            (Some(1.0), 1),
            (Some(1.01), 2),
            (Some(119.5), 120),
            (Some(1e9), 120),
            (Some(f64::INFINITY), 120),
            (Some(f64::NAN), 120),
            (None, 5),
        ] {
            assert_eq!(retry_after_wait_s(wait), expect, "{wait:?}");
        }
    }

    #[test]
    fn a_queue_is_a_wait_at_its_drain_rate() {
        for (len, rate, expect) in [
            (0, Some(2.0), 1),
            (10, Some(2.0), 5),
            (11, Some(2.0), 6),
            (10, Some(0.0), 120),
            (0, Some(0.0), 120),
            (10, None, 5),
            (usize::MAX, Some(1.0), 120),
        ] {
            assert_eq!(retry_after_s(len, rate), expect, "{len} at {rate:?}");
        }
    }
}
