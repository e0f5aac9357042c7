//! Why an attempt gave no answer, what that means for the endpoint, and what the client is told if it was the last.

use std::time::Duration;

use aya_proxy::sse::StreamError;
use aya_proxy::{ApiError, UpstreamError};
use bytes::Bytes;
use http::StatusCode;

/// How long an engine that pushes back without saying so is left alone.
const PUSHBACK_DEFAULT: Duration = Duration::from_secs(1);

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
pub(super) enum Pause {
    /// It is broken: leave it alone, longer each time.
    Failed,
    /// It is full: leave it alone for as long as it asked.
    PushedBack(Duration),
}

impl Failure {
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        let error =
            ApiError::new(502, "upstream_error", "the engine failed the request").code("upstream_error");
        Self::Endpoint { error, reason: reason.into(), pause: Pause::Failed }
    }

    pub(super) fn late(reason: &str) -> Self {
        let error =
            ApiError::new(504, "timeout_error", "the engine did not answer in time").code("upstream_timeout");
        Self::Endpoint { error, reason: reason.to_owned(), pause: Pause::Failed }
    }

    pub(super) fn overloaded(reason: &str, retry_after_s: Option<u32>) -> Self {
        let seconds = retry_after_s.unwrap_or(1).max(1);
        let error = ApiError::new(503, "unavailable_error", "the engine is overloaded")
            .code("engine_overloaded")
            .retry_after_s(seconds);
        let pause = retry_after_s.map_or(PUSHBACK_DEFAULT, |s| Duration::from_secs(u64::from(s)));
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

/// The engine's own words if they are in OpenAI's shape, else its message in that shape.
pub(super) fn in_openai_shape(status: StatusCode, body: Bytes) -> Bytes {
    let is_object = |value: &serde_json::Value| value.get("error").is_some_and(serde_json::Value::is_object);
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(value) if is_object(&value) => body,
        Ok(_) | Err(_) => {
            let told = StreamError::from_json(&body).map(|error| error.message);
            let message =
                told.unwrap_or_else(|| format!("the engine refused the request with status {status}"));
            ApiError::new(status.as_u16(), "invalid_request_error", message).to_json().into()
        }
    }
}
