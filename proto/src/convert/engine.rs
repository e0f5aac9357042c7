//! Engines: identity is required, every reading is a value with its age or absent.

use aya_domain::{
    AbortPolicy, Aged, Bytes, EndpointId, EndpointUrl, EngineHealth, EngineKind, EngineProfile, EngineReport,
    GpuUuid, ModelId, PrefixCache, Ratio, ServedModel, StepCost, Tokens,
};

use super::field::{self, Result};
use super::signal::{signals, signals_to_wire};
use super::{ConvertError, Limits, Problem};
use crate::wire;

/// GPUs one engine may run on; more than any tensor-parallel group within one node.
const GPUS_PER_ENGINE_MAX: u32 = 256;

pub(super) fn engine(engine: wire::Engine, limits: &Limits) -> Result<EngineReport> {
    Ok(EngineReport {
        id: field::id(engine.id.as_deref(), "id", EndpointId::parse)?,
        kind: field::named(engine.kind, "kind", kind)?,
        url: field::id(engine.url.as_deref(), "url", EndpointUrl::parse)?,
        health: field::required(engine.health, "health")
            .and_then(|value| health(value, limits).map_err(|error| error.inside("health")))?,
        version: field::optional_text(engine.version, "version", limits)?,
        models: within(engine.models, "models", |value| models(&value, limits))?,
        running: within(engine.running, "running", |value| field::aged(value.value, value.age_us))?,
        waiting: within(engine.waiting, "waiting", |value| field::aged(value.value, value.age_us))?,
        kv_used: within(engine.kv_used, "kv_used", aged_ratio)?,
        kv_capacity: within(engine.kv_capacity, "kv_capacity", |value| {
            field::aged(value.value.map(Tokens), value.age_us)
        })?,
        max_sequences: within(engine.max_sequences, "max_sequences", |value| {
            field::aged(value.value, value.age_us)
        })?,
        profile: within(engine.profile, "profile", |value| profile(&value))?,
        kv_bytes_per_token: engine.kv_bytes_per_token.map(Bytes),
        prefix_cache: within(engine.prefix_cache, "prefix_cache", |value| prefix_cache(&value))?,
        work: within(engine.work, "work", |value| field::aged(value.value, value.age_us))?,
        // A policy of a newer agent that this side does not know: the kind decides.
        abort: engine.abort.and_then(|policy| wire::AbortPolicy::try_from(policy).ok()).and_then(abort),
        gpus: gpus(&engine.gpus)?,
        signals: signals(engine.signals, limits)?,
    })
}

/// Converts an optional message; an error inside gets the field's name in front.
fn within<W, T>(value: Option<W>, field: &str, convert: impl FnOnce(W) -> Result<T>) -> Result<Option<T>> {
    value.map(convert).transpose().map_err(|error| error.inside(field))
}

fn prefix_cache(cache: &wire::PrefixCache) -> Result<Aged<PrefixCache>> {
    let value = match (cache.share, cache.asked_tokens) {
        (Some(share), None) => PrefixCache::Share(field::ratio(share, "share")?),
        (_, asked) => PrefixCache::Counters {
            asked: Tokens(field::required(asked, "asked_tokens")?),
            hit: Tokens(field::required(cache.hit_tokens, "hit_tokens")?),
        },
    };
    Ok(Aged::new(value, field::age(cache.age_us)?))
}

fn prefix_cache_to_wire(cache: Aged<PrefixCache>) -> wire::PrefixCache {
    let mut told = wire::PrefixCache { age_us: field::age_us(cache.age), ..wire::PrefixCache::default() };
    match cache.value {
        PrefixCache::Counters { asked, hit } => {
            told.asked_tokens = Some(asked.get());
            told.hit_tokens = Some(hit.get());
        }
        PrefixCache::Share(share) => told.share = Some(share.get()),
    }
    told
}

fn aged_ratio(value: wire::AgedRatio) -> Result<Aged<Ratio>> {
    let ratio = field::ratio(field::required(value.value, "value")?, "value")?;
    field::aged(Some(ratio), value.age_us)
}

