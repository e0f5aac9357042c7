//! An answer's head and the framing of its pieces, written into a buffer of the caller.

use http::StatusCode;

use crate::headers::is_safe_header_value;

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

/// What only the connection may say of an answer.
const OURS: [&str; 4] = ["connection", "content-length", "transfer-encoding", "date"];

/// Header fields of an answer, as the lines that are sent. Whoever adds a name adds it once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldLines(Vec<u8>);

impl FieldLines {
    /// Room for the fields of most answers, in bytes.
    const ROOM: usize = 384;

    /// Adds a field of our own making. Left out are what only the connection may say, and a value that is no plain text:
    /// a field that only tells must not cost the answer.
    pub fn add(&mut self, name: &str, value: &str) {
        if is_safe_header_value(value) {
            self.field(name, |out| out.extend_from_slice(value.as_bytes()));
        }
    }

    /// Adds a field with a whole number.
    pub fn add_number(&mut self, name: &str, value: usize) {
        self.field(name, |out| decimal(out, value));
    }

    /// Adds a field of somebody else's making; false, and left out, if its value holds a control character.
    pub fn pass(&mut self, name: &str, value: &[u8]) -> bool {
        let is_clean = |b: &u8| !b.is_ascii_control() || *b == b'\t';
        let clean = value.iter().all(is_clean);
        if clean {
            self.field(name, |out| out.extend_from_slice(value));
        }
        clean
    }

    fn field(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name)) {
            return;
        }
        if self.0.is_empty() {
            self.0 = Vec::with_capacity(Self::ROOM);
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        value(&mut self.0);
        self.0.extend_from_slice(b"\r\n");
    }

    /// Names and values, for another protocol than HTTP/1.1.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let lines = self.0.split(|byte| *byte == b'\n');
        lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let (name, value) = line.split_at_checked(colon)?;
            Some((name, value.strip_prefix(b": ")?.strip_suffix(b"\r")?))
        })
    }
}

/// Appends a head.
pub fn write_head(out: &mut Vec<u8>, status: StatusCode, fields: &FieldLines, shape: &AnswerShape<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Unknown").as_bytes());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(&fields.0);
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
    out.extend_from_slice(b"date: ");
    out.extend_from_slice(shape.date.as_bytes());
    out.extend_from_slice(b"\r\n\r\n");
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
