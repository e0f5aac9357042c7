//! Answers: the one table from what went wrong to what a client reads, and the headers every answer has.

use std::sync::Arc;

use aya_domain::{HoldReason, RefusalReason, Tokens};
use aya_proxy::ApiError;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::ClientBody;
use super::conn::ConnState;
use crate::pipeline::place::NotPlaced;

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const X_DECISION_ID: HeaderName = HeaderName::from_static("x-aya-decision-id");
pub(crate) const X_ENDPOINT: HeaderName = HeaderName::from_static("x-aya-endpoint");
pub(crate) const X_QUEUE_MS: HeaderName = HeaderName::from_static("x-aya-queue-ms");
const X_SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// The longest `Retry-After` that clients obey, in seconds.
const RETRY_AFTER_MAX_S: u32 = 120;
/// What a client waits before it asks for a model without a ready endpoint again, in seconds.
const NOT_READY_RETRY_S: u32 = 5;

/// Why no endpoint took the request, in the client's words. `known` are the models it could ask for.
pub(crate) fn not_placed(reason: &NotPlaced, model: &str, known: &[String], retry_after_s: u32) -> ApiError {
    match reason {
        NotPlaced::Refused(RefusalReason::UnknownModel) => {
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            ApiError::new(
                404,
                "invalid_request_error",
                format!("the model `{model}` does not exist; known: {known}"),
            )
            .code("model_not_found")
            .param("model")
            .should_retry(false)
        }
        NotPlaced::Refused(RefusalReason::TooLong { need, largest }) => too_long(*need, *largest),
        NotPlaced::WaitedOut(HoldReason::NoneReady) => {
            ApiError::new(503, "unavailable_error", format!("no endpoint of `{model}` is ready"))
                .code("no_endpoint_ready")
                .retry_after_s(NOT_READY_RETRY_S)
        }
        NotPlaced::WaitedOut(HoldReason::AllFull) => {
            ApiError::new(503, "unavailable_error", format!("every endpoint of `{model}` stayed full"))
                .code("queue_timeout")
                .retry_after_s(retry_after_s)
        }
        NotPlaced::QueueFull { limit } => {
            ApiError::new(429, "rate_limit_error", format!("{limit} requests already wait for `{model}`"))
                .code("queue_full")
                .retry_after_s(retry_after_s)
        }
    }
}

fn too_long(need: Tokens, largest: Tokens) -> ApiError {
    let message = format!("this request needs at least {need}; the largest context available is {largest}");
    ApiError::invalid_request(message).code("context_length_exceeded").param("max_tokens")
}

/// An error as a response.
pub(crate) fn error(error: &ApiError, conn: &Arc<ConnState>) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(error.to_json(), conn));
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
pub(crate) fn json(status: StatusCode, body: Vec<u8>, conn: &Arc<ConnState>) -> Response<ClientBody> {
    let mut response = Response::new(ClientBody::whole(body, conn));
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
