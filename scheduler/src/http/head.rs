//! Checks of a request that is decent HTTP but not for us.

use aya_proxy::ApiError;
use aya_proxy::downstream::RequestHead;
use http::Method;

/// Refuses methods that ask for a tunnel and bodies that we could not look into; the connection closes after the answer.
pub(crate) fn check(head: &RequestHead) -> Result<(), ApiError> {
    if matches!(head.method, Method::CONNECT | Method::TRACE) {
        return Err(
            ApiError::new(405, "invalid_request_error", "this method is not allowed").should_retry(false)
        );
    }
    if wants_other_protocol(head) {
        let error =
            ApiError::new(501, "invalid_request_error", "the protocol of a connection cannot be changed");
        return Err(error.param("upgrade").should_retry(false));
    }
    if head.fields.get("content-encoding").is_some_and(|coding| coding != b"identity") {
        let error = ApiError::new(415, "invalid_request_error", "a compressed request body is not supported");
        return Err(error.param("content-encoding").should_retry(false));
    }
    Ok(())
}

/// Whether the client waits for a switch that will not come. HTTP/2 is only offered, by the clients of whole languages
/// with every first request, and the offer may be declined in silence; the field itself goes nowhere.
fn wants_other_protocol(head: &RequestHead) -> bool {
    let mut asked = head.fields.all("upgrade").flat_map(|value| value.split(|b| *b == b','));
    asked.any(|protocol| !protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}
