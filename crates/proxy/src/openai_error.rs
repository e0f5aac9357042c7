//! Errors in OpenAI's shape, as a whole body and as a frame of a stream.
//!
//! The message is written by us or is an engine's own; it must never hold a prompt, a key or a token.

use serde::Serialize;

/// An error as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `type` of the body, e.g. `invalid_request_error`.
    pub kind: &'static str,
    /// `code` of the body, e.g. `model_not_found`; `None` is written as null.
    pub code: Option<&'static str>,
    /// The parameter at fault; `None` is written as null.
    pub param: Option<String>,
    pub message: String,
    /// `Retry-After` in whole seconds; clients ignore more than 120.
    pub retry_after_s: Option<u32>,
    /// `x-should-retry`; `None` leaves it to the client.
    pub should_retry: Option<bool>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Detail<'a>,
}

#[derive(Serialize)]
struct Detail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

impl ApiError {
    /// An error with this status, type and message and nothing else.
    #[must_use]
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
            retry_after_s: None,
            should_retry: None,
        }
    }

    /// 400: the request can never succeed as it is.
    #[must_use]
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", message).should_retry(false)
    }

    /// Sets `code`.
    #[must_use]
    pub const fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Sets `param`.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Sets `Retry-After`, in seconds.
    #[must_use]
    pub const fn retry_after_s(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Sets `x-should-retry`.
    #[must_use]
    pub const fn should_retry(mut self, retry: bool) -> Self {
        self.should_retry = Some(retry);
        self
    }

    /// `{"error":{"message","type","param","code"}}`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let detail =
            Detail { message: &self.message, kind: self.kind, param: self.param.as_deref(), code: self.code };
        serde_json::to_vec(&Body { error: detail }).unwrap_or_else(|_| br#"{"error":{}}"#.to_vec())
    }

    /// The same as the last event of a stream that failed after its first byte.
    #[must_use]
    pub fn to_sse_frame(&self) -> Vec<u8> {
        [b"data: ".as_slice(), &self.to_json(), b"\n\n"].concat()
    }
}

impl From<crate::scan::ScanError> for ApiError {
    fn from(error: crate::scan::ScanError) -> Self {
        let api = Self::invalid_request(error.to_string());
        match error.param() {
            Some(param) => api.param(param),
            None => api,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_all_four_keys_and_absent_ones_are_null() {
        let error = ApiError::new(503, "unavailable_error", "no endpoint").retry_after_s(1);
        assert_eq!(
            String::from_utf8(error.to_json()).unwrap(),
            r#"{"error":{"message":"no endpoint","type":"unavailable_error","param":null,"code":null}}"#
        );
        let error = ApiError::invalid_request("no such model").code("model_not_found").param("model");
        assert_eq!(
            String::from_utf8(error.to_json()).unwrap(),
            r#"{"error":{"message":"no such model","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#
        );
    }

    #[test]
    fn a_message_cannot_break_out_of_its_frame() {
        let frame = ApiError::new(502, "upstream_error", "a\n\ndata: [DONE]\r\n\"").to_sse_frame();
        let text = String::from_utf8(frame).unwrap();
        assert!(text.starts_with("data: {") && text.ends_with("}\n\n"), "{text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    }

    #[test]
    fn a_scan_error_names_the_key() {
        let error = crate::scan::scan(br#"{"n":0}"#, crate::scan::ScanLimits::DEFAULT).unwrap_err();
        let api = ApiError::from(error);
        assert_eq!((api.status, api.param.as_deref(), api.should_retry), (400, Some("n"), Some(false)));
    }
}
