//! Hashes of a prompt's leading blocks, by which endpoints that hold its beginning are found again.
//!
//! Hashed are the bytes of `tools` and then of `messages` (or `prompt`, `input`) as the body has them, syntax included:
//! so a role, a tool call or the end of a message is part of what has to be equal, and equal bytes are an equal prompt
//! for the engine. Two spellings of one text (an escape, a blank) are taken for different ones, which costs a guess.
//! What comes after the first image or file is not looked at: its bytes say nothing about its tokens.
//!
//! The scan has found where the prompt is and has drawn it into the processor's cache, so this second look at it is
//! cheap: 32 bytes per four multiplications, about 25 us for 400 KB. The multiplications are keyed, like those of
//! wyhash: who does not know the key can neither make two prompts collide nor read anything from a hash.

use std::sync::Arc;

use aya_domain::{PromptPrefix, splitmix64};

use crate::scan::{BodyView, Span};

/// Bytes of a block: about 64 tokens of English, four blocks of an engine.
const BLOCK: u32 = 256;
const BLOCK_BYTES: usize = BLOCK as usize;
/// The most blocks that are looked at: the first 2 MiB of a prompt.
const BLOCKS_MAX: usize = 8_192;

const LANES: usize = 4;

/// The scheduler's own key; hashes under different keys have nothing in common.
#[derive(Clone, Copy)]
pub struct PrefixKey([u64; LANES]);

impl PrefixKey {
    /// A key from a seed that clients must not know.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self(std::array::from_fn(|_| {
            state = splitmix64(state);
            state
        }))
    }
}

impl std::fmt::Debug for PrefixKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrefixKey")
    }
}

/// The leading blocks of the prompt in a scanned body. `model`: the name that the engine is asked for; prompts of
/// different models share nothing.
#[must_use]
pub fn prompt_prefix(body: &[u8], view: &BodyView, model: &str, key: PrefixKey) -> PromptPrefix {
    let parts = [view.tools_span, view.messages_span, view.prompt_span];
    let bytes: usize = parts.iter().flatten().map(|span| span.end.saturating_sub(span.start)).sum();
    let last_place = (1_u64..).zip(parts).filter_map(|(place, span)| span.map(|_| place)).last();
    let mut blocks = Vec::with_capacity((bytes / BLOCK_BYTES).min(BLOCKS_MAX));
    let mut chain = model.bytes().fold(splitmix64(key.0.iter().fold(0, |a, b| a ^ b)), |chain, byte| {
        splitmix64(chain ^ u64::from(byte))
    });
    for (place, span) in (1_u64..).zip(parts) {
        let Some(span) = span else { continue };
        chain = splitmix64(chain ^ place);
        let end = view.media_at.map_or(span.end, |media| media.clamp(span.start, span.end));
        let (whole, rest) = Span { start: span.start, end }.of(body).as_chunks::<BLOCK_BYTES>();
        for block in whole.iter().take(BLOCKS_MAX - blocks.len()) {
            chain = link(chain, hash(block, key));
            blocks.push(chain);
        }
        if Some(place) == last_place || end < span.end {
            break;
        }
        // The unfinished block separates what is before it from what comes after.
        let mut last = [0; BLOCK_BYTES];
        if let Some(beginning) = last.get_mut(..rest.len()) {
            beginning.copy_from_slice(rest);
        }
        chain = link(chain, hash(&last, key) ^ rest.len() as u64);
    }
    PromptPrefix { blocks: Arc::from(blocks), block_bytes: BLOCK, bytes: bytes as u64 }
}

const fn link(chain: u64, block: u64) -> u64 {
    splitmix64(chain.rotate_left(23) ^ block)
}

fn hash(block: &[u8; BLOCK_BYTES], key: PrefixKey) -> u64 {
    let mut lanes = key.0;
    let (rows, _) = block.as_chunks::<{ LANES * 8 }>();
    for row in rows {
        let (words, _) = row.as_chunks::<8>();
        for ((lane, word), secret) in lanes.iter_mut().zip(words).zip(key.0) {
            *lane = fold(*lane ^ u64::from_le_bytes(*word), secret | 1) ^ lane.rotate_left(31);
        }
    }
    let [a, b, c, d] = lanes;
    fold(fold(a, b | 1) ^ c, d | 1)
}

