//! vLLM's `/metrics`, measured on 0.32 and compared with the names in 0.33.
//!
//! vLLM does not tell how many sequences it batches; only its command line does. That stays absent.

use crate::finding::{Absent, Findings, PageError, count, ratio, whole};
use crate::prometheus::{Series, Tally, scan};
use aya_domain::Tokens;

/// Load and KV pool, over all data-parallel ranks: counts add up, the share of the KV pool is the mean.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut kv, mut kv_before_0_9, mut capacity] = [Tally::default(); 5];
    scan(page, |series| match series.name() {
        b"vllm:num_requests_running" => running.add(series.value()),
        b"vllm:num_requests_waiting" => waiting.add(series.value()),
        b"vllm:kv_cache_usage_perc" => kv.add(series.value()),
        b"vllm:gpu_cache_usage_perc" => kv_before_0_9.add(series.value()),
        b"vllm:cache_config_info" => capacity.add(pool_tokens(&series)),
        _ => {}
    })?;
    let kv = match kv.mean() {
        Err(Absent::Missing) => kv_before_0_9.mean(),
        other => other,
    };
    Ok(Findings {
        running: Some(running.sum().and_then(count)),
        waiting: Some(waiting.sum().and_then(count)),
        kv_used: Some(kv.and_then(ratio)),
        // Only the command line knows it; said here, so that the gap is seen.
        max_sequences: Some(Err(Absent::Missing)),
        kv_capacity: Some(capacity.sum().and_then(whole).map(Tokens)),
        ..Findings::default()
    })
}

/// The KV pool of one rank. Its tokens stand there in newer versions; blocks times block size in all.
fn pool_tokens(series: &Series<'_>) -> Result<f64, Absent> {
    let number = |label| series.label(label).and_then(|text| text.parse::<f64>().ok());
    let by_blocks = || Some(number("num_gpu_blocks")? * number("block_size")?);
    match number("kv_cache_size_tokens").or_else(by_blocks) {
        Some(tokens) if tokens > 0.0 => Ok(tokens),
        Some(_) | None => Err(Absent::Missing),
    }
}
