//! Triton's metrics page with the TensorRT-LLM backend, after that backend's README and Triton's metrics guide.
//!
//! Where the backend is another one, Triton itself tells at least who waits (`nv_inference_pending_request_count`).
//! The page has one set of gauges per model and version; they add up.

use aya_domain::{Ratio, Tokens};

use crate::finding::{Absent, Findings, PageError, count, ratio, whole};
use crate::prometheus::{Series, Tally, scan_of};

#[derive(Default)]
struct Told {
    scheduled: Tally,
    waiting: Tally,
    max: Tally,
    pending: Tally,
    fraction: Tally,
    used: Tally,
    blocks: Tally,
    per_block: Tally,
    iterations: Tally,
}

/// Load, KV pool and the limit of the batch.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let mut told = Told::default();
    scan_of(b"nv_", page, |series| told.take(&series))?;
    let blocks = || told.blocks.sum();
    let capacity = blocks().and_then(|blocks| Ok(blocks * told.per_block.mean()?)).and_then(whole);
    // Older backends give used and max and no fraction.
    let used = match told.fraction.mean() {
        Err(Absent::Missing) => told.used.sum().and_then(|used| match blocks()? {
            all if all > 0.0 => Ok(Ratio::clamped(used / all)),
            _ => Err(Absent::Missing),
        }),
        fraction => fraction.and_then(ratio),
    };
    let waiting = match told.waiting.sum() {
        Err(Absent::Missing) => told.pending.sum(),
        waiting => waiting,
    };
    Ok(Findings {
        running: Some(told.scheduled.sum().and_then(count)),
        waiting: Some(waiting.and_then(count)),
        kv_used: Some(used),
        kv_capacity: Some(capacity.map(Tokens)),
        max_sequences: Some(told.max.sum().and_then(count)),
        work: Some(told.iterations.sum().and_then(whole)),
        ..Findings::default()
    })
}

impl Told {
    fn take(&mut self, series: &Series<'_>) {
        let value = series.value();
        match series.name() {
            b"nv_trt_llm_request_metrics" => match series.label("request_type") {
                Some("scheduled") => self.scheduled.add(value),
                Some("waiting") => self.waiting.add(value),
                Some("max") => self.max.add(value),
                Some(_) | None => {}
            },
            b"nv_trt_llm_kv_cache_block_metrics" => match series.label("kv_cache_block_type") {
                Some("fraction") => self.fraction.add(value),
                Some("used") => self.used.add(value),
                Some("max") => self.blocks.add(value),
                Some("tokens_per") => self.per_block.add(value),
                Some(_) | None => {}
            },
            b"nv_trt_llm_general_metrics" if series.label("general_type") == Some("iteration_counter") => {
                self.iterations.add(value);
            }
            b"nv_inference_pending_request_count" => self.pending.add(value),
            _ => {}
        }
    }
}
