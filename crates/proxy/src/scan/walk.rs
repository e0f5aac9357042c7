//! The walk over the tokens of a body: grammar, depth, and what each top-level key means to us.
//!
//! A loop with one bit of memory per level instead of recursion. It owns the rule which keys are read
//! ([`Field`]); it must never keep a piece of the prompt.

use super::text::{Passed, Survey, pass_string, unquote};
use super::{BodyView, DEPTH_MAX, ScanError, ScanLimits, Span, StreamOptions};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
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

/// What the grammar allows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A key or the end of an object.
    FirstKey,
    Key,
    /// A value or the end of an array.
    FirstItem,
    Value,
    /// A comma or the end of the container.
    After,
    /// The top-level object is closed.
    End,
}

pub(super) struct Walk<'b> {
    body: &'b [u8],
    at: usize,
    survey: Survey,
    limits: ScanLimits,
    depth: u32,
    /// One bit per open container, the innermost lowest: 1 is an array.
    arrays: u128,
    /// The top-level key whose value is being walked.
    field: Option<(&'static str, Field)>,
    /// Where that value began.
    field_at: usize,
    /// One bit per entry of [`Field::ALL`] that has been seen.
    seen: u16,
    role: Role,
    /// Whether the key before the current value is `include_usage` of `stream_options`.
    at_include_usage: bool,
    view: BodyView,
}

impl<'b> Walk<'b> {
    pub(super) fn new(body: &'b [u8], survey: Survey, limits: ScanLimits) -> Self {
        Self {
            body,
            at: 0,
            survey,
            limits: ScanLimits { depth_max: limits.depth_max.min(DEPTH_MAX), ..limits },
            depth: 0,
            arrays: 0,
            field: None,
            field_at: 0,
            seen: 0,
            role: Role::Text,
            at_include_usage: false,
            view: BodyView { is_empty: true, ..BodyView::default() },
        }
    }

    pub(super) fn run(mut self) -> Result<BodyView, ScanError> {
        self.skip_space();
        let mut next = match self.peek() {
            None => return Err(ScanError::Empty),
            Some(b'{') => self.open(Kind::Object)?,
            Some(_) => return Err(ScanError::NotAnObject),
        };
        self.view.open_at = self.at;
        while next != Next::End {
            self.skip_space();
            next = self.step(next)?;
        }
        self.skip_space();
        if self.at == self.body.len() { Ok(self.view) } else { Err(self.invalid()) }
    }

    #[inline]
    fn step(&mut self, next: Next) -> Result<Next, ScanError> {
        match (next, self.peek()) {
            (Next::FirstKey, Some(b'}')) | (Next::FirstItem, Some(b']')) => self.close(),
            (Next::After, Some(b'}')) if self.arrays & 1 == 0 => self.close(),
            (Next::After, Some(b']')) if self.arrays & 1 == 1 => self.close(),
            (Next::After, Some(b',')) => {
                self.at += 1;
                Ok(if self.arrays & 1 == 1 { Next::Value } else { Next::Key })
            }
            (Next::FirstKey | Next::Key, Some(b'"')) => self.key(),
            (Next::FirstItem | Next::Value, Some(first)) => self.value(first),
            _ => Err(self.invalid()),
        }
    }

    #[inline]
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    const fn invalid(&self) -> ScanError {
        ScanError::InvalidJson { at: self.at }
    }

    // === Containers ===

    fn open(&mut self, kind: Kind) -> Result<Next, ScanError> {
        if self.depth == self.limits.depth_max {
            return Err(ScanError::TooDeep { limit: self.limits.depth_max });
        }
        self.at += 1;
        self.depth += 1;
        self.arrays = self.arrays << 1 | u128::from(kind == Kind::Array);
        Ok(if kind == Kind::Array { Next::FirstItem } else { Next::FirstKey })
    }

    fn close(&mut self) -> Result<Next, ScanError> {
        let kind = if self.arrays & 1 == 1 { Kind::Array } else { Kind::Object };
        self.at += 1;
        self.depth -= 1;
        self.arrays >>= 1;
        match self.depth {
            0 => return Ok(Next::End),
            1 => self.end_field(kind)?,
            _ => {}
        }
        Ok(Next::After)
    }

    // === Keys ===

