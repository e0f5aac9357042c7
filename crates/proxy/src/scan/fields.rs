//! What keys and values mean: which top-level keys are read, of which type, and what is counted where.
//!
//! The walk calls in at every key and value; everything it finds ends up in one [`BodyView`]. It must never keep a
//! piece of the prompt.

use super::text::unquote;
use super::{BodyView, ScanError, ScanLimits, Span, StreamOptions};

/// The top-level keys that are read; each may come once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    N,
    Messages,
    Prompt,
    Input,
    Tools,
    Functions,
}

impl Field {
    const ALL: [(&'static str, Self); 11] = [
        ("model", Self::Model),
        ("stream", Self::Stream),
        ("stream_options", Self::StreamOptions),
        ("max_tokens", Self::MaxTokens),
        ("max_completion_tokens", Self::MaxCompletionTokens),
        ("n", Self::N),
        ("messages", Self::Messages),
        ("prompt", Self::Prompt),
        ("input", Self::Input),
        ("tools", Self::Tools),
        ("functions", Self::Functions),
    ];

    /// Longest name in bytes as written: six bytes per escaped character.
    const WRITTEN_MAX: usize = "max_completion_tokens".len() * 6;

    /// The field of a key as written between its quotes.
    fn of_key(quoted: &[u8]) -> Result<Option<(&'static str, Self)>, ScanError> {
        let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
        if let Some(found) = Self::ALL.iter().find(|(name, _)| name.as_bytes() == inner) {
            return Ok(Some(*found));
        }
        if inner.len() > Self::WRITTEN_MAX {
            return Ok(None);
        }
        let Some(text) = unquote(quoted) else { return Ok(None) };
        match Self::ALL.iter().find(|(name, _)| equal_but_for_case(&text, name)) {
            Some(found) if found.0 == text => Ok(Some(*found)),
            Some((key, _)) => Err(ScanError::MiscasedKey { key }),
            None => Ok(None),
        }
    }

    /// Which values it may have; `null` counts as absent for all but the model.
    const fn expected(self) -> (&'static [Kind], &'static str) {
        match self {
            Self::Model => (&[Kind::String], "a string"),
            Self::Stream => (&[Kind::True, Kind::False, Kind::Null], "true or false"),
            Self::StreamOptions => (&[Kind::Object, Kind::Null], "an object"),
            Self::MaxTokens | Self::MaxCompletionTokens | Self::N => {
                (&[Kind::Number, Kind::Null], "an integer")
            }
            Self::Messages => (&[Kind::Array, Kind::Null], "an array"),
            Self::Prompt | Self::Input => (&[Kind::String, Kind::Array, Kind::Null], "a string or an array"),
            Self::Tools | Self::Functions => (&[Kind::Array, Kind::Null], "an array"),
        }
    }

    const fn is_prompt(self) -> bool {
        matches!(self, Self::Messages | Self::Prompt | Self::Input)
    }
}

/// Case as the loosest parser of an engine folds it: ASCII, and the two letters that Unicode folds onto k and s.
fn equal_but_for_case(text: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    };
    text.chars().map(fold).eq(name.chars())
}

/// The seven kinds of JSON values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Number,
    True,
    False,
    Null,
    Object,
    Array,
}

/// What a string inside `messages`, `prompt` or `input` is, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Text,
    Media,
    /// Roles, types and ids: no text that a client wrote.
    Label,
}

impl Role {
    fn of_key(key: &[u8]) -> Self {
        match key {
            b"role" | b"type" | b"id" | b"tool_call_id" | b"detail" | b"format" => Self::Label,
            b"url" | b"image_url" | b"data" | b"file_data" | b"file_id" => Self::Media,
            _ => Self::Text,
        }
    }
}

