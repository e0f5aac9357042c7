//! The simulated engine's `/metrics`: vLLM's names for the load, and `aya_sim_*` for what a real engine
//! would never tell: the cost of its steps, and what it does to its GPUs.

use crate::finding::{Absent, Activity, Findings, PageError, count, finite, ratio, whole};
use crate::prometheus::{Tally, scan};
use aya_domain::{Bytes, EngineProfile, Ratio, StepCost, Tokens};

/// The longest GPU name taken over, in bytes.
const MAX_NAME_BYTES: usize = 128;

#[derive(Default)]
struct Told {
    gpu_name: Option<String>,
    gpus: Tally,
    max_sequences: Tally,
    max_batched_tokens: Tally,
    base: Tally,
    per_token: Tally,
    overhead: Tally,
    per_kv_token: Tally,
    attention: Tally,
    busy: Tally,
    prefill: Tally,
    vram_used: Tally,
}

/// Load, cost profile and activity.
pub(crate) fn metrics(page: &[u8]) -> Result<Findings, PageError> {
    let mut findings = crate::vllm::metrics(page)?;
    let told = read(page)?;
    findings.max_sequences = Some(told.max_sequences.sum().and_then(count));
    findings.profile = Some(told.profile(findings.kv_capacity.unwrap_or(Err(Absent::Missing))));
    findings.activity = Some(told.activity());
    Ok(findings)
}

fn read(page: &[u8]) -> Result<Told, PageError> {
    let mut told = Told::default();
    scan(page, |series| match series.name() {
        b"aya_sim_info" => {
            let number = |label| series.label(label).and_then(|t| t.parse().ok()).ok_or(Absent::Malformed);
            told.gpus.add(number("gpus"));
            told.max_sequences.add(number("max_num_seqs"));
            told.max_batched_tokens.add(number("max_batched_tokens"));
            told.gpu_name = series.label("gpu_name").filter(|n| n.len() <= MAX_NAME_BYTES).map(str::to_owned);
        }
        b"aya_sim_step_cost" => {
            let value = series.value();
            match series.label("coefficient") {
                Some("base") => told.base.add(value),
                Some("per_token") => told.per_token.add(value),
                Some("overhead") => told.overhead.add(value),
                Some("per_kv_token") => told.per_kv_token.add(value),
                Some("attention") => told.attention.add(value),
                Some(_) | None => {}
            }
        }
        b"aya_sim_busy_ratio" => told.busy.add(series.value()),
        b"aya_sim_prefill_ratio" => told.prefill.add(series.value()),
        b"aya_sim_vram_used_bytes" => told.vram_used.add(series.value()),
        _ => {}
    })?;
    Ok(told)
}

impl Told {
    fn profile(&self, kv_capacity: Result<Tokens, Absent>) -> Result<EngineProfile, Absent> {
        let seconds = |tally: &Tally| tally.sum().and_then(finite);
        // A limit of zero would make every request impossible: it is no limit that an engine can have.
        let limit = |tally: &Tally| match tally.sum().and_then(count)? {
            0 => Err(Absent::Malformed),
            limit => Ok(limit),
        };
        Ok(EngineProfile {
            cost: StepCost {
                base_s: seconds(&self.base)?,
                per_token_s: seconds(&self.per_token)?,
                overhead_s: seconds(&self.overhead)?,
                per_kv_token_s: seconds(&self.per_kv_token)?,
                attention_s: seconds(&self.attention)?,
            },
            kv_capacity: kv_capacity?,
            max_batched_tokens: limit(&self.max_batched_tokens)?,
            max_sequences: limit(&self.max_sequences)?,
        })
    }

    fn activity(&self) -> Result<Activity, Absent> {
        let busy = self.busy.sum().and_then(ratio)?;
        let prefill = self.prefill.sum().and_then(ratio)?;
        Ok(Activity {
            busy,
            // Two sums over the same steps, so that they may differ in their last digit.
            prefill: Ratio::clamped(prefill.get().min(busy.get())),
            vram_used: self.vram_used.sum().and_then(whole).map(Bytes)?,
            gpu_name: self.gpu_name.clone(),
            gpus: self.gpus.sum().and_then(count).ok(),
        })
    }
}
