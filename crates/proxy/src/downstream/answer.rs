//! An answer's head and the framing of its pieces, written into a buffer of the caller.

use http::{HeaderMap, StatusCode, header};

/// How the client learns where the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerLength {
    Known(usize),
    Chunked,
    /// For HTTP/1.0: the connection closes behind the answer.
    UntilClose,
}

/// What the connection adds to an answer's own headers.
#[derive(Debug, Clone, Copy)]
pub struct AnswerShape<'a> {
    pub length: AnswerLength,
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// The present as an HTTP date.
    pub date: &'a str,
}

/// The end of a chunked answer.
pub const CHUNK_END: &[u8] = b"0\r\n\r\n";

/// Appends a head. `headers` must not hold `connection`, `content-length`, `transfer-encoding` or `date`; they are left out.
pub fn write_head(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap, shape: &AnswerShape<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        if !is_ours(name) {
            field(out, name.as_str(), value.as_bytes());
        }
    }
    match shape.length {
        AnswerLength::Known(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        AnswerLength::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        AnswerLength::UntilClose => {}
    }
    if !shape.keep_alive {
        out.extend_from_slice(b"connection: close\r\n");
    }
    field(out, "date", shape.date.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn is_ours(name: &header::HeaderName) -> bool {
    [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE].contains(name)
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a piece as a chunk of a chunked answer; an empty one would end the answer and is left out.
pub fn chunk(out: &mut Vec<u8>, piece: &[u8]) {
    if piece.is_empty() {
        return;
    }
    hexadecimal(out, piece.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(piece);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut Vec<u8>, number: usize) {
    digits::<10>(out, number);
}

fn hexadecimal(out: &mut Vec<u8>, number: usize) {
    digits::<16>(out, number);
}

/// Without the formatting machinery: this runs for every streamed piece.
fn digits<const BASE: usize>(out: &mut Vec<u8>, mut number: usize) {
    const DIGITS_MAX: usize = 20;
    let mut text = [b'0'; DIGITS_MAX];
    let mut used = 0;
    for slot in text.iter_mut().rev() {
        *slot = b"0123456789abcdef".get(number % BASE).copied().unwrap_or(b'0');
        number /= BASE;
        used += 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(DIGITS_MAX - used..).unwrap_or_default());
}
