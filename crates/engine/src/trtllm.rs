//! `trtllm-serve`'s `/prometheus/metrics` (with `return_perf_metrics`), after TensorRT-LLM's `metrics/collector.py`.
//!
//! Its `/metrics` is never asked: that one is a JSON queue which every reader empties for all others.

use aya_domain::{PrefixCache, Tokens};

use crate::finding::{Absent, Findings, PageError, count, ratio, whole};
use crate::prometheus::{Tally, scan_of};

/// Load, KV pool, the limit of the batch and the share of reused blocks.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut used, mut blocks, mut per_block] = [Tally::default(); 5];
    let [mut active_max, mut batch_max, mut reused] = [Tally::default(); 3];
    // `trtllm_` and `trtllm:` are both in use.
    scan_of(b"trtllm", page, |series| match series.name().get(b"trtllm_".len()..).unwrap_or_default() {
        b"num_requests_running" => running.add(series.value()),
        b"num_requests_waiting" => waiting.add(series.value()),
        b"kv_cache_utilization" => used.add(series.value()),
        b"kv_cache_max_blocks" => blocks.add(series.value()),
        b"kv_cache_tokens_per_block" => per_block.add(series.value()),
        b"kv_cache_hit_rate" => reused.add(series.value()),
        b"max_num_active_requests" => active_max.add(series.value()),
        b"max_batch_size_runtime" => batch_max.add(series.value()),
        _ => {}
    })?;
    let capacity = blocks.sum().and_then(|blocks| Ok(blocks * per_block.mean()?)).and_then(whole);
    let limit = active_max.sum().or_else(|_| batch_max.sum()).and_then(count);
    Ok(Findings {
        running: Some(running.sum().and_then(count)),
        waiting: Some(waiting.sum().and_then(count)),
        kv_used: Some(used.mean().and_then(ratio)),
        kv_capacity: Some(capacity.map(Tokens)),
        max_sequences: Some(limit.and_then(|max| if max == 0 { Err(Absent::Missing) } else { Ok(max) })),
        prefix_cache: Some(reused.mean().and_then(ratio).map(PrefixCache::Share)),
        ..Findings::default()
    })
}
