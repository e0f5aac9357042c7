//! From a view of the node to a report: pure, with `now` as an argument.

use std::time::Duration;

use aya_domain::{
    Aged, AgentHealth, BootId, EndpointUrl, EngineHealth, EngineReport, GpuReport, GpuSourceKind, GpuUuid,
    MonoTime, NodeId, Reading, Report, ReportKind, ServedModel, Signal, SignalReport, SignalState,
};
use aya_engine::{Field, signals};

use crate::gpus_of::gpus_of_engines;
use crate::view::{EngineView, GpuView, View};

/// The longest text of a report in bytes, ids aside; schedulers take four kilobytes.
const TEXT_BYTES_MAX: usize = 512;

/// What is the same in all reports of this agent.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    /// How often reports are meant to come.
    pub(crate) period: Duration,
}

/// What one report is to say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: ReportKind,
    pub(crate) sequence: u64,
    /// A DELTA names what has changed after this revision.
    pub(crate) since: u64,
    /// Where the receiver reaches each engine, in the engines' order.
    pub(crate) urls: &'a [EndpointUrl],
}

/// A report on a view.
pub(crate) fn report(identity: &Identity, view: &View, wanted: Wanted<'_>, now: MonoTime) -> Report {
    let named = |revision: u64| wanted.kind == ReportKind::Full || revision > wanted.since;
    let gpus_of = gpus_of_engines(view);
    let engines = view.engines.iter().zip(gpus_of).zip(wanted.urls);
    Report {
        node: identity.node.clone(),
        boot: identity.boot,
        sequence: wanted.sequence,
        kind: wanted.kind,
        agent: agent_health(identity, view),
        gpus: view.gpus.iter().filter(|gpu| named(gpu.revision)).map(|gpu| gpu_report(gpu, now)).collect(),
        engines: engines
            .filter(|((engine, _), _)| named(engine.revision))
            .map(|((engine, gpus), url)| engine_report(engine, gpus, url, now))
            .collect(),
    }
}

fn agent_health(identity: &Identity, view: &View) -> AgentHealth {
    let source = view.source.as_ref();
    AgentHealth {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        gpu_source: source.map_or(GpuSourceKind::None, |s| s.kind),
        driver_version: source.and_then(|s| s.driver_version.as_deref()).map(cut),
        gpu_error: source.and_then(|s| s.error.as_deref()).map(cut),
        period: identity.period,
    }
}

fn gpu_report(gpu: &GpuView, now: MonoTime) -> GpuReport {
    let mut info = gpu.info.clone();
    info.name = cut(&info.name);
    let processes = gpu.processes.as_ref().map(|list| Aged::new(list.value.as_ref().clone(), list.age(now)));
    GpuReport { info, sample: gpu.sample.map(|sample| sample.aged(now)), processes }
}

fn engine_report(engine: &EngineView, gpus: Vec<GpuUuid>, url: &EndpointUrl, now: MonoTime) -> EngineReport {
    let readings = &engine.readings;
    let not_yet = || Reading::new(EngineHealth::Down { reason: "not probed yet".to_owned() }, now);
    EngineReport {
        id: engine.id.clone(),
        kind: engine.kind,
        url: url.clone(),
        health: short(engine.health.clone().unwrap_or_else(not_yet).aged(now)),
        version: readings.version.value().cloned(),
        models: models(engine).map(|models| models.aged(now)),
        running: aged(&readings.running, now),
        waiting: aged(&readings.waiting, now),
        kv_used: aged(&readings.kv_used, now),
        kv_capacity: aged(&readings.kv_capacity, now),
        max_sequences: match engine.max_sequences {
            Some(configured) => Some(Aged::new(configured, Duration::ZERO)),
            None => aged(&readings.max_sequences, now),
        },
        prefix_cache: aged(&readings.prefix_cache, now),
        work: aged(&readings.work, now),
        profile: engine.profile.or_else(|| readings.profile.value().copied()),
        kv_bytes_per_token: engine.kv_bytes_per_token,
        abort: engine.abort,
        gpus,
        signals: states(engine, now),
    }
}

/// The state of every reading; what the operator configured needs no reading.
fn states(engine: &EngineView, now: MonoTime) -> Vec<SignalReport> {
    let mut states = signals(engine.kind, &engine.readings, engine.period, now);
    for told in &mut states {
        if told.signal == Signal::MaxSequences && engine.max_sequences.is_some() {
            (told.state, told.reason) = (SignalState::Parsed, None);
        }
        told.reason = told.reason.as_deref().map(cut);
    }
    states
}

/// The models, with the operator's context length where one is configured.
fn models(engine: &EngineView) -> Option<Reading<Vec<ServedModel>>> {
    let mut models = engine.readings.served_models()?;
    if engine.context_length.is_some() {
        models.value.iter_mut().for_each(|model| model.context_length = engine.context_length);
    }
    Some(models)
}

fn aged<T: Copy>(field: &Field<T>, now: MonoTime) -> Option<Aged<T>> {
    field.reading().map(|reading| reading.aged(now))
}

fn short(health: Aged<EngineHealth>) -> Aged<EngineHealth> {
    match health.value {
        EngineHealth::Down { reason } => Aged::new(EngineHealth::Down { reason: cut(&reason) }, health.age),
        EngineHealth::Ready | EngineHealth::Loading | EngineHealth::Busy => health,
    }
}

/// A text of at most [`TEXT_BYTES_MAX`], cut between characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
