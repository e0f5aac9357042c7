//! The head of a request to an engine, written from typed parts.
//!
//! Nothing a client sent reaches an engine's parser as framing: the path comes from the caller's own list, values
//! are checked for line ends, and the length is that of the body we hold.

use super::UpstreamError;
use crate::headers::{is_safe_header_value, is_visible};

/// The two methods that engines are asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// Everything an engine is told besides the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    pub method: Method,
    /// Path and query, from the caller's own list.
    pub path: &'a str,
    /// `HOST:PORT` of the endpoint.
    pub host: &'a str,
    /// Whether an event stream is expected.
    pub accept_stream: bool,
    /// `X-Request-Id`.
    pub request_id: Option<&'a str>,
    /// The engine's own key, never the client's unless configured.
    pub authorization: Option<&'a str>,
    pub traceparent: Option<&'a str>,
}

impl RequestHead<'_> {
    /// Appends the head with its closing empty line.
    ///
    /// # Errors
    /// [`UpstreamError::BadRequest`] names the part that must not be written.
    pub(super) fn write(&self, body_len: usize, out: &mut Vec<u8>) -> Result<(), UpstreamError> {
        self.check()?;
        out.extend_from_slice(match self.method {
            Method::Get => b"GET ",
            Method::Post => b"POST ",
        });
        out.extend_from_slice(self.path.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host.as_bytes());
        out.extend_from_slice(match self.accept_stream {
            true => b"\r\nAccept: text/event-stream, application/json\r\n".as_slice(),
            false => b"\r\nAccept: application/json\r\n",
        });
        if self.method == Method::Post {
            out.extend_from_slice(b"Content-Type: application/json\r\nContent-Length: ");
            write_decimal(body_len, out);
            out.extend_from_slice(b"\r\n");
        }
        let optional = [
            (&b"X-Request-Id: "[..], self.request_id),
            (b"Authorization: ", self.authorization),
            (b"traceparent: ", self.traceparent),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                out.extend_from_slice(name);
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn check(&self) -> Result<(), UpstreamError> {
        let bad = |what| Err(UpstreamError::BadRequest { what });
        if !self.path.starts_with('/') || !is_visible(self.path) {
            return bad("path");
        }
        if self.host.is_empty() || !is_visible(self.host) {
            return bad("host");
        }
        for (what, value) in [
            ("request id", self.request_id),
            ("authorization", self.authorization),
            ("traceparent", self.traceparent),
        ] {
            if value.is_some_and(|v| !is_safe_header_value(v)) {
                return bad(what);
            }
        }
        Ok(())
    }
}

/// Decimal digits without the formatting machinery: this runs for every request.
fn write_decimal(mut value: usize, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        let digit = u8::try_from(value % 10).unwrap_or(0);
        out.push(b'0' + digit);
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.get_mut(start..).unwrap_or_default().reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RequestHead<'_> = RequestHead {
        method: Method::Post,
        path: "/v1/chat/completions",
        host: "gpu-1:8000",
        accept_stream: true,
        request_id: Some("r-1"),
        authorization: None,
        traceparent: None,
    };

    #[test]
    fn a_head_is_written_from_its_parts_and_nothing_else() {
        let mut out = Vec::new();
        HEAD.write(1205, &mut out).unwrap();
        let expect = "POST /v1/chat/completions HTTP/1.1\r\nHost: gpu-1:8000\r\n\
            Accept: text/event-stream, application/json\r\nContent-Type: application/json\r\n\
            Content-Length: 1205\r\nX-Request-Id: r-1\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn a_get_has_no_body() {
        let mut out = Vec::new();
        RequestHead { method: Method::Get, path: "/health", request_id: None, accept_stream: false, ..HEAD }
            .write(0, &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "GET /health HTTP/1.1\r\nHost: gpu-1:8000\r\nAccept: application/json\r\n\r\n"
        );
    }

    #[test]
    fn a_value_that_would_begin_a_new_line_is_not_written() {
        let check = |head: RequestHead<'_>, what| {
            let mut out = Vec::new();
            assert_eq!(head.write(0, &mut out), Err(UpstreamError::BadRequest { what }));
            assert!(out.is_empty());
        };
        check(RequestHead { path: "/v1 HTTP/1.1\r\nX: y", ..HEAD }, "path");
        check(RequestHead { path: "http://other/", ..HEAD }, "path");
        check(RequestHead { host: "a\r\nX: y", ..HEAD }, "host");
        check(RequestHead { host: "", ..HEAD }, "host");
        check(RequestHead { request_id: Some("a\nb"), ..HEAD }, "request id");
        check(RequestHead { authorization: Some("a\0"), ..HEAD }, "authorization");
        check(RequestHead { traceparent: Some("a\r"), ..HEAD }, "traceparent");
    }

    #[test]
    fn decimals_are_written_as_rust_writes_them() {
        for value in [0, 9, 10, 4096, usize::MAX] {
            let mut out = Vec::new();
            write_decimal(value, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }
    }
}
