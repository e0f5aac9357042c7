//! TGI's `/metrics` and `/info`, after the source of its router (3.x, in maintenance since 2025).
//!
//! A gauge appears on its page with its first value, so before the first request load is missing, not zero. The
//! KV pool is told as a budget of tokens: what the batch may grow to, of what fits.

use aya_domain::{ModelId, Ratio, ServedModel, Tokens};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Absent, Findings, PageError, count, whole};
use crate::json;
use crate::prometheus::{Tally, prefix_cache, scan_of};

/// Load, token budget and prefix cache.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let [mut running, mut waiting, mut used, mut budget] = [Tally::default(); 4];
    let [mut asked, mut hit, mut work] = [Tally::default(); 3];
    scan_of(b"tgi_", page, |series| match series.name() {
        b"tgi_batch_current_size" => running.add(series.value()),
        b"tgi_queue_size" => waiting.add(series.value()),
        b"tgi_batch_current_max_tokens" => used.add(series.value()),
        b"tgi_batch_max_total_tokens" => budget.add(series.value()),
        // One per prefill and per decode of a batch.
        b"tgi_batch_inference_success" => work.add(series.value()),
        b"tgi_request_input_length_sum" => asked.add(series.value()),
        b"tgi_request_skipped_tokens_sum" => hit.add(series.value()),
        _ => {}
    })?;
    let capacity = budget.sum().and_then(whole).and_then(|tokens| match tokens {
        0 => Err(Absent::Missing),
        tokens => Ok(Tokens(tokens)),
    });
    let share = |used: f64| capacity.map(|all| Ratio::clamped(used / all.as_f64()));
    Ok(Findings {
        running: Some(running.sum().and_then(count)),
        waiting: Some(waiting.sum().and_then(count)),
        kv_used: Some(used.sum().and_then(share)),
        kv_capacity: Some(capacity),
        prefix_cache: Some(prefix_cache(&asked, &hit)),
        work: Some(work.sum().and_then(whole)),
        ..Findings::default()
    })
}

#[derive(Deserialize)]
struct Info {
    model_id: Option<Value>,
    version: Option<Value>,
    max_total_tokens: Option<Value>,
    max_concurrent_requests: Option<Value>,
    max_batch_size: Option<Value>,
}

/// Limits, version and, for versions without a list of models, the model. More than `max_concurrent_requests` get 429.
pub(crate) fn info(body: &[u8]) -> Result<Findings, PageError> {
    let info: Info = json::read(body)?;
    let context_length = json::tokens(info.max_total_tokens.as_ref());
    let model = info.model_id.as_ref().and_then(Value::as_str).and_then(|id| ModelId::parse(id).ok());
    let models =
        model.map(|id| Ok(vec![ServedModel { id, context_length: context_length.ok(), parent: None }]));
    let batch = json::counted(info.max_batch_size.as_ref());
    let admitted = json::counted(info.max_concurrent_requests.as_ref());
    let max_sequences = match (batch, admitted) {
        (Ok(batch), Ok(admitted)) => Ok(batch.min(admitted)),
        (Err(_), admitted) => admitted,
        (batch, Err(_)) => batch,
    };
    Ok(Findings {
        max_sequences: Some(max_sequences),
        context_length: Some(context_length),
        models,
        version: Some(json::version_text(info.version.as_ref())),
        ..Findings::default()
    })
}
