//! Makes the one JSON answer of a non-streaming client out of the engine's event stream.
//!
//! Engines are asked to stream even when the client is not (llama.cpp notices a disconnect only then), so the pieces
//! must be put together as the engine itself would have done: choices by index, text concatenated, tool calls
//! merged. Unknown fields are kept as they last came. Memory is bounded by the bytes fed. It must never turn a
//! stream that ended early into an answer.

use serde_json::{Map, Value, json};

use crate::sse::{EVENT_MAX, Item, Splitter, SseError, StreamError, StreamFacts, is_nothing};

mod merge;

/// Choices that one answer can have, and tool calls that one choice can have.
pub(crate) const INDEX_MAX: u64 = 128;

/// What the client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerKind {
    /// `chat.completion` out of `chat.completion.chunk`.
    Chat,
    /// `text_completion`.
    Completion,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    #[error("the engine failed: {}", .0.message)]
    Engine(StreamError),
    #[error("the stream ended before the answer was complete")]
    Truncated,
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the stream holds an event that is not a chunk of an answer")]
    BadEvent,
    #[error(transparent)]
    Stream(#[from] SseError),
}

/// Takes a stream in and gives one answer out.
#[derive(Debug)]
pub struct Assembler {
    kind: AnswerKind,
    limit: usize,
    choices_per_prompt: u32,
    fed: usize,
    splitter: Splitter,
    facts: StreamFacts,
    top: Map<String, Value>,
    /// Sorted by index.
    choices: Vec<(u64, Map<String, Value>)>,
}

impl Assembler {
    /// Assembles a stream of at most `response_max` bytes. Text takes about as much memory as it has bytes; lists of
    /// numbers (log probabilities, token ids) up to 16 times as much.
    #[must_use]
    pub fn new(kind: AnswerKind, response_max: usize) -> Self {
        Self {
            kind,
            limit: response_max,
            choices_per_prompt: 1,
            fed: 0,
            splitter: Splitter::new(EVENT_MAX),
            facts: StreamFacts::default(),
            top: Map::new(),
            choices: Vec::new(),
        }
    }

    /// With so many choices for each prompt, which counts once.
    #[must_use]
    pub const fn choices_per_prompt(mut self, choices: u32) -> Self {
        self.choices_per_prompt = choices;
        self
    }

    /// Takes the next bytes of the stream and returns all that is known now.
    ///
    /// # Errors
    /// The stream is too large or not an answer. An error event is not an error here: see `facts.error`.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<&StreamFacts, AssembleError> {
        self.fed = self.fed.saturating_add(chunk.len());
        if self.fed > self.limit {
            return Err(AssembleError::TooLarge { limit: self.limit });
        }
        let Self { splitter, facts, top, choices, .. } = self;
        let mut outcome = Ok(());
        splitter.feed(chunk, |item| match item {
            Item::Comment => facts.comments += 1,
            Item::Data(data) => {
                facts.look_at(data);
                let told = !facts.done && facts.error.is_none() && !is_nothing(data);
                if told && outcome.is_ok() {
                    outcome = merge_event(data, top, choices);
                }
            }
        })?;
        outcome.map(|()| &self.facts)
    }

    /// All that was seen so far.
    #[must_use]
    pub const fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    /// The answer, once the stream has ended.
    ///
    /// # Errors
    /// [`AssembleError::Engine`] for an error event, [`AssembleError::Truncated`] unless `choices` choices ended.
    pub fn finish(self, choices: u32) -> Result<Vec<u8>, AssembleError> {
        if let Some(error) = self.facts.error {
            return Err(AssembleError::Engine(error));
        }
        let ended = |choice: &Map<String, Value>| choice.get("finish_reason").is_some_and(Value::is_string);
        let whole =
            self.choices.len() >= choices.max(1) as usize && self.choices.iter().all(|(_, c)| ended(c));
        let complete = self.facts.finish.is_some_and(crate::sse::FinishReason::is_complete);
        if !(whole && complete) {
            return Err(AssembleError::Truncated);
        }
        let mut top = self.top;
        let object = match self.kind {
            AnswerKind::Chat => "chat.completion",
            AnswerKind::Completion => "text_completion",
        };
        top.insert("object".to_owned(), json!(object));
        if self.facts.usage_parts > 1 {
            merge::sum_usage(&mut top, &self.facts, self.choices_per_prompt);
        }
        let finished =
            self.choices.into_iter().map(|(index, choice)| merge::finish_choice(self.kind, index, choice));
        top.insert("choices".to_owned(), finished.collect());
        serde_json::to_vec(&top).map_err(|_| AssembleError::BadEvent)
    }
}

fn merge_event(
    data: &[u8],
    top: &mut Map<String, Value>,
    choices: &mut Vec<(u64, Map<String, Value>)>,
) -> Result<(), AssembleError> {
    let Ok(Value::Object(mut event)) = serde_json::from_slice(data) else {
        return Err(AssembleError::BadEvent);
    };
    let pieces = match event.remove("choices") {
        Some(Value::Array(pieces)) => pieces,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => return Err(AssembleError::BadEvent),
    };
    for (key, value) in event {
        merge::keep_last(top, key, value);
    }
    for piece in pieces {
        let Value::Object(piece) = piece else { return Err(AssembleError::BadEvent) };
        let index = merge::index_of(&piece)?;
        let choice = merge::at_index(choices, index);
        merge::merge_choice(choice, piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
