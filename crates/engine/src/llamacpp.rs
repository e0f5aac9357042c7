//! llama.cpp's `/metrics`, `/slots` and `/props`, measured on its server of October 2026.
//!
//! It publishes no KV gauge; the slots tell how many tokens each holds. `n_prompt_tokens` of a running slot
//! already counts what it has generated (27 prompt + 60 generated reads 87), so nothing is added to it.

use aya_domain::{PrefixCache, Ratio, Tokens};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Absent, Findings, PageError, count, whole};
use crate::json;
use crate::prometheus::{Tally, scan_of};

/// More slots than this are no engine's.
const MAX_SLOTS: usize = 4096;

/// Load as the task queue counts it.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut computed, mut cached, mut decodes] = [Tally::default(); 5];
    scan_of(b"llamacpp:", page, |series| match series.name() {
        b"llamacpp:requests_processing" => running.add(series.value()),
        b"llamacpp:requests_deferred" => waiting.add(series.value()),
        // One per batch of prompts or tokens; its counters of tokens move when a request ends.
        b"llamacpp:n_decode_total" => decodes.add(series.value()),
        b"llamacpp:prompt_tokens_total" => computed.add(series.value()),
        b"llamacpp:prompt_tokens_cached_total" => cached.add(series.value()),
        _ => {}
    })?;
    // Its counter of prompt tokens leaves the cached ones out.
    let prefix_cache = cached.sum().and_then(whole).and_then(|hit| {
        let computed = computed.sum().and_then(whole)?;
        Ok(PrefixCache::Counters { asked: Tokens(computed).plus(Tokens(hit)), hit: Tokens(hit) })
    });
    Ok(Findings {
        running: Some(running.sum().and_then(count)),
        waiting: Some(waiting.sum().and_then(count)),
        prefix_cache: Some(prefix_cache),
        work: Some(decodes.sum().and_then(whole)),
        ..Findings::default()
    })
}

#[derive(Deserialize)]
struct Slot {
    n_ctx: Option<Value>,
    is_processing: Option<Value>,
    n_prompt_tokens: Option<Value>,
    n_prompt_tokens_processed: Option<Value>,
}

/// Slots, who is in them, and the tokens they hold. The cache of an idle slot is free to be overwritten
/// and does not count as used.
pub(crate) fn slots(body: &[u8]) -> Result<Findings, PageError> {
    let slots: Vec<Slot> = json::read(body)?;
    if slots.is_empty() || slots.len() > MAX_SLOTS {
        return Err(PageError::NotJson);
    }
    let busy = || slots.iter().filter(|s| s.is_processing == Some(Value::Bool(true)));
    let running = if slots.iter().all(|s| matches!(s.is_processing, Some(Value::Bool(_)))) {
        u32::try_from(busy().count()).map_err(|_| Absent::TooLarge)
    } else {
        Err(Absent::Malformed)
    };
    let capacity = total(slots.iter().map(|s| json::tokens(s.n_ctx.as_ref())));
    let held = running.and_then(|_| total(busy().map(Slot::held)));
    let kv_used = capacity.and_then(|all| held.map(|held| Ratio::clamped(held.as_f64() / all.as_f64())));
    Ok(Findings {
        running: Some(running),
        kv_used: Some(kv_used),
        kv_capacity: Some(capacity),
        max_sequences: Some(u32::try_from(slots.len()).map_err(|_| Absent::TooLarge)),
        ..Findings::default()
    })
}

impl Slot {
    /// Tokens in the KV cache; a slot that has just been given its task may hold none yet.
    fn held(&self) -> Result<Tokens, Absent> {
        let of = |value| match json::counted(value) {
            Err(Absent::Missing) => Ok(0),
            other => other,
        };
        let all = of(self.n_prompt_tokens.as_ref())?;
        Ok(Tokens(u64::from(all.max(of(self.n_prompt_tokens_processed.as_ref())?))))
    }
}

fn total(mut parts: impl Iterator<Item = Result<Tokens, Absent>>) -> Result<Tokens, Absent> {
    parts.try_fold(Tokens(0), |sum, part| part.map(|tokens| sum.plus(tokens)))
}

#[derive(Deserialize)]
struct Props {
    total_slots: Option<Value>,
    default_generation_settings: Option<Value>,
    build_info: Option<Value>,
}

/// How many slots, the context of one of them, and the build.
pub(crate) fn props(body: &[u8]) -> Result<Findings, PageError> {
    let props: Props = json::read(body)?;
    let n_ctx = props.default_generation_settings.as_ref().and_then(|s| s.get("n_ctx"));
    Ok(Findings {
        max_sequences: Some(json::counted(props.total_slots.as_ref())),
        context_length: Some(json::tokens(n_ctx)),
        version: Some(json::version_text(props.build_info.as_ref())),
        ..Findings::default()
    })
}