/// Gathers the view while the walk goes on.
pub(super) struct Fields<'b> {
    body: &'b [u8],
    limits: ScanLimits,
    /// The top-level key whose value is being walked.
    current: Option<(&'static str, Field)>,
    /// Where that value began.
    began_at: usize,
    /// One bit per [`Field`] that has been seen.
    seen: u16,
    role: Role,
    /// Whether the key before the current value is `include_usage` of `stream_options`.
    at_include_usage: bool,
    pub(super) view: BodyView,
}

impl<'b> Fields<'b> {
    pub(super) fn new(body: &'b [u8], limits: ScanLimits) -> Self {
        Self {
            body,
            limits,
            current: None,
            began_at: 0,
            seen: 0,
            role: Role::Text,
            at_include_usage: false,
            view: BodyView { is_empty: true, ..BodyView::default() },
        }
    }

    /// A key, with its quotes, in a container at this depth.
    #[inline]
    pub(super) fn key(&mut self, depth: u32, quoted: &[u8]) -> Result<(), ScanError> {
        match (depth, self.current) {
            (1, _) => self.top_key(quoted),
            (2, Some((_, Field::StreamOptions))) => self.option_key(quoted),
            (_, Some((_, field))) if field.is_prompt() => {
                let key = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
                self.role = Role::of_key(key);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn top_key(&mut self, quoted: &[u8]) -> Result<(), ScanError> {
        self.view.is_empty = false;
        self.current = Field::of_key(quoted)?;
        if let Some((key, field)) = self.current {
            let bit = 1u16 << (field as u16);
            if self.seen & bit != 0 {
                return Err(ScanError::DuplicateKey { key });
            }
            self.seen |= bit;
            self.role = Role::Text;
        }
        Ok(())
    }

    fn option_key(&mut self, quoted: &[u8]) -> Result<(), ScanError> {
        const KEY: &str = "include_usage";
        let Some(options) = &mut self.view.stream_options else { return Ok(()) };
        options.is_empty = false;
        let Some(text) = unquote(quoted) else { return Ok(()) };
        self.at_include_usage = text == KEY;
        if self.at_include_usage && options.include_usage_span.is_some() {
            return Err(ScanError::DuplicateKey { key: KEY });
        }
        if !self.at_include_usage && equal_but_for_case(&text, KEY) {
            return Err(ScanError::MiscasedKey { key: KEY });
        }
        Ok(())
    }

    /// A value of the top-level object begins.
    pub(super) fn begin(&mut self, kind: Kind, at: usize) -> Result<(), ScanError> {
        self.began_at = at;
        let Some((key, field)) = self.current else { return Ok(()) };
        let (kinds, expected) = field.expected();
        if !kinds.contains(&kind) {
            return Err(ScanError::WrongType { key, expected });
        }
        match (field, kind) {
            (Field::StreamOptions, _) => {
                self.view.stream_options = Some(StreamOptions {
                    span: Span { start: at, end: at },
                    is_null: kind == Kind::Null,
                    is_empty: true,
                    include_usage_span: None,
                    include_usage: false,
                });
            }
            (Field::Messages, Kind::Array) => self.view.messages = Some(0),
            (Field::Prompt | Field::Input, Kind::String) => self.add_prompts(1),
            _ => {}
        }
        Ok(())
    }

    /// An entry of a top-level array begins.
    pub(super) fn item(&mut self, kind: Kind) -> Result<(), ScanError> {
        match self.current {
            Some((_, Field::Messages)) => {
                let count = self.view.messages.unwrap_or(0) + 1;
                if count > self.limits.messages_max {
                    return Err(ScanError::TooManyMessages { limit: self.limits.messages_max });
                }
                self.view.messages = Some(count);
            }
            Some((_, Field::Prompt | Field::Input)) if matches!(kind, Kind::String | Kind::Array) => {
                self.add_prompts(1);
            }
            _ => {}
        }
        Ok(())
    }

    /// A number at any depth.
    #[inline]
    pub(super) fn number(&mut self) {
        if let Some((_, Field::Prompt | Field::Input)) = self.current {
            self.view.prompt_token_ids += 1;
        }
    }

    fn add_prompts(&mut self, count: u32) {
        self.view.prompts = Some(self.view.prompts.unwrap_or(0).saturating_add(count));
    }

    /// A string of this many bytes, unescaped, at any depth.
    #[inline]
    pub(super) fn text(&mut self, at: usize, bytes: usize) {
        let Some((_, field)) = self.current else { return };
        if !field.is_prompt() {
            return;
        }
        match self.role {
            Role::Text => self.view.prompt_bytes += bytes as u64,
            Role::Media => {
                self.view.media_bytes += bytes as u64;
                self.view.media_at.get_or_insert(at);
                self.view.media_items = self.view.media_items.saturating_add(1);
            }
            Role::Label => {}
        }
        // A list of strings after a key is text again, whatever the key.
        self.role = Role::Text;
    }

    /// A value inside the top-level ones: a container that begins or a scalar that ends.
    #[inline]
    pub(super) fn inner(&mut self, kind: Kind, span: Span) -> Result<(), ScanError> {
        if !std::mem::take(&mut self.at_include_usage) {
            return Ok(());
        }
        if !matches!(kind, Kind::True | Kind::False | Kind::Null) {
            return Err(ScanError::WrongType { key: "include_usage", expected: "true or false" });
        }
        if let Some(options) = &mut self.view.stream_options {
            options.include_usage_span = Some(span);
            options.include_usage = kind == Kind::True;
        }
        Ok(())
    }

    /// A value of the top-level object ends before `at`.
    pub(super) fn end(&mut self, kind: Kind, at: usize) -> Result<(), ScanError> {
        let span = Span { start: self.began_at, end: at };
        let Some((key, field)) = self.current.take() else { return Ok(()) };
        match (field, kind) {
            (Field::Model, _) => self.view.model_span = Some(span),
            (Field::Stream, _) => {
                self.view.stream_span = Some(span);
                self.view.stream = match kind {
                    Kind::True => Some(true),
                    Kind::False => Some(false),
                    Kind::Null | Kind::String | Kind::Number | Kind::Object | Kind::Array => None,
                };
            }
            (Field::StreamOptions, _) => {
                if let Some(options) = &mut self.view.stream_options {
                    options.span = span;
                }
            }
            (Field::MaxTokens, Kind::Number) => {
                self.view.max_tokens = Some(self.integer(key, span, 0, self.limits.output_tokens_max)?);
            }
            (Field::MaxCompletionTokens, Kind::Number) => {
                self.view.max_completion_tokens =
                    Some(self.integer(key, span, 0, self.limits.output_tokens_max)?);
            }
            (Field::N, Kind::Number) => {
                self.view.n = Some(self.integer(key, span, 1, self.limits.n_max)?);
            }
            (Field::Prompt | Field::Input, Kind::Array) => {
                self.view.prompts = Some(self.view.prompts.unwrap_or(0).max(1));
                self.view.prompt_span = Some(span);
            }
            (Field::Prompt | Field::Input, Kind::String) => self.view.prompt_span = Some(span),
            (Field::Messages, Kind::Array) => self.view.messages_span = Some(span),
            (Field::Tools | Field::Functions, Kind::Array) => {
                self.view.tools_bytes += (span.end - span.start) as u64;
                self.view.tools_span = Some(span);
            }
            _ => {}
        }
        Ok(())
    }

    fn integer(&self, key: &'static str, span: Span, min: u64, max: u64) -> Result<u32, ScanError> {
        let text = span.of(self.body);
        if text.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) {
            return Err(ScanError::WrongType { key, expected: "an integer" });
        }
        let value = std::str::from_utf8(text).ok().and_then(|t| t.parse::<u64>().ok());
        value
            .filter(|v| (min..=max).contains(v))
            .and_then(|v| u32::try_from(v).ok())
            .ok_or(ScanError::OutOfRange { key, min, max })
    }
}