    fn key(&mut self) -> Result<Next, ScanError> {
        let start = self.at;
        let Passed { next, .. } = pass_string(self.body, start + 1, self.survey.has_controls)?;
        self.at = next;
        let quoted = Span { start, end: next }.of(self.body);
        match (self.depth, self.field) {
            (1, _) => self.top_key(quoted)?,
            (2, Some((_, Field::StreamOptions))) => self.option_key(quoted)?,
            (_, Some((_, field))) if field.is_prompt() => {
                self.role = Role::of_key(quoted.get(1..quoted.len() - 1).unwrap_or_default());
            }
            _ => {}
        }
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.invalid());
        }
        self.at += 1;
        Ok(Next::Value)
    }

    fn top_key(&mut self, quoted: &[u8]) -> Result<(), ScanError> {
        self.view.is_empty = false;
        self.field = Field::of_key(quoted)?;
        if let Some((key, field)) = self.field {
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

    // === Values ===

    fn value(&mut self, first: u8) -> Result<Next, ScanError> {
        let kind = match first {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b't' => Kind::True,
            b'f' => Kind::False,
            b'n' => Kind::Null,
            b'-' | b'0'..=b'9' => Kind::Number,
            _ => return Err(self.invalid()),
        };
        if self.depth == 1 {
            self.begin_field(kind)?;
        } else if self.depth == 2 && self.arrays & 1 == 1 {
            self.item(kind)?;
        }
        let start = self.at;
        match kind {
            Kind::Object | Kind::Array => {
                self.check_include_usage(kind, start)?;
                return self.open(kind);
            }
            Kind::String => {
                let Passed { next, shrink } = pass_string(self.body, start + 1, self.survey.has_controls)?;
                self.at = next;
                self.count_text(next - start - 2 - shrink);
            }
            Kind::Number => self.number()?,
            Kind::True => self.literal(b"true")?,
            Kind::False => self.literal(b"false")?,
            Kind::Null => self.literal(b"null")?,
        }
        self.check_include_usage(kind, start)?;
        if self.depth == 1 {
            self.end_field(kind)?;
        }
        Ok(Next::After)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), ScanError> {
        let rest = self.body.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(self.invalid());
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits()?;
        if leading_zero && whole > 1 {
            return Err(self.invalid());
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        let has_exponent = matches!(self.peek(), Some(b'e' | b'E'));
        if has_exponent {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        // Only these can exceed a double (the largest has 309 digits), which parsers read as infinity or refuse.
        if has_exponent || whole > 300 {
            let text = Span { start, end: self.at }.of(self.body);
            let value = std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok());
            if !value.is_some_and(f64::is_finite) {
                return Err(ScanError::InvalidJson { at: start });
            }
        }
        if let Some((_, Field::Prompt | Field::Input)) = self.field {
            self.view.prompt_token_ids += 1;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<usize, ScanError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.invalid()) } else { Ok(self.at - start) }
    }

    // === What the values mean ===

    fn begin_field(&mut self, kind: Kind) -> Result<(), ScanError> {
        self.field_at = self.at;
        let Some((key, field)) = self.field else { return Ok(()) };
        let (kinds, expected) = field.expected();
        if !kinds.contains(&kind) {
            return Err(ScanError::WrongType { key, expected });
        }
        match (field, kind) {
            (Field::StreamOptions, _) => {
                self.view.stream_options = Some(StreamOptions {
                    span: Span { start: self.at, end: self.at },
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

    fn item(&mut self, kind: Kind) -> Result<(), ScanError> {
        match self.field {
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

    fn add_prompts(&mut self, count: u32) {
        self.view.prompts = Some(self.view.prompts.unwrap_or(0).saturating_add(count));
    }

    fn count_text(&mut self, bytes: usize) {
        let Some((_, field)) = self.field else { return };
        if !field.is_prompt() {
            return;
        }
        match self.role {
            Role::Text => self.view.prompt_bytes += bytes as u64,
            Role::Media => {
                self.view.media_bytes += bytes as u64;
                self.view.media_items = self.view.media_items.saturating_add(1);
            }
            Role::Label => {}
        }
        // A list of strings after a key is text again, whatever the key.
        self.role = Role::Text;
    }

    fn check_include_usage(&mut self, kind: Kind, start: usize) -> Result<(), ScanError> {
        if !std::mem::take(&mut self.at_include_usage) {
            return Ok(());
        }
        if !matches!(kind, Kind::True | Kind::False | Kind::Null) {
            return Err(ScanError::WrongType { key: "include_usage", expected: "true or false" });
        }
        if let Some(options) = &mut self.view.stream_options {
            options.include_usage_span = Some(Span { start, end: self.at });
            options.include_usage = kind == Kind::True;
        }
        Ok(())
    }

    fn end_field(&mut self, kind: Kind) -> Result<(), ScanError> {
        let span = Span { start: self.field_at, end: self.at };
        let Some((key, field)) = self.field.take() else { return Ok(()) };
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
            }
            (Field::Tools | Field::Functions, Kind::Array) => {
                self.view.tools_bytes += (span.end - span.start) as u64;
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
