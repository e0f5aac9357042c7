//! Which header fields cross the relay, and which never do.
//!
//! Requests to an engine are written from typed parts and answers to a client from this allow-list, so framing,
//! connection handling and identity of one side never reach the other (request smuggling and response splitting
//! live on what is passed through).

use http::{HeaderName, HeaderValue, header};

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
const FORWARDED: [HeaderName; 3] = [header::CONTENT_TYPE, header::RETRY_AFTER, header::CACHE_CONTROL];

/// Whether a field concerns one connection only.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name))
}

/// The name under which a field of an engine's answer is passed to the client; `None`: it is dropped.
#[must_use]
pub fn forwarded_response_header(name: &str) -> Option<HeaderName> {
    FORWARDED.iter().find(|forwarded| forwarded.as_str().eq_ignore_ascii_case(name)).cloned()
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
    value.bytes().fold(true, |all, b| all & ((b == b'\t') | (b >= b' ') & (b <= b'~')))
}

/// Whether a text is visible ASCII without spaces.
pub(crate) fn is_visible(text: &str) -> bool {
    text.bytes().fold(true, |all, b| all & b.is_ascii_graphic())
}

/// Whether a content type is an event stream, whatever its parameters.
#[must_use]
pub fn is_event_stream(content_type: &HeaderValue) -> bool {
    is_media_type(content_type, "text/event-stream")
}

/// Whether a content type is JSON, whatever its parameters.
#[must_use]
pub fn is_json(content_type: &HeaderValue) -> bool {
    is_media_type(content_type, "application/json")
}

fn is_media_type(content_type: &HeaderValue, wanted: &str) -> bool {
    let text = content_type.as_bytes();
    let media_type = text.split(|b| *b == b';').next().unwrap_or_default();
    media_type.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes())
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
        assert_eq!(forwarded_response_header("Content-Type"), Some(header::CONTENT_TYPE));
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
        let check = |text: &'static str| is_event_stream(&HeaderValue::from_static(text));
        assert!(check("text/event-stream"));
        assert!(check("Text/Event-Stream ; charset=utf-8"));
        assert!(!check("text/event-streams"));
        assert!(!check("text/html"));
        assert!(is_json(&HeaderValue::from_static("application/json; charset=utf-8")));
    }
}
