//! Checks of a request that is decent HTTP but not for us.

use aya_proxy::ApiError;
use aya_proxy::downstream::RequestHead;
use http::{Method, header};

/// Refuses methods that ask for a tunnel and bodies that we could not look into; the connection closes after the answer.
pub(crate) fn check(head: &RequestHead) -> Result<(), ApiError> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(
            ApiError::new(405, "invalid_request_error", "this method is not allowed").should_retry(false)
        );
    }
    if head.headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        let error = ApiError::new(415, "invalid_request_error", "a compressed request body is not supported");
        return Err(error.param("content-encoding").should_retry(false));
    }
    Ok(())
}
