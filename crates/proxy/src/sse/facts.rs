//! What one event of an OpenAI stream says, found without parsing it.
//!
//! A key is found by searching for it with its quotes. That is sound: inside a JSON string every quote is written
//! `\"`, so `"finish_reason"` with bare quotes on both sides is a whole string of the document, and the colon after it
//! makes it a key. No text that a model writes can look like it. Only an event that mentions `"error"` is parsed.
//! It must never keep content.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use serde_json::Value;

/// Longest error message that is kept, in bytes.
const MESSAGE_MAX: usize = 1024;

/// Why a choice ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
    /// The engine was told to stop; the answer is cut.
    Abort,
    /// The engine failed; the answer is cut.
    Error,
    Other,
}

impl FinishReason {
    fn of(text: &[u8]) -> Self {
        match text {
            b"stop" | b"stop_sequence" | b"eos_token" => Self::Stop,
            b"length" => Self::Length,
            b"tool_calls" | b"function_call" => Self::ToolCalls,
            b"content_filter" => Self::ContentFilter,
            b"abort" => Self::Abort,
            b"error" => Self::Error,
            _ => Self::Other,
        }
    }

    /// The name used in records; the usual one of OpenAI's API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::ContentFilter => "content_filter",
            Self::Abort => "abort",
            Self::Error => "error",
            Self::Other => "other",
        }
    }

    /// Whether the answer is whole.
    #[must_use]
    pub const fn is_complete(self) -> bool {
        !matches!(self, Self::Abort | Self::Error)
    }
}

/// Tokens as the engine counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: Option<u64>,
}

/// llama.cpp's own measurement of the request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Prompt tokens processed, without those from the cache.
    pub prompt_n: Option<u64>,
    pub cache_n: Option<u64>,
    pub predicted_n: Option<u64>,
    pub prompt_ms: Option<f64>,
    pub predicted_ms: Option<f64>,
}

/// An error event, or the error body of a refused request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamError {
    /// The HTTP status that the engine would have sent.
    pub code: Option<u16>,
    /// `type` of the error.
    pub kind: Option<String>,
    /// At most 1 KiB. May quote the request: for the client, never for a log.
    pub message: String,
}

impl StreamError {
    /// Whether the engine was full rather than broken.
    #[must_use]
    pub fn is_overload(&self) -> bool {
        const KINDS: [&str; 4] =
            ["Service Unavailable", "unavailable_error", "overloaded_error", "rate_limit_error"];
        matches!(self.code, Some(429 | 503 | 529)) || self.kind.as_deref().is_some_and(|k| KINDS.contains(&k))
    }

    /// Whether the same request may succeed on another endpoint: everything but a fault of the client.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        const CLIENT: [&str; 4] =
            ["invalid_request_error", "BadRequestError", "exceed_context_size_error", "not_supported_error"];
        match self.code {
            Some(code) => self.is_overload() || !(400..500).contains(&code) || code == 408,
            None => !self.kind.as_deref().is_some_and(|k| CLIENT.contains(&k)),
        }
    }

    /// Reads an error out of a JSON document in one of the shapes that engines use.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let document: Value = serde_json::from_slice(json).ok()?;
        let inner = match document.get("error") {
            None | Some(Value::Null) if document.get("object").and_then(Value::as_str) == Some("error") => {
                &document
            }
            None | Some(Value::Null) => return None,
            Some(inner) => inner,
        };
        let text = |key: &str| inner.get(key).or_else(|| document.get(key)).and_then(Value::as_str);
        let code = match inner.get("code") {
            Some(Value::Number(code)) => code.as_u64().and_then(|c| u16::try_from(c).ok()),
            Some(Value::String(code)) => code.parse().ok(),
            _ => None,
        };
        let message = inner.as_str().or_else(|| text("message")).unwrap_or_default();
        let kind = text("type").or_else(|| text("error_type")).map(str::to_owned);
        Some(Self { code, kind, message: shorten(message).to_owned() })
    }
}

