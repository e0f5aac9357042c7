//! A request's head: where it ends, and what it says.
//!
//! Two steps, so that a head which comes byte by byte is parsed once: [`HeadBytes`] finds the empty line and refuses
//! bare line feeds on the way, [`parse`] reads the whole head.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, Uri};
use httparse::{Header, Status};

use super::fields::Fields;
use crate::framing::Framing;
use crate::openai_error::ApiError;

/// Most header fields of a request.
pub const HEADERS_MAX: usize = 100;
/// Most empty lines before a request line; RFC 9112 asks to skip at least one.
const EMPTY_LINES_MAX: usize = 4;

/// Why a head is refused. The connection closes after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("this is no request of HTTP/1: {what}")]
    NotHttp { what: &'static str },
    #[error("the request's head is ambiguous: {what}")]
    Ambiguous { what: &'static str },
    #[error("the request has more than {HEADERS_MAX} header fields")]
    TooManyFields,
    #[error("the request's head is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the request target is longer than {limit} bytes")]
    TargetTooLong { limit: usize },
    #[error("only `Expect: 100-continue` is understood")]
    Expectation,
    #[error("this transfer coding is not supported, only `chunked` is")]
    Coding,
}

impl HeadError {
    /// As a client reads it.
    #[must_use]
    pub fn to_api_error(self) -> ApiError {
        let status = match self {
            Self::NotHttp { .. } | Self::Ambiguous { .. } | Self::Coding => 400,
            Self::TooManyFields | Self::TooLarge { .. } => 431,
            Self::TargetTooLong { .. } => 414,
            Self::Expectation => 417,
        };
        ApiError::new(status, "invalid_request_error", self.to_string()).should_retry(false)
    }
}

/// The bytes of a head as they come.
#[derive(Debug, Default)]
pub struct HeadBytes {
    bytes: Vec<u8>,
    empty_lines: usize,
}

impl HeadBytes {
    /// Takes bytes in; once the empty line is among them, gives the whole head and how many of `input` belong to it.
    /// At most `limit` bytes.
    ///
    /// # Errors
    /// [`HeadError`]; the connection cannot go on.
    pub fn take(&mut self, input: &[u8], limit: usize) -> Result<Option<(Bytes, usize)>, HeadError> {
        let at_start = matches!(self.bytes.as_slice(), [] | [b'\r']);
        let skipped = if at_start { self.skip_empty_lines(input)? } else { 0 };
        let fresh = input.get(skipped..).unwrap_or_default();
        if self.bytes.is_empty()
            && fresh.first().is_some_and(|byte| !byte.is_ascii_alphabetic() && *byte != b'\r')
        {
            return Err(HeadError::NotHttp { what: "it does not begin with a method" });
        }
        let end = self.find_end(fresh)?;
        let own = fresh.get(..end.unwrap_or(fresh.len())).unwrap_or_default();
        if self.bytes.len() + own.len() > limit {
            let in_target = !self.bytes.iter().chain(own).any(|byte| *byte == b'\n');
            return Err(if in_target {
                HeadError::TargetTooLong { limit }
            } else {
                HeadError::TooLarge { limit }
            });
        }
        if end.is_none() {
            self.bytes.extend_from_slice(own);
            return Ok(None);
        }
        let whole = if self.bytes.is_empty() {
            Bytes::copy_from_slice(own)
        } else {
            self.bytes.extend_from_slice(own);
            Bytes::from(std::mem::take(&mut self.bytes))
        };
        self.empty_lines = 0;
        Ok(Some((whole, skipped + own.len())))
    }

    /// Whether nothing of a request has come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.empty_lines == 0
    }

    fn skip_empty_lines(&mut self, input: &[u8]) -> Result<usize, HeadError> {
        let mut skipped = 0;
        loop {
            let rest = input.get(skipped..).unwrap_or_default();
            // An empty line may come in two pieces.
            let line: &[u8] = if self.bytes.is_empty() { b"\r\n" } else { b"\n" };
            if !rest.starts_with(line) {
                return Ok(skipped);
            }
            skipped += line.len();
            self.bytes.clear();
            self.empty_lines += 1;
            if self.empty_lines > EMPTY_LINES_MAX {
                return Err(HeadError::NotHttp { what: "it begins with empty lines" });
            }
        }
    }

    /// The position behind the empty line in `fresh`, which follows what is kept.
    fn find_end(&self, fresh: &[u8]) -> Result<Option<usize>, HeadError> {
        let kept = self.bytes.len();
        let before = |at: usize, back: usize| match at.checked_sub(back) {
            Some(inside) => fresh.get(inside).copied(),
            None => (kept + at).checked_sub(back).and_then(|index| self.bytes.get(index).copied()),
        };
        for at in memchr::memchr_iter(b'\n', fresh) {
            if before(at, 1) != Some(b'\r') {
                return Err(HeadError::Ambiguous { what: "a line does not end with CRLF" });
            }
            if before(at, 2) == Some(b'\n') {
                return Ok(Some(at + 1));
            }
        }
        Ok(None)
    }
}

