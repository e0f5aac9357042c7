//! vLLM's `/metrics`, measured on 0.32 and compared with the names in 0.33.
//!
//! vLLM does not tell how many sequences it batches; only its command line does. That stays absent.

use crate::finding::{Absent, Findings, PageError, count, ratio, whole};
use crate::prometheus::{Series, Tally, prefix_cache, scan_of};
use aya_domain::Tokens;

/// Load and KV pool, over all data-parallel ranks: counts add up, the share of the KV pool is the mean.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut kv, mut kv_before_0_9, mut capacity] = [Tally::default(); 5];
    let [mut asked, mut hit, mut asked_before_0_9, mut hit_before_0_9] = [Tally::default(); 4];
    let mut work = Tally::default();
    scan_of(b"vllm:", page, |series| match series.name() {
        b"vllm:num_requests_running" => running.add(series.value()),
        b"vllm:num_requests_waiting" => waiting.add(series.value()),
        b"vllm:kv_cache_usage_perc" => kv.add(series.value()),
        b"vllm:gpu_cache_usage_perc" => kv_before_0_9.add(series.value()),
        b"vllm:prefix_cache_queries_total" => asked.add(series.value()),
        b"vllm:prefix_cache_hits_total" => hit.add(series.value()),
        b"vllm:gpu_prefix_cache_queries_total" => asked_before_0_9.add(series.value()),
        b"vllm:gpu_prefix_cache_hits_total" => hit_before_0_9.add(series.value()),
        b"vllm:generation_tokens_total"
        | b"vllm:prompt_tokens_total"
        | b"vllm:iteration_tokens_total_count" => {
            work.add(series.value());
        }
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
        kv_capacity: Some(capacity.sum().and_then(whole).map(Tokens)),
        prefix_cache: Some(match prefix_cache(&asked, &hit) {
            Err(Absent::Missing) => prefix_cache(&asked_before_0_9, &hit_before_0_9),
            other => other,
        }),
        work: Some(work.sum().and_then(whole)),
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