/// Both halves of the product in one word.
#[expect(clippy::cast_possible_truncation, reason = "each half is taken by itself")]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{ScanLimits, scan};

    const KEY: u64 = 7;

    fn blocks_of(body: &str, model: &str, seed: u64) -> Vec<u64> {
        let view = scan(body.as_bytes(), ScanLimits::DEFAULT).unwrap();
        prompt_prefix(body.as_bytes(), &view, model, PrefixKey::new(seed)).blocks.to_vec()
    }

    fn chat(texts: &[&str]) -> String {
        let messages: Vec<_> =
            texts.iter().map(|text| format!(r#"{{"role":"user","content":"{text}"}}"#)).collect();
        format!(r#"{{"model":"m","messages":[{}],"stream":true}}"#, messages.join(","))
    }

    fn shared(a: &str, b: &str) -> usize {
        let (a, b) = (blocks_of(a, "m", KEY), blocks_of(b, "m", KEY));
        a.iter().zip(&b).take_while(|(a, b)| a == b).count()
    }

    #[test]
    fn equal_beginnings_give_equal_blocks_and_nothing_else_does() {
        let long = "once upon a time ".repeat(100);
        let base = chat(&[&long, "what now?"]);
        assert_eq!(blocks_of(&base, "m", KEY).len(), (long.len() + 71) / BLOCK_BYTES);
        assert_eq!(shared(&base, &base), 6);
        // The next turn of a conversation begins with the whole of the last one.
        assert_eq!(shared(&base, &chat(&[&long, "what now?", "an answer", "and then?"])), 6);
        assert_eq!(shared(&base, &chat(&[&format!("{}!", long.split_at(600).0), "what now?"])), 2);
        assert_eq!(shared(&base, &chat(&[long.split_at(1).1, "what now?"])), 0);
        let fields_first =
            base.replace(r#""model":"m","#, "").replace(r#""stream":true"#, r#""model":"m","n":1"#);
        assert_eq!(shared(&base, &fields_first), 6, "what stands around the prompt is no part of it");
    }

    #[test]
    fn a_model_a_key_a_role_and_tools_each_make_another_prompt() {
        let long = "x".repeat(2_000);
        let base = chat(&[&long]);
        let first = |body: &str, model: &str, seed: u64| blocks_of(body, model, seed)[0];
        let plain = first(&base, "m", KEY);
        assert_ne!(plain, first(&base, "other", KEY));
        assert_ne!(plain, first(&base, "m", KEY + 1));
        assert_ne!(plain, first(&base.replace("user", "tool"), "m", KEY));
        let with_tools = |name: &str| base.replacen('{', &format!(r#"{{"tools":[{{"name":"{name}"}}],"#), 1);
        assert_ne!(plain, first(&with_tools("a"), "m", KEY));
        assert_ne!(first(&with_tools("b"), "m", KEY), first(&with_tools("a"), "m", KEY));
        let after = base.replacen(r#","stream":true"#, r#","tools":[{"name":"a"}]"#, 1);
        assert_eq!(
            first(&after, "m", KEY),
            first(&with_tools("a"), "m", KEY),
            "their place in the body is nothing"
        );
        let completion = format!(r#"{{"model":"m","prompt":"{long}"}}"#);
        assert_ne!(plain, first(&completion, "m", KEY));
    }

    #[test]
    fn what_follows_an_image_is_not_looked_at() {
        let long = "x".repeat(1_000);
        let image = "A".repeat(5_000);
        let body = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":[{{"type":"text","text":"{long}"}},
            {{"type":"image_url","image_url":{{"url":"{image}"}}}}]}}]}}"#
        );
        assert_eq!(blocks_of(&body, "m", KEY).len(), 4);
    }

    #[test]
    fn short_and_huge_prompts_have_no_and_bounded_blocks() {
        assert_eq!(blocks_of(&chat(&["hi"]), "m", KEY).len(), 0);
        let huge = "y".repeat(BLOCKS_MAX * BLOCK_BYTES + 1_000);
        assert_eq!(blocks_of(&chat(&[&huge]), "m", KEY).len(), BLOCKS_MAX);
    }

    /// Every byte of a block counts, wherever it is.
    #[test]
    fn one_changed_bit_changes_the_hash() {
        let key = PrefixKey::new(KEY);
        let mut seen = std::collections::BTreeSet::from([hash(&[0; BLOCK_BYTES], key)]);
        for bit in 0..BLOCK_BYTES * 8 {
            let mut block = [0; BLOCK_BYTES];
            block[bit / 8] = 1 << (bit % 8);
            assert!(seen.insert(hash(&block, key)), "bit {bit}");
        }
    }
}
