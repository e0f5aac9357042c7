//! Answers: the one table from what went wrong to what a client reads, and the headers every answer has.

use aya_domain::ModelId;
use aya_proxy::ApiError;
use http::StatusCode;

use super::answer::Answer;

pub(crate) const X_REQUEST_ID: &str = "x-request-id";
pub(crate) const X_DECISION_ID: &str = "x-aya-decision-id";
pub(crate) const X_ENDPOINT: &str = "x-aya-endpoint";
pub(crate) const X_QUEUE_MS: &str = "x-aya-queue-ms";
const X_SHOULD_RETRY: &str = "x-should-retry";
/// What a client waits that was refused for want of memory, in seconds.
const MEMORY_RETRY_S: u32 = 5;
/// The longest `Retry-After` that clients obey, in seconds.
const RETRY_AFTER_MAX_S: u32 = 120;

/// Of requests that are cut off before their answer began.
pub(crate) const CUT_STATUS: u16 = 503;

/// The scheduler ends before the answer does.
pub(crate) fn shutting_down() -> ApiError {
    ApiError::new(CUT_STATUS, "unavailable_error", "the scheduler is shutting down")
        .code("shutting_down")
        .retry_after_s(1)
}

/// Refused before anything of it is read, because there is no room to keep it.
pub(crate) fn memory_pressure() -> ApiError {
    ApiError::new(503, "unavailable_error", "the scheduler is short of memory")
        .code("memory_pressure")
        .retry_after_s(MEMORY_RETRY_S)
}

/// 404 for a model that nobody serves, naming those that are.
pub(crate) fn unknown_model(asked: &str, known: &[ModelId]) -> ApiError {
    let known: Vec<&str> = known.iter().map(ModelId::as_str).collect();
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    let message = format!("the model `{}` does not exist; known: {known}", printable(asked));
    ApiError::new(404, "invalid_request_error", message)
        .code("model_not_found")
        .param("model")
        .should_retry(false)
}

/// A client's text in an answer of ours: without control characters, and not endless.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// An error as an answer.
pub(crate) fn error(error: &ApiError) -> Answer {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = Answer::json(status, error.to_json());
    if let Some(seconds) = error.retry_after_s {
        answer.fields.add("retry-after", &seconds.min(RETRY_AFTER_MAX_S).to_string());
    }
    if let Some(retry) = error.should_retry {
        answer.fields.add(X_SHOULD_RETRY, if retry { "true" } else { "false" });
    }
    answer
}

/// After an answer to a request whose framing or length is not to be trusted, the connection ends.
pub(crate) const fn and_close(mut answer: Answer) -> Answer {
    answer.closes = true;
    answer
}
