//! Which header fields cross the relay, and which never do.
//!
//! Requests to an engine are written from typed parts and answers to a client from this allow-list, so framing,
//! connection handling and identity of one side never reach the other (request smuggling and response splitting
//! live on what is passed through).

/// Longest request id that is kept, in bytes.
pub const REQUEST_ID_MAX: usize = 128;

/// Header fields that concern one connection only and are never forwarded.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields of an engine's answer that a client gets; everything else is dropped.
const FORWARDED: [&str; 3] = ["content-type", "retry-after", "cache-control"];

/// Whether a field concerns one connection only.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
}

/// The name under which a field of an engine's answer is passed to the client; `None`: it is dropped.
#[must_use]
pub fn forwarded_response_header(name: &str) -> Option<&'static str> {
    FORWARDED.into_iter().find(|forwarded| forwarded.eq_ignore_ascii_case(name))
}

/// Whether a client's request id is safe in logs, headers and URLs: 1 to 128 of `[A-Za-z0-9._-]`.
#[must_use]
pub fn is_safe_request_id(id: &[u8]) -> bool {
    let is_safe = |b: u8| b.is_ascii_alphanumeric() | (b == b'.') | (b == b'_') | (b == b'-');
    (1..=REQUEST_ID_MAX).contains(&id.len()) && id.iter().fold(true, |all, b| all & is_safe(*b))
}

/// Whether a text can stand in a header line as it is: visible ASCII, spaces and tabs inside, no line end, no NUL.
#[must_use]
pub fn is_safe_header_value(value: &str) -> bool {
    // Without an early end the compiler looks at many bytes at once; so too in the next one.
    value.bytes().fold(true, |all, b| all & ((b == b'\t') | matches!(b, b' '..=b'~')))
}

/// Whether a text is visible ASCII without spaces.
pub(crate) fn is_visible(text: &str) -> bool {
    text.bytes().fold(true, |all, b| all & b.is_ascii_graphic())
}

/// What a content type says of a body, as far as the relay cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    EventStream,
    Json,
    Other,
}

impl MediaType {
    /// Reads a content type, whatever its parameters.
    #[must_use]
    pub fn of(content_type: &[u8]) -> Self {
        let media_type = content_type.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        if media_type.eq_ignore_ascii_case(b"application/json") {
            Self::Json
        } else if media_type.eq_ignore_ascii_case(b"text/event-stream") {
            Self::EventStream
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_connection_is_ever_forwarded() {
        for hop in HOP_BY_HOP {
            assert_eq!(forwarded_response_header(hop), None, "{hop}");
            assert!(is_hop_by_hop(&hop.to_uppercase()), "{hop}");
        }
        for dropped in
            ["Server", "Set-Cookie", "X-Powered-By", "Content-Length", "Access-Control-Allow-Origin"]
        {
            assert_eq!(forwarded_response_header(dropped), None, "{dropped}");
        }
        assert_eq!(forwarded_response_header("Content-Type"), Some("content-type"));
    }

    #[test]
    fn a_request_id_that_could_break_a_line_is_not_kept() {
        let longest = "x".repeat(REQUEST_ID_MAX);
        for (id, safe) in [
            ("abc-1.2_Z", true),
            (longest.as_str(), true),
            ("", false),
            ("a b", false),
            ("a\r\nX: y", false),
            ("\u{e4}", false),
            ("a/b", false),
        ] {
            assert_eq!(is_safe_request_id(id.as_bytes()), safe, "{id:?}");
        }
        assert!(!is_safe_request_id("x".repeat(REQUEST_ID_MAX + 1).as_bytes()));
    }

    #[test]
    fn a_header_value_holds_no_line_end_and_no_nul() {
        assert!(is_safe_header_value("Bearer abc\tdef"));
        for bad in ["a\r", "a\n", "a\0", "\u{7f}", "\u{e4}"] {
            assert!(!is_safe_header_value(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_media_type_is_known_with_its_parameters_and_in_any_case() {
        for (text, expect) in [
            ("text/event-stream", MediaType::EventStream),
            ("Text/Event-Stream ; charset=utf-8", MediaType::EventStream),
            ("text/event-streams", MediaType::Other),
            ("text/html", MediaType::Other),
            ("application/json; charset=utf-8", MediaType::Json),
        ] {
            assert_eq!(MediaType::of(text.as_bytes()), expect, "{text}");
        }
    }
}
