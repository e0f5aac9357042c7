//! Tokens from bytes without a tokenizer: a ratio learned per model from the engines' own `usage`.
//!
//! The estimate prices a request; only the lower bound may refuse one for good. Neither ever sees a prompt,
//! only sizes.

use aya_domain::Tokens;

/// Bytes per token before anything was learned: English prose and code.
const START_BYTES_PER_TOKEN: f64 = 4.0;
/// A learned ratio stays within these: below lie byte-level vocabularies, above nothing known.
const RATIO_MIN: f64 = 0.5;
const RATIO_MAX: f64 = 16.0;
/// Tokens that the chat template adds per message (role, separators).
const TEMPLATE_TOKENS_PER_MESSAGE: f64 = 4.0;
/// How much of the past a new prompt leaves standing: about the last 100 prompts count.
const KEEP: f64 = 0.99;
/// The start weighs as much as one prompt of this many tokens.
const START_TOKENS: f64 = 256.0;
/// A shorter prompt says more about the template than about the ratio.
const LEAST_BYTES: u64 = 64;

/// No text averages more bytes per token over a whole prompt, as its bytes stand in the request body.
///
/// In UTF-8 the mean of real prompts stays below 16 (English 4 to 5, indented code 3 to 4, Cyrillic 6 to
/// 8); only padding, such as long runs of spaces (one token for up to 128 in some vocabularies), goes
/// beyond. JSON may triple the bytes of a letter: `\u0436` has six bytes for one letter of two. Hence 3 x
/// 16.
pub const BYTES_PER_TOKEN_LIMIT: u64 = 48;

/// Learned bytes per token of one model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenRatio {
    /// Decayed sums, so that long prompts weigh by their length and one odd short one does not.
    bytes: f64,
    tokens: f64,
}

impl Default for TokenRatio {
    fn default() -> Self {
        Self { bytes: START_TOKENS * START_BYTES_PER_TOKEN, tokens: START_TOKENS }
    }
}

impl TokenRatio {
    /// A ratio that [`TokenRatio::bytes_per_token`] told, to estimate with; it has forgotten what it was
    /// learned from.
    #[must_use]
    pub const fn known(bytes_per_token: f64) -> Self {
        Self { bytes: START_TOKENS * bytes_per_token, tokens: START_TOKENS }
    }

    /// Learns from an engine's `usage.prompt_tokens` for a prompt of these bytes and messages (0 for plain
    /// text).
    pub fn observe(&mut self, prompt_bytes: u64, messages: u32, prompt_tokens: Tokens) {
        let text_tokens = prompt_tokens.as_f64() - template_tokens(messages);
        if prompt_bytes < LEAST_BYTES || text_tokens < 1.0 {
            return;
        }
        let bytes = Tokens(prompt_bytes).as_f64();
        self.bytes = self.bytes * KEEP + bytes;
        self.tokens = self.tokens * KEEP + text_tokens.clamp(bytes / RATIO_MAX, bytes / RATIO_MIN);
    }

    /// Bytes per token, 0.5 to 16.
    #[must_use]
    pub fn bytes_per_token(&self) -> f64 {
        (self.bytes / self.tokens).clamp(RATIO_MIN, RATIO_MAX)
    }

    /// The likely number of tokens of a prompt: its text and what the chat template adds per message.
    /// At least 1.
    #[must_use]
    pub fn estimate(&self, prompt_bytes: u64, messages: u32) -> Tokens {
        let text = Tokens(prompt_bytes).as_f64() / self.bytes_per_token();
        Tokens(whole(text + template_tokens(messages)).max(1))
    }

    /// A number of tokens that every tokenizer reaches for a prompt of so many bytes; see
    /// [`BYTES_PER_TOKEN_LIMIT`].
    #[must_use]
    pub const fn lower_bound(prompt_bytes: u64) -> Tokens {
        Tokens(prompt_bytes.div_ceil(BYTES_PER_TOKEN_LIMIT))
    }
}

fn template_tokens(messages: u32) -> f64 {
    TEMPLATE_TOKENS_PER_MESSAGE * f64::from(messages)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "rounded up, never negative; saturates"
)]
fn whole(value: f64) -> u64 {
    value.ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(samples: impl IntoIterator<Item = (u64, u64)>) -> TokenRatio {
        let mut ratio = TokenRatio::default();
        samples.into_iter().for_each(|(bytes, tokens)| ratio.observe(bytes, 0, Tokens(tokens)));
        ratio
    }

    #[test]
    fn the_start_is_four_bytes_per_token_plus_the_template() {
        let ratio = TokenRatio::default();
        for (bytes, messages, tokens) in [(0, 0, 1), (4000, 0, 1000), (4001, 0, 1001), (4000, 3, 1012)] {
            assert_eq!(ratio.estimate(bytes, messages), Tokens(tokens), "{bytes} bytes, {messages} messages");
        }
    }

    #[test]
    fn a_ratio_told_by_number_estimates_alike() {
        let ratio = learned((0..300).map(|i| (3000 + i, (3000 + i) / 3)));
        assert_eq!(TokenRatio::known(ratio.bytes_per_token()).estimate(9000, 2), ratio.estimate(9000, 2));
    }

    #[test]
    fn the_ratio_of_the_engine_is_learned() {
        let ratio = learned((0..300).map(|i| (3000 + i, (3000 + i) / 3)));
        assert!((ratio.bytes_per_token() - 3.0).abs() < 0.05, "{ratio:?}");
    }

    #[test]
    fn the_template_is_not_mistaken_for_text() {
        let mut ratio = TokenRatio::default();
        for _ in 0..500 {
            ratio.observe(400, 10, Tokens(140));
        }
        assert!((ratio.bytes_per_token() - 4.0).abs() < 0.05, "{ratio:?}");
        assert_eq!(ratio.estimate(400, 10), Tokens(140));
    }

    #[test]
    fn a_prompt_of_a_few_words_teaches_nothing() {
        assert_eq!(learned(std::iter::repeat_n((63, 60), 500)), TokenRatio::default());
    }

    #[test]
    fn nonsense_from_an_engine_stays_bounded() {
        for (bytes, tokens) in [(1_000_000, 1), (1000, 1_000_000), (1000, 0), (0, 50), (u64::MAX, u64::MAX)] {
            let ratio = learned(std::iter::repeat_n((bytes, tokens), 1000)).bytes_per_token();
            assert!((0.5..=16.0).contains(&ratio), "{bytes} bytes, {tokens} tokens: {ratio}");
        }
    }

    #[test]
    fn the_lower_bound_is_below_every_learned_estimate() {
        let dense = learned(std::iter::repeat_n((10_000, 500), 2000));
        for bytes in [0, 1, 48, 49, 4096, 10_000_000] {
            assert!(TokenRatio::lower_bound(bytes) <= dense.estimate(bytes, 0), "{bytes}");
        }
        assert_eq!(TokenRatio::lower_bound(0), Tokens(0));
        assert_eq!(TokenRatio::lower_bound(49), Tokens(2));
    }
}