fn shorten(text: &str) -> &str {
    let mut end = text.len().min(MESSAGE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Everything a stream has said so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamFacts {
    /// Events with data, `[DONE]` included.
    pub events: u64,
    /// Comment lines (keep-alives), and events that say `null`: llama.cpp opens the stream of several prompts with one.
    pub comments: u64,
    /// Events that carry text, reasoning or tool calls. Engines may merge tokens: usage counts tokens, not this.
    pub content_events: u64,
    /// Choices that have a finish reason.
    pub finished: u32,
    /// The last finish reason, or the first that says that a choice was cut.
    pub finish: Option<FinishReason>,
    /// The last usage; with continuous usage every event has one.
    /// Of an engine that counts each choice for itself (llama.cpp, beside its timings) their sums.
    pub usage: Option<Usage>,
    /// The last; `predicted_n` is the sum over the choices that ended.
    pub timings: Option<Timings>,
    /// Choices that `usage` is the sum of; 0: the engine counts the answer as a whole.
    pub usage_parts: u32,
    /// Tokens of choices that ended, by the timings beside their finish reasons.
    predicted_ended: Option<u64>,
    /// The first error event.
    pub error: Option<StreamError>,
    /// Whether `[DONE]` was seen. It does not mean success.
    pub done: bool,
}

impl StreamFacts {
    /// The facts of an answer that came in one piece: finish reasons, usage, timings, an error.
    #[must_use]
    pub fn of_answer(json: &[u8]) -> Self {
        let mut facts = Self::default();
        facts.look_at(json);
        facts
    }

    /// Whether all `choices` of a request have ended as they should.
    #[must_use]
    pub fn is_success(&self, choices: u32) -> bool {
        self.error.is_none() && self.finished >= choices && self.finish.is_some_and(FinishReason::is_complete)
    }

    /// Tokens of the answer: the engine's count, else one per content event.
    #[must_use]
    pub fn completion_tokens(&self) -> Option<u64> {
        let told = self.usage.and_then(|u| u.completion_tokens);
        let timed = self.timings.and_then(|t| t.predicted_n);
        told.or(timed).or((self.content_events > 0).then_some(self.content_events))
    }

    /// Prompt tokens where each prompt has so many choices: an engine that counts choices counts its prompt with each.
    #[must_use]
    pub fn prompt_tokens(&self, choices_per_prompt: u32) -> Option<u64> {
        self.once_per_prompt(self.usage?.prompt_tokens, choices_per_prompt)
    }

    /// Those of them that came from the prefix cache; in the mean where each choice has its own.
    #[must_use]
    pub fn cached_tokens(&self, choices_per_prompt: u32) -> Option<u64> {
        self.once_per_prompt(self.usage?.cached_tokens, choices_per_prompt)
    }

    fn once_per_prompt(&self, sum: Option<u64>, choices: u32) -> Option<u64> {
        sum.map(|sum| if self.usage_parts > 1 { sum / u64::from(choices.max(1)) } else { sum })
    }

    fn usage_told(&mut self, told: Usage, is_of_one_choice: bool) {
        let before = self.usage.filter(|_| is_of_one_choice && self.usage_parts > 0);
        let sum = |of: fn(&Usage) -> Option<u64>| match (of(&told), before.as_ref().and_then(of)) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        self.usage = Some(Usage {
            prompt_tokens: sum(|usage| usage.prompt_tokens),
            completion_tokens: sum(|usage| usage.completion_tokens),
            cached_tokens: sum(|usage| usage.cached_tokens),
        });
        self.usage_parts = if is_of_one_choice { self.usage_parts.saturating_add(1) } else { 0 };
    }

    fn timings_told(&mut self, told: Timings, ends_choice: bool) {
        if ends_choice && let Some(one) = told.predicted_n {
            self.predicted_ended = Some(self.predicted_ended.unwrap_or(0).saturating_add(one));
        }
        self.timings = Some(Timings { predicted_n: self.predicted_ended.or(told.predicted_n), ..told });
    }

    /// Adds what one event says.
    pub(crate) fn look_at(&mut self, data: &[u8]) {
        if is_nothing(data) {
            self.comments += 1;
            return;
        }
        self.events += 1;
        if data.trim_ascii() == b"[DONE]" {
            self.done = true;
            return;
        }
        let keys = &*KEYS;
        let mut ends_choice = false;
        for value in keys.finish_reason.values(data) {
            if let Some(text) = string(value) {
                ends_choice = true;
                self.finished = self.finished.saturating_add(1);
                // One choice that was cut is remembered over those that were not.
                if self.finish.is_none_or(FinishReason::is_complete) {
                    self.finish = Some(FinishReason::of(text));
                }
            }
        }
        if keys.content.iter().any(|key| key.values(data).any(is_content)) {
            self.content_events += 1;
        }
        let object = |key: &Key| key.values(data).find(|v| v.first() == Some(&b'{'));
        let (usage, timings) = (object(&keys.usage), object(&keys.timings));
        if let Some(usage) = usage {
            let told = Usage {
                prompt_tokens: keys.prompt_tokens.uint(usage),
                completion_tokens: keys.completion_tokens.uint(usage),
                cached_tokens: keys.cached_tokens.uint(usage),
            };
            self.usage_told(told, timings.is_some());
        }
        if let Some(timings) = timings {
            let told = Timings {
                prompt_n: keys.prompt_n.uint(timings),
                cache_n: keys.cache_n.uint(timings),
                predicted_n: keys.predicted_n.uint(timings),
                prompt_ms: keys.prompt_ms.float(timings),
                predicted_ms: keys.predicted_ms.float(timings),
            };
            self.timings_told(told, ends_choice);
        }
        if self.error.is_none() && keys.error.find(data).is_some() {
            self.error = StreamError::from_json(data);
        }
    }
}

/// Compiled searches: building one costs more than an event.
struct Keys {
    finish_reason: Key,
    /// Ordered by how often they come, because the first hit ends the search.
    content: [Key; 6],
    usage: Key,
    prompt_tokens: Key,
    completion_tokens: Key,
    cached_tokens: Key,
    timings: Key,
    prompt_n: Key,
    cache_n: Key,
    predicted_n: Key,
    prompt_ms: Key,
    predicted_ms: Key,
    /// Also found as a value (`"object":"error"`), so without the colon.
    error: Finder<'static>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    finish_reason: Key::new("\"finish_reason\""),
    content: [
        Key::new("\"content\""),
        Key::new("\"text\""),
        Key::new("\"reasoning_content\""),
        Key::new("\"reasoning\""),
        Key::new("\"tool_calls\""),
        Key::new("\"arguments\""),
    ],
    usage: Key::new("\"usage\""),
    prompt_tokens: Key::new("\"prompt_tokens\""),
    completion_tokens: Key::new("\"completion_tokens\""),
    cached_tokens: Key::new("\"cached_tokens\""),
    timings: Key::new("\"timings\""),
    prompt_n: Key::new("\"prompt_n\""),
    cache_n: Key::new("\"cache_n\""),
    predicted_n: Key::new("\"predicted_n\""),
    prompt_ms: Key::new("\"prompt_ms\""),
    predicted_ms: Key::new("\"predicted_ms\""),
    error: Finder::new("\"error\""),
});

/// A key with its quotes.
struct Key(Finder<'static>);

impl Key {
    fn new(quoted: &'static str) -> Self {
        Self(Finder::new(quoted))
    }

    /// What follows each `"key":`, from the first byte of the value on.
    fn values<'d>(&self, data: &'d [u8]) -> impl Iterator<Item = &'d [u8]> {
        let length = self.0.needle().len();
        self.0.find_iter(data).filter_map(move |at| {
            let after = data.get(at + length..)?.trim_ascii_start();
            after.strip_prefix(b":").map(<[u8]>::trim_ascii_start)
        })
    }

    fn number<'d>(&self, data: &'d [u8]) -> Option<&'d str> {
        let value = self.values(data).next()?;
        let end = value.iter().position(|b| !matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'));
        std::str::from_utf8(value.get(..end.unwrap_or(value.len()))?).ok()
    }

    fn uint(&self, data: &[u8]) -> Option<u64> {
        self.number(data)?.parse().ok()
    }

    fn float(&self, data: &[u8]) -> Option<f64> {
        self.number(data)?.parse().ok().filter(|v: &f64| v.is_finite())
    }
}

/// The raw inside of a string value; `None` for any other value.
fn string(value: &[u8]) -> Option<&[u8]> {
    let inner = value.strip_prefix(b"\"")?;
    // Good for names, which hold no escapes; an escaped quote only cuts the text short.
    let end = memchr::memchr(b'"', inner)?;
    inner.get(..end)
}

/// Whether an event says nothing at all.
pub(crate) fn is_nothing(data: &[u8]) -> bool {
    data.trim_ascii() == b"null"
}

/// Whether a value of a content key carries something: a string that is not empty, or a list of tool calls.
fn is_content(value: &[u8]) -> bool {
    match value {
        [b'"', b'"', ..] => false,
        [b'"', ..] => true,
        // `"logprobs":{"content":[..]}` comes with the content itself, and an empty list is nothing.
        [b'[', rest @ ..] => !rest.trim_ascii_start().starts_with(b"]"),
        _ => false,
    }
}
