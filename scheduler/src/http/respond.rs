//! Answers: the one table from what went wrong to what a client reads, and the headers every answer has.

use aya_domain::ModelId;
use aya_proxy::ApiError;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::ClientBody;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_DECISION_ID: HeaderName = HeaderName::from_static("x-aya-decision-id");
pub(crate) const X_ENDPOINT: HeaderName = HeaderName::from_static("x-aya-endpoint");
pub(crate) const X_QUEUE_MS: HeaderName = HeaderName::from_static("x-aya-queue-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
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

/// An error as a response.
pub(crate) fn error(error: &ApiError) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(error.to_json()));
    *response.status_mut() = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = error.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.min(RETRY_AFTER_MAX_S)));
    }
    if let Some(retry) = error.should_retry {
        headers.insert(X_SHOULD_RETRY, HeaderValue::from_static(if retry { "true" } else { "false" }));
    }
    response
}

/// JSON as a response.
pub(crate) fn json(status: StatusCode, body: Vec<u8>) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// After an answer to a request whose framing or length is not to be trusted, the connection ends.
pub(crate) fn and_close(mut response: Response<ClientBody>) -> Response<ClientBody> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Sets a header whose value is text of our own making.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // A value that is no header value is left out: a diagnostic header must not cost the answer.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
