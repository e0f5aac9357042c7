//! The beginning of a prompt without its text: keyed hashes of its leading blocks.

use std::fmt;
use std::sync::Arc;

use crate::Tokens;

/// Leading blocks of a prompt. Each hash covers its block and everything before it, so two prompts with an equal hash
/// begin alike; the key is the scheduler's own, so a hash says nothing to anybody else.
#[derive(Clone, PartialEq, Eq)]
pub struct PromptPrefix {
    pub blocks: Arc<[u64]>,
    /// Bytes of the prompt as it is written that a block covers.
    pub block_bytes: u32,
    /// Bytes of the whole prompt as it is written.
    pub bytes: u64,
}

impl Default for PromptPrefix {
    fn default() -> Self {
        Self { blocks: Arc::from([]), block_bytes: 1, bytes: 0 }
    }
}

impl PromptPrefix {
    /// What so many leading blocks are of a prompt of so many tokens: their share of its bytes, rounded down.
    #[must_use]
    pub fn tokens(&self, blocks: usize, prompt: Tokens) -> Tokens {
        let covered = u64::from(self.block_bytes).saturating_mul(u64::try_from(blocks).unwrap_or(u64::MAX));
        let whole = self.bytes.max(1);
        let share = u128::from(prompt.get()) * u128::from(covered.min(whole)) / u128::from(whole);
        Tokens(u64::try_from(share).unwrap_or(prompt.get()))
    }
}

impl fmt::Debug for PromptPrefix {
    /// Not the hashes: nobody can read them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PromptPrefix({} blocks of {} bytes)", self.blocks.len(), self.block_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_a_share_of_the_prompts_tokens() {
        let prefix = PromptPrefix { blocks: Arc::from([1, 2, 3]), block_bytes: 256, bytes: 1_000 };
        for (blocks, tokens) in [(0, 0), (1, 51), (3, 153), (4, 200), (99, 200)] {
            assert_eq!(prefix.tokens(blocks, Tokens(200)), Tokens(tokens), "{blocks}");
        }
        assert_eq!(PromptPrefix::default().tokens(3, Tokens(10)), Tokens(10), "never more than there is");
    }
}