fn health(health: wire::EngineHealth, limits: &Limits) -> Result<Aged<EngineHealth>> {
    let state = field::named(health.state, "state", |state: wire::EngineState| {
        (state != wire::EngineState::Unspecified).then_some(state)
    })?;
    let value = match state {
        wire::EngineState::Unspecified => return Err(ConvertError::at("state", Problem::UnknownEnum(0))),
        wire::EngineState::Ready => EngineHealth::Ready,
        wire::EngineState::Loading => EngineHealth::Loading,
        wire::EngineState::Busy => EngineHealth::Busy,
        wire::EngineState::Down => {
            let reason = field::required(health.reason, "reason")?;
            EngineHealth::Down { reason: field::text(reason, "reason", limits)? }
        }
    };
    Ok(Aged::new(value, field::age(health.age_us)?))
}

fn models(models: &wire::Models, limits: &Limits) -> Result<Aged<Vec<ServedModel>>> {
    field::count(models.models.len(), limits.models_per_engine_max, "models")?;
    let mut served = Vec::with_capacity(models.models.len());
    for (at, model) in models.models.iter().enumerate() {
        let id = field::id(model.id.as_deref(), "id", ModelId::parse)
            .map_err(|error| error.inside(format_args!("models[{at}]")))?;
        let parent = model
            .parent
            .as_deref()
            .map(ModelId::parse)
            .transpose()
            .map_err(|error| ConvertError::at(&format!("models[{at}].parent"), Problem::BadId(error)))?;
        served.push(ServedModel { id, context_length: model.context_tokens.map(Tokens), parent });
    }
    field::distinct(served.iter().map(|model| &model.id), "models", "id")?;
    Ok(Aged::new(served, field::age(models.age_us)?))
}

fn profile(profile: &wire::EngineProfile) -> Result<EngineProfile> {
    Ok(EngineProfile {
        cost: StepCost {
            base_s: field::seconds(profile.base_s, "base_s")?,
            per_token_s: field::seconds(profile.per_token_s, "per_token_s")?,
            overhead_s: field::seconds(profile.overhead_s, "overhead_s")?,
            per_kv_token_s: field::seconds(profile.per_kv_token_s, "per_kv_token_s")?,
            attention_s: field::seconds(profile.attention_s, "attention_s")?,
        },
        kv_capacity: Tokens(field::not_zero(profile.kv_capacity_tokens, "kv_capacity_tokens")?),
        max_batched_tokens: field::not_zero(profile.max_batched_tokens, "max_batched_tokens")?,
        max_sequences: field::not_zero(profile.max_sequences, "max_sequences")?,
    })
}

fn gpus(gpus: &[String]) -> Result<Vec<GpuUuid>> {
    field::count(gpus.len(), GPUS_PER_ENGINE_MAX, "gpus")?;
    let uuid = |(at, text): (usize, &String)| {
        GpuUuid::parse(text).map_err(|error| ConvertError::at(&format!("gpus[{at}]"), Problem::BadId(error)))
    };
    gpus.iter().enumerate().map(uuid).collect()
}

fn abort(policy: wire::AbortPolicy) -> Option<AbortPolicy> {
    match policy {
        wire::AbortPolicy::Unspecified => None,
        wire::AbortPolicy::Cancel => Some(AbortPolicy::Cancel),
        wire::AbortPolicy::Drain => Some(AbortPolicy::Drain),
    }
}

fn abort_to_wire(policy: AbortPolicy) -> wire::AbortPolicy {
    match policy {
        AbortPolicy::Cancel => wire::AbortPolicy::Cancel,
        AbortPolicy::Drain => wire::AbortPolicy::Drain,
    }
}

fn kind(kind: wire::EngineKind) -> Option<EngineKind> {
    match kind {
        wire::EngineKind::Unspecified => None,
        wire::EngineKind::Vllm => Some(EngineKind::Vllm),
        wire::EngineKind::Sglang => Some(EngineKind::Sglang),
        wire::EngineKind::LlamaCpp => Some(EngineKind::LlamaCpp),
        wire::EngineKind::Tgi => Some(EngineKind::Tgi),
        wire::EngineKind::Trtllm => Some(EngineKind::TrtLlm),
        wire::EngineKind::Triton => Some(EngineKind::Triton),
        wire::EngineKind::Ollama => Some(EngineKind::Ollama),
        wire::EngineKind::Simulated => Some(EngineKind::Simulated),
    }
}