/// A request's head with everything that its framing says already decided.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub target: Uri,
    pub fields: Fields,
    /// How its body ends; never `UntilClose`.
    pub framing: Framing,
    /// Whether the client expects the connection to stay open. HTTP/1.0 always closes.
    pub keep_alive: bool,
    pub is_http_1_0: bool,
    /// It sends its body only when told to.
    pub expects_continue: bool,
}

/// Reads a whole head, as [`HeadBytes`] gives it.
///
/// # Errors
/// [`HeadError`]; the connection cannot go on, because where the next request begins is not known.
pub fn parse(head: &Bytes) -> Result<RequestHead, HeadError> {
    let mut fields = [const { MaybeUninit::<Header<'_>>::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut fields) {
        Ok(Status::Complete(length)) if length == head.len() => {}
        Ok(_) => return Err(HeadError::NotHttp { what: "its head is not whole" }),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(httparse::Error::Version) => return Err(HeadError::NotHttp { what: "the version" }),
        Err(httparse::Error::HeaderName) => return Err(HeadError::NotHttp { what: "a header name" }),
        Err(httparse::Error::HeaderValue) => return Err(HeadError::NotHttp { what: "a header value" }),
        Err(httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token) => {
            return Err(HeadError::NotHttp { what: "the request line" });
        }
    }
    let is_http_1_0 = request.version == Some(0);
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes())
        .map_err(|_| HeadError::NotHttp { what: "the method" })?;
    let target = request.path.unwrap_or_default().as_bytes();
    if target.contains(&b'#') {
        // The reader of URIs would drop it in silence, and another proxy would route by it.
        return Err(HeadError::NotHttp { what: "the request target" });
    }
    let target = Uri::from_maybe_shared(slice_of(head, target))
        .map_err(|_| HeadError::NotHttp { what: "the request target" })?;
    let mut connection = Connection::default();
    for field in request.headers.iter() {
        connection.read(field)?;
    }
    let fields = Fields::within(head, request.headers).ok_or(HeadError::NotHttp { what: "a header" })?;
    let framing = connection.framing(is_http_1_0)?;
    check_host(&fields, &target, is_http_1_0)?;
    Ok(RequestHead {
        method,
        target,
        fields,
        framing,
        keep_alive: !connection.close && !is_http_1_0,
        is_http_1_0,
        expects_continue: connection.expects_continue && !is_http_1_0,
    })
}

/// A part of the head without a copy.
fn slice_of(head: &Bytes, part: &[u8]) -> Bytes {
    if part.is_empty() { Bytes::new() } else { head.slice_ref(part) }
}

/// The fields that decide about the connection.
#[derive(Debug, Default)]
struct Connection {
    length: Option<u64>,
    is_chunked: bool,
    close: bool,
    expects_continue: bool,
}

impl Connection {
    fn read(&mut self, field: &Header<'_>) -> Result<(), HeadError> {
        let Header { name, value } = *field;
        if name.eq_ignore_ascii_case("content-length") {
            let Some(length) = whole_number(value) else {
                return Err(HeadError::Ambiguous { what: "the content-length is not a whole number" });
            };
            if self.length.replace(length).is_some() {
                return Err(HeadError::Ambiguous { what: "there is more than one content-length" });
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Coding);
            }
            if std::mem::replace(&mut self.is_chunked, true) {
                return Err(HeadError::Ambiguous { what: "there is more than one transfer-encoding" });
            }
        } else if name.eq_ignore_ascii_case("connection") {
            let mut tokens = value.split(|byte| *byte == b',');
            self.close |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(HeadError::Expectation);
            }
            self.expects_continue = true;
        }
        Ok(())
    }

    fn framing(&self, is_http_1_0: bool) -> Result<Framing, HeadError> {
        match (self.is_chunked, self.length) {
            (true, Some(_)) => {
                Err(HeadError::Ambiguous { what: "there is a content-length beside a transfer-encoding" })
            }
            (true, None) if is_http_1_0 => {
                Err(HeadError::Ambiguous { what: "there is a transfer-encoding in HTTP/1.0" })
            }
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Digits only; no sign, no space, no list, no overflow.
fn whole_number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

fn check_host(fields: &Fields, target: &Uri, is_http_1_0: bool) -> Result<(), HeadError> {
    let mut hosts = fields.all("host");
    match (hosts.next(), hosts.next(), target.authority()) {
        (_, Some(_), _) => Err(HeadError::Ambiguous { what: "there is more than one Host header" }),
        (None, None, _) if is_http_1_0 => Ok(()),
        (None, None, _) => Err(HeadError::Ambiguous { what: "the Host header is missing" }),
        (Some(host), None, Some(authority)) if !host.eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(HeadError::Ambiguous { what: "the Host header differs from the request target" })
        }
        (Some(_), None, _) => Ok(()),
    }
}
