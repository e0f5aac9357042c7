//! From the outcome of a probe to a verdict on the engine.
//!
//! The rule that matters: an engine is never called dead because it is full. llama.cpp answers its health
//! page from the threads that hold its requests; full, it goes silent and works on.

use std::time::Duration;

use aya_domain::EngineHealth;

/// A full engine may be silent for this long before it counts as dead after all.
pub const BUSY_SILENCE_MAX: Duration = Duration::from_secs(120);

/// How asking an engine went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome<'a> {
    /// Its health page answered.
    Answered { status: u16, body: &'a [u8] },
    /// Nobody listens, or the connection broke.
    Failed { reason: String },
    /// No answer within the time allowed.
    TimedOut { after: Duration },
}

/// Whether an engine can take requests, by its last probe.
///
/// `full`: the last reading showed no room. `silent_for`: time since it last answered anything; `None`: never.
#[must_use]
pub fn health_verdict(outcome: &ProbeOutcome<'_>, full: bool, silent_for: Option<Duration>) -> EngineHealth {
    match outcome {
        ProbeOutcome::Answered { status: 200..=299, .. } => EngineHealth::Ready,
        ProbeOutcome::Answered { status: 503, body } if says_loading(body) => EngineHealth::Loading,
        ProbeOutcome::Answered { status, .. } => {
            EngineHealth::Down { reason: format!("its health page answers {status}") }
        }
        ProbeOutcome::Failed { reason } => EngineHealth::Down { reason: reason.clone() },
        ProbeOutcome::TimedOut { after } => {
            if full && silent_for.is_some_and(|silence| silence < BUSY_SILENCE_MAX) {
                return EngineHealth::Busy;
            }
            EngineHealth::Down { reason: format!("no answer within {:.1} s", after.as_secs_f64()) }
        }
    }
}

/// llama.cpp and others tell a loading model from a dead engine only by the words.
fn says_loading(body: &[u8]) -> bool {
    /// The words come early or not at all.
    const LOOK_AT: usize = 512;
    let head = body.get(..LOOK_AT).unwrap_or(body).to_ascii_lowercase();
    [&b"loading"[..], b"starting"].iter().any(|words| memchr::memmem::find(&head, words).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_follows_the_probe() {
        let two = Duration::from_secs(2);
        let answered = |status, body: &'static str| ProbeOutcome::Answered { status, body: body.as_bytes() };
        let loading = r#"{"error":{"message":"Loading model","type":"unavailable_error","code":503}}"#;
        let down = |reason: &str| EngineHealth::Down { reason: reason.to_owned() };
        let timed_out = || ProbeOutcome::TimedOut { after: two };
        for (name, outcome, full, silent_for, expect) in [
            ("it answers", answered(200, ""), false, Some(two), EngineHealth::Ready),
            ("it loads its model", answered(503, loading), false, Some(two), EngineHealth::Loading),
            ("it says 503", answered(503, ""), true, Some(two), down("its health page answers 503")),
            ("it has no such page", answered(404, ""), true, None, down("its health page answers 404")),
            (
                "nobody listens",
                ProbeOutcome::Failed { reason: "connection refused".into() },
                true,
                Some(two),
                down("connection refused"),
            ),
            ("full and silent", timed_out(), true, Some(two), EngineHealth::Busy),
            ("idle and silent", timed_out(), false, Some(two), down("no answer within 2.0 s")),
            (
                "full, but silent for too long",
                timed_out(),
                true,
                Some(BUSY_SILENCE_MAX),
                down("no answer within 2.0 s"),
            ),
            ("never heard of", timed_out(), true, None, down("no answer within 2.0 s")),
        ] {
            assert_eq!(health_verdict(&outcome, full, silent_for), expect, "{name}");
        }
    }
}