fn kind_to_wire(kind: EngineKind) -> wire::EngineKind {
    match kind {
        EngineKind::Vllm => wire::EngineKind::Vllm,
        EngineKind::Sglang => wire::EngineKind::Sglang,
        EngineKind::LlamaCpp => wire::EngineKind::LlamaCpp,
        EngineKind::Tgi => wire::EngineKind::Tgi,
        EngineKind::TrtLlm => wire::EngineKind::Trtllm,
        EngineKind::Triton => wire::EngineKind::Triton,
        EngineKind::Ollama => wire::EngineKind::Ollama,
        EngineKind::Simulated => wire::EngineKind::Simulated,
    }
}

pub(super) fn engine_to_wire(engine: &EngineReport) -> wire::Engine {
    wire::Engine {
        id: Some(engine.id.as_str().to_owned()),
        kind: Some(kind_to_wire(engine.kind).into()),
        url: Some(engine.url.as_str().to_owned()),
        health: Some(health_to_wire(&engine.health)),
        version: engine.version.clone(),
        models: engine.models.as_ref().map(models_to_wire),
        running: engine.running.map(count_to_wire),
        waiting: engine.waiting.map(count_to_wire),
        kv_used: engine
            .kv_used
            .map(|used| wire::AgedRatio { value: Some(used.value.get()), age_us: field::age_us(used.age) }),
        kv_capacity: engine
            .kv_capacity
            .map(|pool| wire::AgedTokens { value: Some(pool.value.get()), age_us: field::age_us(pool.age) }),
        max_sequences: engine.max_sequences.map(count_to_wire),
        profile: engine.profile.as_ref().map(profile_to_wire),
        kv_bytes_per_token: engine.kv_bytes_per_token.map(Bytes::get),
        gpus: engine.gpus.iter().map(|uuid| uuid.as_str().to_owned()).collect(),
        prefix_cache: engine.prefix_cache.map(prefix_cache_to_wire),
        signals: signals_to_wire(&engine.signals),
        abort: engine.abort.map(|policy| abort_to_wire(policy).into()),
        work: engine
            .work
            .map(|work| wire::AgedTokens { value: Some(work.value), age_us: field::age_us(work.age) }),
    }
}

fn count_to_wire(count: Aged<u32>) -> wire::AgedCount {
    wire::AgedCount { value: Some(count.value), age_us: field::age_us(count.age) }
}

fn health_to_wire(health: &Aged<EngineHealth>) -> wire::EngineHealth {
    let (state, reason) = match &health.value {
        EngineHealth::Ready => (wire::EngineState::Ready, None),
        EngineHealth::Loading => (wire::EngineState::Loading, None),
        EngineHealth::Busy => (wire::EngineState::Busy, None),
        EngineHealth::Down { reason } => (wire::EngineState::Down, Some(reason.clone())),
    };
    wire::EngineHealth { state: Some(state.into()), reason, age_us: field::age_us(health.age) }
}

fn models_to_wire(models: &Aged<Vec<ServedModel>>) -> wire::Models {
    let model = |model: &ServedModel| wire::Model {
        id: Some(model.id.as_str().to_owned()),
        context_tokens: model.context_length.map(Tokens::get),
        parent: model.parent.as_ref().map(|parent| parent.as_str().to_owned()),
    };
    wire::Models { models: models.value.iter().map(model).collect(), age_us: field::age_us(models.age) }
}

fn profile_to_wire(profile: &EngineProfile) -> wire::EngineProfile {
    let cost = &profile.cost;
    wire::EngineProfile {
        base_s: Some(cost.base_s),
        per_token_s: Some(cost.per_token_s),
        overhead_s: Some(cost.overhead_s),
        per_kv_token_s: Some(cost.per_kv_token_s),
        attention_s: Some(cost.attention_s),
        kv_capacity_tokens: Some(profile.kv_capacity.get()),
        max_batched_tokens: Some(profile.max_batched_tokens),
        max_sequences: Some(profile.max_sequences),
    }
}
