//! Prompts as the simulated engine sees them: a token count and the chained hashes of the full blocks.
//!
//! There is no tokenizer. A text has one token per four bytes, and every chat message four more for its
//! template; the hashes are taken over the same bytes, so an equal beginning gives equal blocks. The text is
//! read once and never kept.

use std::sync::Arc;

use aya_domain::splitmix64;

use crate::kv::BLOCK_TOKENS;

/// Bytes of text per token.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// Tokens that the chat template adds per message.
pub(crate) const TOKENS_PER_MESSAGE: u64 = 4;

const BLOCK_BYTES: u64 = BLOCK_TOKENS as u64 * BYTES_PER_TOKEN;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// A prompt without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prompt {
    /// At least one.
    pub(crate) tokens: u64,
    pub(crate) prefix: Arc<[u64]>,
    /// Of everything, the unfinished block included.
    pub(crate) hash: u64,
}

/// Reads a prompt piece by piece.
#[derive(Debug)]
pub(crate) struct PromptReader {
    hash: u64,
    bytes: u64,
    blocks: Vec<u64>,
}

impl PromptReader {
    /// Prompts of different models share nothing.
    pub(crate) fn new(model: &str) -> Self {
        let mut reader = Self { hash: 0xcbf2_9ce4_8422_2325, bytes: 0, blocks: Vec::new() };
        for byte in model.bytes() {
            reader.mix(byte);
        }
        reader
    }

    /// The start of a chat message.
    pub(crate) fn message(&mut self, role: &str) {
        let header = role.bytes().chain(std::iter::repeat(0));
        let length = usize::try_from(TOKENS_PER_MESSAGE * BYTES_PER_TOKEN).unwrap_or(usize::MAX);
        header.take(length).for_each(|byte| self.push(byte));
    }

    pub(crate) fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.push(byte));
    }

    /// A prompt that comes as tokens.
    pub(crate) fn token(&mut self, token: u32) {
        token.to_le_bytes().into_iter().for_each(|byte| self.push(byte));
    }

    pub(crate) fn finish(self) -> Prompt {
        let tokens = (self.bytes / BYTES_PER_TOKEN).max(1);
        Prompt { tokens, prefix: self.blocks.into(), hash: splitmix64(self.hash) }
    }

    fn push(&mut self, byte: u8) {
        self.mix(byte);
        self.bytes += 1;
        if self.bytes.is_multiple_of(BLOCK_BYTES) {
            self.blocks.push(splitmix64(self.hash));
        }
    }

    const fn mix(&mut self, byte: u8) {
        self.hash = (self.hash ^ byte as u64).wrapping_mul(FNV_PRIME);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(model: &str, texts: &[&str]) -> Prompt {
        let mut reader = PromptReader::new(model);
        for text in texts {
            reader.message("user");
            reader.text(text);
        }
        reader.finish()
    }

    #[test]
    fn a_message_costs_its_bytes_by_four_and_four_more() {
        assert_eq!(chat("m", &["12345678"]).tokens, 6);
        assert_eq!(chat("m", &["12345678", "1234"]).tokens, 11);
        assert_eq!(PromptReader::new("m").finish().tokens, 1);
    }

    #[test]
    fn an_equal_beginning_gives_equal_blocks_of_one_model() {
        let long = "x".repeat(200);
        let (first, second) = (chat("m", &[&long, "a question"]), chat("m", &[&long, "another question?"]));
        assert_eq!(first.prefix[..3], second.prefix[..3]);
        assert_ne!(first.hash, second.hash);
        assert_ne!(first.prefix[0], chat("other", &[&long]).prefix[0]);
        assert_eq!(first.prefix.len() as u64, first.tokens / 16);
    }
}
