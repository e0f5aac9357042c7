//! Why an attempt gave no answer, what that means for the endpoint, and what the client is told if it was the last.

use std::time::Duration;

use aya_domain::MonoTime;
use aya_proxy::sse::StreamError;
use aya_proxy::{ApiError, UpstreamError};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Map, Value};

use crate::ledger::LedgerCell;
use crate::metrics::EndpointMetrics;

/// How long an engine that pushes back is left alone at least, in seconds; also if it says 0, or nothing.
const PUSHBACK_MIN_S: u32 = 1;

/// Why an attempt gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The endpoint failed; another one may do better.
    Endpoint { error: ApiError, reason: String, pause: Pause },
    /// The engine refused the request itself: told to the client as it is.
    Refused { status: StatusCode, body: Bytes },
}

/// What a failure means for the endpoint's next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// It is broken: leave it alone, longer each time.
    Failed,
    /// It is full: leave it alone for as long as it asked.
    PushedBack(Duration),
    /// The request's own time is over, which says nothing about the endpoint.
    Over,
}

impl Pause {
    /// Tells the endpoint's ledger and metrics.
    pub(super) fn note(self, cell: &LedgerCell, metrics: &EndpointMetrics, now: MonoTime) {
        match self {
            Self::Failed => cell.failed(now),
            Self::PushedBack(pause) => cell.pushed_back(now, pause),
            Self::Over => return,
        }
        metrics.failures.inc();
    }
}

impl Failure {
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        let error =
            ApiError::new(502, "upstream_error", "the engine failed the request").code("upstream_error");
        Self::Endpoint { error, reason: reason.into(), pause: Pause::Failed }
    }

    pub(super) fn late(reason: &str) -> Self {
        Self::timeout(reason, Pause::Failed)
    }

    /// The request's total time ran out while the endpoint worked on it.
    pub(super) fn over() -> Self {
        Self::timeout("total_timeout", Pause::Over)
    }

    fn timeout(reason: &str, pause: Pause) -> Self {
        let error =
            ApiError::new(504, "timeout_error", "the engine did not answer in time").code("upstream_timeout");
        Self::Endpoint { error, reason: reason.to_owned(), pause }
    }

    pub(super) fn overloaded(reason: &str, retry_after_s: Option<u32>) -> Self {
        let seconds = retry_after_s.unwrap_or(PUSHBACK_MIN_S).max(PUSHBACK_MIN_S);
        let error = ApiError::new(503, "unavailable_error", "the engine is overloaded")
            .code("engine_overloaded")
            .retry_after_s(seconds);
        let pause = Duration::from_secs(u64::from(seconds));
        Self::Endpoint { error, reason: reason.to_owned(), pause: Pause::PushedBack(pause) }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        let late = matches!(error, UpstreamError::Timeout { .. });
        if late { Self::late(error.as_str()) } else { Self::broken(error.as_str()) }
    }
}

/// An error event before any token is as good as a status.
pub(super) fn told_in_stream(error: &StreamError) -> Failure {
    let code = error.code.unwrap_or(500);
    if error.is_overload() {
        return Failure::overloaded("error event: overloaded", None);
    }
    if error.is_retryable() {
        return Failure::broken(format!("error event: code {code}"));
    }
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
    let body = ApiError::new(status.as_u16(), "invalid_request_error", error.message.clone()).to_json();
    Failure::Refused { status, body: body.into() }
}

/// What OpenAI's clients look for in the error of a prompt that does not fit.
const TOO_LONG: &str = "context_length_exceeded";

/// The engine's own words, in the four fields that OpenAI's clients read. Engines write the status into `code`, where
/// clients expect a word or null.
pub(super) fn in_openai_shape(status: StatusCode, body: &[u8]) -> Bytes {
    if let Ok(Value::Object(mut document)) = serde_json::from_slice(body)
        && let Some(Value::Object(error)) = document.get_mut("error")
        && error.get("message").is_some_and(Value::is_string)
    {
        let code = if is_too_long(error) { Value::from(TOO_LONG) } else { Value::Null };
        if !error.get("code").is_some_and(Value::is_string) {
            error.insert("code".to_owned(), code);
        }
        if !error.get("type").is_some_and(Value::is_string) {
            error.insert("type".to_owned(), Value::from("invalid_request_error"));
        }
        error.entry("param").or_insert(Value::Null);
        return Value::Object(document).to_string().into();
    }
    let told = StreamError::from_json(body).map(|error| error.message);
    let message = told.unwrap_or_else(|| format!("the engine refused the request with status {status}"));
    ApiError::new(status.as_u16(), "invalid_request_error", message).to_json().into()
}

/// llama.cpp has a type for it, vLLM a sentence.
fn is_too_long(error: &Map<String, Value>) -> bool {
    let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
    text("type") == "exceed_context_size_error" || text("message").contains("maximum context length")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(body: &str) -> Value {
        let body = in_openai_shape(StatusCode::BAD_REQUEST, body.as_bytes());
        serde_json::from_slice::<Value>(&body).unwrap()["error"].take()
    }

    #[test]
    fn a_pushed_back_endpoint_is_left_alone_for_a_second_at_least() {
        for (asked, expect) in [(None, 1), (Some(0), 1), (Some(1), 1), (Some(7), 7)] {
            let Failure::Endpoint { error, pause, .. } = Failure::overloaded("status 429", asked) else {
                panic!("an overload is the endpoint's")
            };
            assert_eq!(pause, Pause::PushedBack(Duration::from_secs(u64::from(expect))), "{asked:?}");
            assert_eq!(error.retry_after_s, Some(expect), "{asked:?}");
        }
    }

    #[test]
    fn a_prompt_that_does_not_fit_is_told_as_openai_tells_it() {
        let engine =
            r#"{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_ctx":2048}}"#;
        let expect = json!({"code": "context_length_exceeded", "message": "too long", "n_ctx": 2048, "param": null,
            "type": "exceed_context_size_error"});
        assert_eq!(told(engine), expect);
        let engine = r#"{"error":{"message":"This model's maximum context length is 2048 tokens. However","type":"BadRequestError","param":"input_text","code":400}}"#;
        assert_eq!((&told(engine)["code"], &told(engine)["param"]), (&json!(TOO_LONG), &json!("input_text")));
    }

    #[test]
    fn every_refusal_has_the_four_fields() {
        for (engine, message, code) in [
            (r#"{"error":{"message":"no","type":"t","code":501}}"#, "no", Value::Null),
            (r#"{"error":{"message":"no","code":"its_own"}}"#, "no", json!("its_own")),
            (r#"{"error":"no","error_type":"validation"}"#, "no", Value::Null),
            (r#"{"object":"error","message":"no","code":400}"#, "no", Value::Null),
            ("<html>", "the engine refused the request with status 400 Bad Request", Value::Null),
        ] {
            let error = told(engine);
            assert_eq!((&error["message"], &error["code"]), (&json!(message), &code), "{engine}");
            assert!(error["type"].is_string() && error.get("param").is_some(), "{engine}");
        }
    }
}
