//! Reads the head of an answer: status, framing, and the few fields that may go on to the client.
//!
//! Strict where readers could disagree: both content-length and transfer-encoding, several lengths, codings other
//! than chunked, a compressed body nobody asked for. Everything not on the list of `headers` is dropped here.

use std::mem::MaybeUninit;

use http::StatusCode;
use httparse::{Header, ParserConfig, Status};

use super::{HEADERS_MAX, INFORMATIONAL_MAX, UpstreamError};
use crate::downstream::FieldLines;
use crate::framing::Framing;
use crate::headers::{MediaType, forwarded_response_header};

/// Longest `Retry-After` that is believed, in seconds.
const RETRY_AFTER_MAX_S: u32 = 120;

/// The head of an engine's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// `None` if the engine does not say.
    pub content_type: Option<MediaType>,
    /// Bytes of the body if the engine told; `None` for a chunked or close-delimited body.
    pub content_length: Option<u64>,
    /// Whole seconds, at most 120; a date is not understood and gives `None`.
    pub retry_after_s: Option<u32>,
    /// What may go on to the client, `content-type` included.
    pub forward: FieldLines,
}

impl ResponseHead {
    /// Whether the body is an event stream.
    #[must_use]
    pub fn is_event_stream(&self) -> bool {
        self.content_type == Some(MediaType::EventStream)
    }

    /// Whether the body is JSON.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.content_type == Some(MediaType::Json)
    }
}

/// A head that was read whole.
#[derive(Debug)]
pub(crate) struct ParsedHead {
    pub(crate) head: ResponseHead,
    pub(crate) framing: Framing,
    /// Whether the connection can serve another request after this answer.
    pub(super) keep_alive: bool,
    /// Bytes before the body.
    pub(crate) length: usize,
}

/// Reads a head; `None` while it is incomplete.
pub(crate) fn parse(input: &[u8]) -> Result<Option<ParsedHead>, UpstreamError> {
    let mut skipped = 0;
    for _ in 0..=INFORMATIONAL_MAX {
        let rest = input.get(skipped..).unwrap_or_default();
        let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            ParserConfig::default().parse_response_with_uninit_headers(&mut response, rest, &mut fields);
        let length = match parsed {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(UpstreamError::HeadTooLarge { limit: "128 fields" });
            }
            Err(_) => return Err(UpstreamError::BadHead { what: "not an HTTP/1 answer" }),
        };
        let code = response.code.unwrap_or(0);
        skipped += length;
        match code {
            101 => return Err(UpstreamError::BadHead { what: "a protocol switch nobody asked for" }),
            100..=199 => {}
            _ => {
                let mut parsed = read(code, response.version == Some(0), response.headers)?;
                parsed.length = skipped;
                return Ok(Some(parsed));
            }
        }
    }
    Err(UpstreamError::BadHead { what: "too many informational answers" })
}

/// The fields that decide about framing.
#[derive(Default)]
struct Connection {
    length: Option<u64>,
    is_chunked: bool,
    close: bool,
}

fn read(code: u16, is_http_1_0: bool, fields: &[Header<'_>]) -> Result<ParsedHead, UpstreamError> {
    let status =
        StatusCode::from_u16(code).map_err(|_| UpstreamError::BadHead { what: "a status out of range" })?;
    let mut head = ResponseHead {
        status,
        content_type: None,
        content_length: None,
        retry_after_s: None,
        forward: FieldLines::default(),
    };
    let mut connection = Connection::default();
    for field in fields {
        if !read_connection(field, &mut connection)? {
            read_forwarded(field, &mut head)?;
        }
    }
    let close = connection.close || is_http_1_0;
    let has_no_body = matches!(code, 204 | 304);
    let framing = match (connection.is_chunked, connection.length) {
        (true, Some(_)) => return Err(UpstreamError::BadHead { what: "both length and transfer coding" }),
        (true, None) if is_http_1_0 => {
            return Err(UpstreamError::BadHead { what: "a transfer coding in HTTP/1.0" });
        }
        _ if has_no_body => Framing::Length(0),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) if close => Framing::UntilClose,
        (false, None) => return Err(UpstreamError::BadHead { what: "a body without an end" }),
    };
    head.content_length = match framing {
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::UntilClose => None,
    };
    Ok(ParsedHead { head, framing, keep_alive: !close, length: 0 })
}

/// Whether this field is about the connection, and if so what it says.
fn read_connection(field: &Header<'_>, connection: &mut Connection) -> Result<bool, UpstreamError> {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    let bad = |what| Err(UpstreamError::BadHead { what });
    if is("content-length") {
        let Some(length) = parse_length(field.value) else { return bad("a bad content length") };
        if connection.length.replace(length).is_some() {
            return bad("several content lengths");
        }
    } else if is("transfer-encoding") {
        if !field.value.eq_ignore_ascii_case(b"chunked") || connection.is_chunked {
            return bad("a transfer coding other than chunked");
        }
        connection.is_chunked = true;
    } else if is("connection") {
        let mut tokens = field.value.split(|b| *b == b',');
        connection.close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
    } else if is("content-encoding") {
        if !field.value.eq_ignore_ascii_case(b"identity") {
            return bad("a content coding nobody asked for");
        }
    } else {
        return Ok(false);
    }
    Ok(true)
}

fn read_forwarded(field: &Header<'_>, head: &mut ResponseHead) -> Result<(), UpstreamError> {
    let Some(name) = forwarded_response_header(field.name) else { return Ok(()) };
    match name {
        "retry-after" => {
            let text = std::str::from_utf8(field.value).ok();
            let seconds = text.and_then(|text| text.trim().parse::<u32>().ok());
            head.retry_after_s = seconds.map(|s| s.min(RETRY_AFTER_MAX_S));
            // The caller writes its own from the checked number.
            return Ok(());
        }
        "content-type" if head.content_type.is_some() => {
            return Err(UpstreamError::BadHead { what: "several content types" });
        }
        "content-type" => head.content_type = Some(MediaType::of(field.value)),
        _ => {}
    }
    if !head.forward.pass(name, field.value) {
        return Err(UpstreamError::BadHead { what: "a header value with control characters" });
    }
    Ok(())
}

/// Digits only; no sign, no space, no list, no overflow.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
