//! One pass over a request body: what placement and relay need to know, and whether it is JSON at all.
//!
//! The body itself goes on unchanged, so this and the engine must read the same thing from it. Hence everything
//! on which two JSON parsers may differ is refused here: a key given twice or in another case, invalid UTF-8,
//! a byte order mark, lone surrogates, numbers beyond a double, nesting deeper than some parsers allow.
//! No tree is built and nothing is copied: the result is numbers and spans. It must never recurse
//! (a body of 100,000 brackets is ordinary hostile input) and never look at what the prompt says.

use std::borrow::Cow;

mod fields;
mod text;
mod walk;

/// The deepest nesting that [`ScanLimits`] can allow: the walk keeps one bit per level.
pub const DEPTH_MAX: u32 = 128;

/// What a body may ask for; beyond it the answer is 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Nested containers, the top-level object included; never more than [`DEPTH_MAX`].
    pub depth_max: u32,
    /// Largest `max_tokens` and `max_completion_tokens`.
    pub output_tokens_max: u64,
    /// Largest `n`.
    pub n_max: u64,
    /// Entries in `messages`.
    pub messages_max: u32,
}

impl ScanLimits {
    /// Depth 128, 2^31 tokens, 128 choices, 100,000 messages.
    pub const DEFAULT: Self =
        Self { depth_max: DEPTH_MAX, output_tokens_max: 1 << 31, n_max: 128, messages_max: 100_000 };
}

impl Default for ScanLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where a value lies in the body, in bytes; quotes and brackets included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl Span {
    /// The bytes of a body that this span covers; empty if it is not a span of that body.
    #[must_use]
    pub fn of(self, body: &[u8]) -> &[u8] {
        body.get(self.start..self.end).unwrap_or_default()
    }
}

/// `stream_options`, which the relay may have to complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamOptions {
    pub span: Span,
    /// Whether it is `null` rather than an object.
    pub is_null: bool,
    /// Whether the object has no key.
    pub is_empty: bool,
    /// The value of `include_usage`, if the key is there.
    pub include_usage_span: Option<Span>,
    /// Whether that value is `true`.
    pub include_usage: bool,
}

/// What the pass found. Spans refer to the body that was scanned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BodyView {
    /// The string after `model`, quotes included; read it with [`BodyView::model`].
    pub model_span: Option<Span>,
    /// `None`: absent or null.
    pub stream: Option<bool>,
    /// The value of `stream`, null included.
    pub stream_span: Option<Span>,
    pub stream_options: Option<StreamOptions>,
    /// `None`: absent or null.
    pub max_tokens: Option<u32>,
    /// `None`: absent or null.
    pub max_completion_tokens: Option<u32>,
    /// Choices asked for; `None`: absent or null.
    pub n: Option<u32>,
    /// Entries in `messages`.
    pub messages: Option<u32>,
    /// Separate prompts in `prompt` or `input`: entries that are strings or token lists, else 1; `None`: neither key.
    pub prompts: Option<u32>,
    /// Bytes of text in `messages`, `prompt` and `input`, escapes resolved; keys, roles, ids and media are not text.
    pub prompt_bytes: u64,
    /// Numbers in `prompt` and `input`: prompts given as token ids.
    pub prompt_token_ids: u64,
    /// Bytes of URLs and inline data (base64) in `messages` and `input`: they say nothing about the number of tokens.
    pub media_bytes: u64,
    /// How many URLs and pieces of inline data there are.
    pub media_items: u32,
    /// Bytes of `tools` or `functions` as written; chat templates put them before the prompt.
    pub tools_bytes: u64,
    /// The value of `tools`, or of the older `functions`.
    pub tools_span: Option<Span>,
    /// The value of `messages`.
    pub messages_span: Option<Span>,
    /// The value of `prompt` or `input`.
    pub prompt_span: Option<Span>,
    /// Where the first URL or piece of inline data begins.
    pub media_at: Option<usize>,
    /// The byte after the opening brace: where a key can be inserted.
    pub open_at: usize,
    /// Whether the top-level object has no key.
    pub is_empty: bool,
}

impl BodyView {
    /// The model's name, unescaped.
    #[must_use]
    pub fn model<'b>(&self, body: &'b [u8]) -> Option<Cow<'b, str>> {
        let quoted = self.model_span?.of(body);
        text::unquote(quoted)
    }

    /// The limit on the answer: `max_completion_tokens`, or the older `max_tokens` where only that is given.
    #[must_use]
    pub fn output_limit(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    /// Whether the client asked for a stream.
    #[must_use]
    pub fn wants_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether the client asked for a last chunk with usage.
    #[must_use]
    pub fn wants_usage(&self) -> bool {
        self.stream_options.is_some_and(|options| options.include_usage)
    }
}

/// Why a body is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("the body is empty")]
    Empty,
    #[error("the body begins with a byte order mark")]
    ByteOrderMark,
    #[error("the body is not valid UTF-8 at byte {at}")]
    NotUtf8 { at: usize },
    #[error("the body is not valid JSON at byte {at}")]
    InvalidJson { at: usize },
    #[error("the body is nested deeper than {limit} levels")]
    TooDeep { limit: u32 },
    #[error("the body is not a JSON object")]
    NotAnObject,
    #[error("`{key}` is given more than once")]
    DuplicateKey { key: &'static str },
    /// Some engines match keys without regard to case and would read what we do not.
    #[error("a key differs from `{key}` only in case")]
    MiscasedKey { key: &'static str },
    #[error("`{key}` must be {expected}")]
    WrongType { key: &'static str, expected: &'static str },
    #[error("`{key}` must be from {min} to {max}")]
    OutOfRange { key: &'static str, min: u64, max: u64 },
    #[error("`messages` has more than {limit} entries")]
    TooManyMessages { limit: u32 },
}

impl ScanError {
    /// The key at fault, for `param` of the error body.
    #[must_use]
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::DuplicateKey { key }
            | Self::MiscasedKey { key }
            | Self::WrongType { key, .. }
            | Self::OutOfRange { key, .. } => Some(key),
            Self::TooManyMessages { .. } => Some("messages"),
            Self::Empty
            | Self::ByteOrderMark
            | Self::NotUtf8 { .. }
            | Self::InvalidJson { .. }
            | Self::TooDeep { .. }
            | Self::NotAnObject => None,
        }
    }
}

/// Reads a request body once.
///
/// # Errors
/// [`ScanError`]: the body is not a JSON object that every engine reads alike, or a key asks for the impossible.
pub fn scan(body: &[u8], limits: ScanLimits) -> Result<BodyView, ScanError> {
    let survey = text::survey(body)?;
    walk::Walk::new(body, survey, limits).run()
}

#[cfg(test)]
mod tests;
