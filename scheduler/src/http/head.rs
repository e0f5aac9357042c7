//! Checks of a request's head that hyper leaves to its user.
//!
//! The rule is that framing is never ambiguous and never forwarded: what two parsers could read differently
//! is refused here with 400, and the request that goes to an engine is written anew from typed parts.

use std::sync::Arc;

use aya_proxy::ApiError;
use http::{HeaderMap, Method, Request, Version, header};

use super::conn::ConnState;

/// Refuses ambiguous heads; the connection closes after the answer.
pub(crate) fn check<B>(request: &Request<B>, conn: &Arc<ConnState>) -> Result<(), ApiError> {
    check_length(request.headers(), conn)?;
    check_host(request)?;
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(
            ApiError::new(405, "invalid_request_error", "this method is not allowed").should_retry(false)
        );
    }
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        let error = ApiError::new(415, "invalid_request_error", "a compressed request body is not supported");
        return Err(error.param("content-encoding").should_retry(false));
    }
    Ok(())
}

fn check_host<B>(request: &Request<B>) -> Result<(), ApiError> {
    let hosts: Vec<_> = request.headers().get_all(header::HOST).iter().collect();
    let host = match hosts.as_slice() {
        [] if request.version() == Version::HTTP_10 => return Ok(()),
        [] => return Err(ApiError::invalid_request("the Host header is missing")),
        [host] => host,
        _ => return Err(ApiError::invalid_request("there is more than one Host header")),
    };
    match request.uri().authority() {
        Some(authority) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(ApiError::invalid_request("the Host header differs from the request target"))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_length(headers: &HeaderMap, conn: &Arc<ConnState>) -> Result<(), ApiError> {
    let on_the_wire = conn.content_lengths(headers.len());
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 || on_the_wire > Some(1) {
        return Err(ApiError::invalid_request("there is more than one Content-Length header"));
    }
    let codings: Vec<_> = headers.get_all(header::TRANSFER_ENCODING).iter().collect();
    match codings.as_slice() {
        [] => Ok(()),
        [coding] if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err(ApiError::invalid_request("Transfer-Encoding is not `chunked`"))
        }
        [_] if headers.contains_key(header::CONTENT_LENGTH) || on_the_wire != Some(0) => {
            Err(ApiError::invalid_request(
                "a chunked body must come without Content-Length and must not be pipelined",
            ))
        }
        [_] => Ok(()),
        _ => Err(ApiError::invalid_request("there is more than one Transfer-Encoding header")),
    }
}
