//! SGLang's `/metrics` (with `--enable-metrics`), `/v1/loads` and `/server_info`, after the source of 0.5.23
//! (`observability/metrics_collector.py`, `entrypoints/v1_loads.py`, `managers/load_snapshot.py`).
//!
//! One scheduler per data-parallel rank reports for itself: counts and pools add up, shares are means.

use aya_domain::{PrefixCache, Tokens};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Absent, Findings, PageError, count, ratio, whole};
use crate::json;
use crate::prometheus::{Series, Tally, prefix_cache, scan_of};

/// More data-parallel ranks than this are no engine's.
const MAX_RANKS: usize = 1024;

/// Load, KV pool and prefix cache.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut used, mut capacity] = [Tally::default(); 4];
    let [mut asked, mut hit, mut share, mut work] = [Tally::default(); 4];
    scan_of(b"sglang:", page, |series| match series.name() {
        b"sglang:num_running_reqs" if is_total(&series) => running.add(series.value()),
        b"sglang:num_queue_reqs" if is_total(&series) => waiting.add(series.value()),
        b"sglang:token_usage" => used.add(series.value()),
        b"sglang:max_total_num_tokens" => capacity.add(series.value()),
        b"sglang:prompt_tokens_total" => asked.add(series.value()),
        b"sglang:cached_tokens_total" => hit.add(series.value()),
        // Told every 40 steps or so; the other counters of tokens move when a request ends.
        b"sglang:realtime_tokens_total" => work.add(series.value()),
        b"sglang:cache_hit_rate" => share.add(series.value()),
        _ => {}
    })?;
    let told = share.mean().and_then(ratio).map(PrefixCache::Share);
    Ok(Findings {
        running: Some(running.sum().and_then(count)),
        waiting: Some(waiting.sum().and_then(count)),
        kv_used: Some(used.mean().and_then(ratio)),
        kv_capacity: Some(capacity.sum().and_then(whole).map(Tokens)),
        prefix_cache: Some(prefix_cache(&asked, &hit).or(told)),
        work: Some(work.sum().and_then(whole)),
        ..Findings::default()
    })
}

/// With priorities on, a queue is told as a whole (`priority=""`) and once more per priority.
fn is_total(series: &Series<'_>) -> bool {
    series.label("priority").is_none_or(str::is_empty)
}

#[derive(Deserialize)]
struct Loads {
    loads: Vec<Value>,
}

/// `/v1/loads?include=core`: the same and more, per rank, without `--enable-metrics`.
pub(crate) fn loads(body: &[u8]) -> Result<Findings, PageError> {
    let page: Loads = json::read(body)?;
    if page.loads.is_empty() || page.loads.len() > MAX_RANKS {
        return Err(PageError::NotJson);
    }
    let over = |name: &str| {
        let mut tally = Tally::default();
        for rank in &page.loads {
            let value = rank.get(name).filter(|v| !v.is_null());
            tally.add(value.ok_or(Absent::Missing).and_then(|v| v.as_f64().ok_or(Absent::Malformed)));
        }
        tally
    };
    Ok(Findings {
        running: Some(over("num_running_reqs").sum().and_then(count)),
        waiting: Some(over("num_waiting_reqs").sum().and_then(count)),
        kv_used: Some(over("token_usage").mean().and_then(ratio)),
        kv_capacity: Some(over("max_total_num_tokens").sum().and_then(whole).map(Tokens)),
        max_sequences: Some(over("max_running_requests").sum().and_then(count).and_then(limit)),
        ..Findings::default()
    })
}

/// No engine batches zero sequences.
fn limit(count: u32) -> Result<u32, Absent> {
    if count == 0 { Err(Absent::Missing) } else { Ok(count) }
}
