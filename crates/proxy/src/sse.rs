//! Watches an event stream while it passes: tokens, finish reasons, usage, errors, the end.
//!
//! The caller relays the chunks byte for byte; this only looks. Success is a finish reason, not the end of the
//! stream: killed engines end with `[DONE]` too (vLLM) or without a last chunk (llama.cpp). An event that lies
//! whole within a chunk is looked at in place; only what a chunk cuts is kept, up to a limit. It must never depend
//! on where the network cut the stream: the same bytes give the same facts for any split.

mod facts;
mod split;

pub use facts::{FinishReason, StreamError, StreamFacts, Timings, Usage};
pub(crate) use split::{Item, Splitter};

/// Longest line and longest event, in bytes.
pub const EVENT_MAX: usize = 1 << 20;

/// Why a stream cannot be followed any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    #[error("an event of the stream is longer than {limit} bytes")]
    EventTooLong { limit: usize },
}

/// Follows one stream.
#[derive(Debug)]
pub struct SseScanner {
    splitter: Splitter,
    facts: StreamFacts,
}

impl Default for SseScanner {
    fn default() -> Self {
        Self::new(EVENT_MAX)
    }
}

impl SseScanner {
    /// A scanner that accepts events up to this many bytes.
    #[must_use]
    pub fn new(event_max: usize) -> Self {
        Self { splitter: Splitter::new(event_max), facts: StreamFacts::default() }
    }

    /// Looks at the next bytes of the stream and returns all that is known now.
    ///
    /// # Errors
    /// [`SseError::EventTooLong`]: the stream must be cut; what was seen before it stays in [`Self::facts`].
    pub fn feed(&mut self, chunk: &[u8]) -> Result<&StreamFacts, SseError> {
        let facts = &mut self.facts;
        self.splitter.feed(chunk, |item| match item {
            Item::Comment => facts.comments += 1,
            Item::Data(data) => facts.look_at(data),
        })?;
        Ok(&self.facts)
    }

    /// All that was seen so far.
    #[must_use]
    pub const fn facts(&self) -> &StreamFacts {
        &self.facts
    }
}

#[cfg(test)]
pub(crate) mod tests;
