//! Watches an event stream while it passes: tokens, finish reasons, usage, errors, the end.
//!
//! The caller relays the chunks byte for byte; this only looks. Success is a finish reason, not the end of the
//! stream: killed engines end with `[DONE]` too (vLLM) or without a last chunk (llama.cpp). An event that lies
//! whole within a chunk is looked at in place; only what a chunk cuts is kept, up to a limit. It must never depend
//! on where the network cut the stream: the same bytes give the same facts for any split.

use bytes::Bytes;

mod facts;
mod split;

pub(crate) use facts::is_nothing;
pub use facts::{FinishReason, StreamError, StreamFacts, Timings, Usage};
pub(crate) use split::{Item, Splitter};

/// Longest event, in bytes of all its lines.
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
    /// The beginning of an event that [`Self::feed_whole`] has not given out.
    held: Vec<u8>,
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
        Self { splitter: Splitter::new(event_max), facts: StreamFacts::default(), held: Vec::new() }
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

    /// Looks at the next bytes and returns those that may go on: everything up to the end of the last whole event.
    ///
    /// Engines write whole events, so this is nearly always the chunk itself, uncopied. What it holds back is given
    /// out with the rest of its event, so an error frame of ours never lands in the middle of an engine's event.
    /// Use either this or [`Self::feed`] on one stream.
    ///
    /// # Errors
    /// [`SseError::EventTooLong`], as from [`Self::feed`].
    pub fn feed_whole(&mut self, chunk: &Bytes) -> Result<Bytes, SseError> {
        self.feed(chunk)?;
        let pending = self.splitter.pending();
        let whole = chunk.len().saturating_sub(pending);
        if pending > chunk.len() || (whole == 0 && pending > 0) {
            self.held.extend_from_slice(chunk);
            return Ok(Bytes::new());
        }
        let tail = chunk.slice(whole..);
        let passed = if self.held.is_empty() {
            chunk.slice(..whole)
        } else {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(chunk.get(..whole).unwrap_or_default());
            Bytes::from(joined)
        };
        self.held.extend_from_slice(&tail);
        Ok(passed)
    }

    /// What [`Self::feed_whole`] still holds back: an event without its closing empty line. Only for a stream that
    /// ended well; after a failure it is dropped.
    pub fn take_held(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.held))
    }

    /// All that was seen so far.
    #[must_use]
    pub const fn facts(&self) -> &StreamFacts {
        &self.facts
    }
}

#[cfg(test)]
pub(crate) mod tests;
