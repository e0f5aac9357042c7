//! What an answer that broke off needs to go on at another engine: the text so far, the request for the rest of it, and
//! the new engine's events in the place of the old one's.
//!
//! Only for plain text in one choice. What cannot be continued so that the client gets one sound answer (tools, guided
//! decoding, log probabilities) is told apart by [`NotContinued`]. The text is kept in memory, up to [`TEXT_MAX`], and
//! goes nowhere but to the next engine. It must never be used for requests that did not ask for it.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::sse::{EVENT_MAX, Item, Splitter, SseError, is_nothing};

mod request;

pub use request::{Dialect, rest_of};

/// Bytes of text that are kept of one answer: some 60,000 tokens. A longer one is not continued.
pub const TEXT_MAX: usize = 256 * 1024;

/// Why an answer cannot go on elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotContinued {
    #[error("the text is longer than {TEXT_MAX} bytes")]
    TooLong,
    #[error("it is more than plain text")]
    NotPlainText,
    #[error("its last token was the last one allowed")]
    NothingLeft,
    #[error("`{0}` cannot be continued")]
    Asks(&'static str),
    #[error("the body is not one that can be changed")]
    BadBody,
}

/// The text of a stream, as far as it has come.
#[derive(Debug)]
pub struct TextSoFar {
    splitter: Splitter,
    text: String,
    first: Option<First>,
    bad: Option<NotContinued>,
}

/// What all events of one answer have in common.
#[derive(Debug, Clone)]
struct First {
    id: Value,
    created: Value,
}

impl Default for TextSoFar {
    fn default() -> Self {
        Self { splitter: Splitter::new(EVENT_MAX), text: String::new(), first: None, bad: None }
    }
}

impl TextSoFar {
    /// Takes the next bytes of the stream.
    pub fn note(&mut self, chunk: &[u8]) {
        let Self { splitter, text, first, bad } = self;
        let noted = splitter.feed(chunk, |item| {
            if let Item::Data(data) = item
                && bad.is_none()
            {
                *bad = note_event(data, text, first).err();
            }
        });
        if noted.is_err() {
            self.bad = Some(NotContinued::TooLong);
        }
    }

    /// What came so far.
    ///
    /// # Errors
    /// Why it cannot be continued.
    pub fn get(&self) -> Result<&str, NotContinued> {
        self.bad.map_or(Ok(&self.text), Err)
    }
}

fn note_event(data: &[u8], text: &mut String, first: &mut Option<First>) -> Result<(), NotContinued> {
    if is_nothing(data) || is_done(data) {
        return Ok(());
    }
    let Ok(Value::Object(event)) = serde_json::from_slice(data) else {
        return Err(NotContinued::NotPlainText);
    };
    if is_error(&event) {
        return Ok(());
    }
    let own = |key: &str| event.get(key).cloned().unwrap_or(Value::Null);
    first.get_or_insert_with(|| First { id: own("id"), created: own("created") });
    let choices = event.get("choices").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for choice in choices {
        if choice.get("index").and_then(Value::as_u64).is_some_and(|index| index != 0) {
            return Err(NotContinued::NotPlainText);
        }
        // A choice that has ended has nothing to go on with.
        if choice.get("finish_reason").is_some_and(Value::is_string) {
            return Err(NotContinued::NothingLeft);
        }
        let piece = match choice.get("delta") {
            Some(delta) => plain(delta)?,
            None => choice.get("text").and_then(Value::as_str).unwrap_or_default(),
        };
        if text.len() + piece.len() > TEXT_MAX {
            return Err(NotContinued::TooLong);
        }
        text.push_str(piece);
    }
    Ok(())
}

/// The text of a delta that says nothing else.
fn plain(delta: &Value) -> Result<&str, NotContinued> {
    const OTHER: [&str; 6] =
        ["tool_calls", "function_call", "reasoning_content", "reasoning", "refusal", "audio"];
    let says = |key: &str| match delta.get(key) {
        None | Some(Value::Null) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    if OTHER.into_iter().any(says) {
        return Err(NotContinued::NotPlainText);
    }
    Ok(delta.get("content").and_then(Value::as_str).unwrap_or_default())
}

fn is_done(data: &[u8]) -> bool {
    data.trim_ascii() == b"[DONE]"
}

fn is_error(event: &Map<String, Value>) -> bool {
    event.get("error").is_some_and(|error| !error.is_null())
        || event.get("object").and_then(Value::as_str) == Some("error")
}

/// The events of a chunk before the first one that is an error or the end; whole events only.
#[must_use]
pub fn sound_part(chunk: &[u8]) -> Bytes {
    let (mut out, mut over) = (Vec::with_capacity(chunk.len()), false);
    each_event(chunk, |data| {
        let parsed = serde_json::from_slice::<Map<String, Value>>(data);
        over |= is_done(data) || parsed.is_ok_and(|event| is_error(&event));
        if !over {
            write_event(data, &mut out);
        }
    });
    out.into()
}

fn each_event(chunk: &[u8], mut see: impl FnMut(&[u8])) {
    let mut splitter = Splitter::new(EVENT_MAX);
    let fed: Result<(), SseError> = splitter.feed(chunk, |item| {
        if let Item::Data(data) = item {
            see(data);
        }
    });
    debug_assert!(fed.is_ok(), "a scanner has bounded these events before");
}

fn write_event(data: &[u8], out: &mut Vec<u8>) {
    for line in data.split(|b| *b == b'\n') {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// Makes the events of the second engine those of one answer: name and time of the first part, tokens of both.
#[derive(Debug)]
pub struct Continued {
    first: Option<First>,
    tokens_before: u64,
}

impl Continued {
    /// After a part with so many tokens.
    #[must_use]
    pub fn after(part: &TextSoFar, tokens_before: u64) -> Self {
        Self { first: part.first.clone(), tokens_before }
    }

    /// Whole events of the second engine, rewritten.
    #[must_use]
    pub fn rewrite(&self, chunk: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(chunk.len() + 64);
        each_event(chunk, |data| match serde_json::from_slice::<Map<String, Value>>(data) {
            Ok(mut event) if !is_error(&event) => {
                self.mend(&mut event);
                match serde_json::to_vec(&event) {
                    Ok(data) => write_event(&data, &mut out),
                    Err(_) => write_event(data, &mut out),
                }
            }
            Ok(_) | Err(_) => write_event(data, &mut out),
        });
        out.into()
    }

    fn mend(&self, event: &mut Map<String, Value>) {
        if let Some(First { id, created }) = &self.first {
            event.insert("id".to_owned(), id.clone());
            event.insert("created".to_owned(), created.clone());
        }
        let Some(Value::Object(usage)) = event.get_mut("usage") else { return };
        // What the first engine wrote is a prompt to the second one. Their sum is that of the whole.
        let mut set = |key: &str, change: fn(u64, u64) -> u64| {
            if let Some(tokens) = usage.get(key).and_then(Value::as_u64) {
                usage.insert(key.to_owned(), change(tokens, self.tokens_before).into());
            }
        };
        set("prompt_tokens", u64::saturating_sub);
        set("completion_tokens", u64::saturating_add);
    }
}

#[cfg(test)]
mod tests;
