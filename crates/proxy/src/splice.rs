//! Changes a few keys of a request body without touching the rest.
//!
//! The result is a short list of slices: what the client sent, byte for byte, and between them what we replaced or
//! inserted. It relies on the spans of one [`scan`](crate::scan::scan) of the same body; it must never parse or
//! re-serialise, because an engine must see what the client wrote.

use std::io::IoSlice;

use bytes::Bytes;

use crate::scan::{BodyView, Span};

/// Most slices of a body: three replacements and one insertion, each with the bytes before it, and the tail.
pub const PARTS_MAX: usize = 8;

/// What to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Edits<'a> {
    /// Set `stream` to this value.
    pub stream: Option<bool>,
    /// Make the engine send usage with the stream.
    pub include_usage: bool,
    /// The model's name as the engine knows it.
    pub model: Option<&'a str>,
}

/// A body as a list of slices that are sent one after the other.
#[derive(Debug, Clone, Default)]
pub struct SplicedBody {
    parts: [Bytes; PARTS_MAX],
    used: usize,
    len: usize,
}

impl SplicedBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// All bytes to be sent.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The slices in order; none is empty.
    #[must_use]
    pub fn parts(&self) -> &[Bytes] {
        self.parts.get(..self.used).unwrap_or_default()
    }

    /// The slices from a byte position on, for a vectored write; returns how many were set.
    pub fn io_slices<'s>(&'s self, mut skip: usize, out: &mut [IoSlice<'s>]) -> usize {
        let mut count = 0;
        for part in self.parts() {
            if skip >= part.len() {
                skip -= part.len();
                continue;
            }
            let Some(slot) = out.get_mut(count) else { break };
            *slot = IoSlice::new(part.get(skip..).unwrap_or_default());
            skip = 0;
            count += 1;
        }
        count
    }

    /// The whole body in one piece; for tests and small bodies.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts().concat()
    }

    fn push(&mut self, part: Bytes) {
        if part.is_empty() {
            return;
        }
        if let Some(slot) = self.parts.get_mut(self.used) {
            self.len += part.len();
            *slot = part;
            self.used += 1;
        } else {
            debug_assert!(false, "a splice has at most {PARTS_MAX} parts");
        }
    }
}

impl From<Bytes> for SplicedBody {
    fn from(body: Bytes) -> Self {
        let mut spliced = Self::default();
        spliced.push(body);
        spliced
    }
}

/// One replaced or inserted piece; an empty span inserts.
struct Patch {
    span: Span,
    text: Bytes,
}

/// Applies the edits to a body; `view` must come from a scan of this very body.
#[must_use]
pub fn splice(body: &Bytes, view: &BodyView, edits: Edits<'_>) -> SplicedBody {
    let mut patches = [model(view, edits), stream(view, edits), usage(view, edits), insertion(view, edits)];
    patches.sort_unstable_by_key(|patch| patch.as_ref().map_or(usize::MAX, |p| p.span.start));
    let mut spliced = SplicedBody::default();
    let mut done = 0;
    for patch in patches.into_iter().flatten() {
        spliced.push(slice(body, done, patch.span.start));
        spliced.push(patch.text);
        done = patch.span.end;
    }
    spliced.push(slice(body, done, body.len()));
    spliced
}

fn slice(body: &Bytes, start: usize, end: usize) -> Bytes {
    if start < end && end <= body.len() { body.slice(start..end) } else { Bytes::new() }
}

fn model(view: &BodyView, edits: Edits<'_>) -> Option<Patch> {
    let span = view.model_span?;
    let name = edits.model?;
    Some(Patch { span, text: quote(name) })
}

fn stream(view: &BodyView, edits: Edits<'_>) -> Option<Patch> {
    let span = view.stream_span?;
    let wanted = edits.stream?;
    (view.stream != Some(wanted)).then(|| Patch { span, text: Bytes::from_static(literal(wanted)) })
}

fn usage(view: &BodyView, edits: Edits<'_>) -> Option<Patch> {
    let options = view.stream_options?;
    if !edits.include_usage || options.include_usage {
        return None;
    }
    if options.is_null {
        return Some(Patch { span: options.span, text: Bytes::from_static(br#"{"include_usage":true}"#) });
    }
    if let Some(span) = options.include_usage_span {
        return Some(Patch { span, text: Bytes::from_static(b"true") });
    }
    let inside = options.span.start + 1;
    let text: &[u8] = if options.is_empty { br#""include_usage":true"# } else { br#""include_usage":true,"# };
    Some(Patch { span: Span { start: inside, end: inside }, text: Bytes::from_static(text) })
}

/// The keys that are missing, put before the first key of the client.
fn insertion(view: &BodyView, edits: Edits<'_>) -> Option<Patch> {
    let mut keys = Vec::new();
    if let (None, Some(name)) = (view.model_span, edits.model) {
        keys.push([br#""model":"#.as_slice(), &quote(name)].concat());
    }
    if let (None, Some(wanted)) = (view.stream_span, edits.stream) {
        keys.push([br#""stream":"#.as_slice(), literal(wanted)].concat());
    }
    if edits.include_usage && view.stream_options.is_none() {
        keys.push(br#""stream_options":{"include_usage":true}"#.to_vec());
    }
    if keys.is_empty() {
        return None;
    }
    let mut text = keys.join(&b","[..]);
    if !view.is_empty {
        text.push(b',');
    }
    Some(Patch { span: Span { start: view.open_at, end: view.open_at }, text: Bytes::from(text) })
}

const fn literal(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

fn quote(name: &str) -> Bytes {
    let mut text = Vec::with_capacity(name.len() + 2);
    text.push(b'"');
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend_from_slice(&[b'\\', c as u8]),
            c if c < ' ' => text.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes()),
            c => text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    text.push(b'"');
    Bytes::from(text)
}

#[cfg(test)]
mod tests;
