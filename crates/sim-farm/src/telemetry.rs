//! What a simulated agent would report about its engine: the same `Report` that arrives over the wire.
//!
//! One node per engine. The first report is FULL, the others name only the engine; a scheduler that missed one gets
//! another FULL.

use std::time::Duration;

use aya_domain::{
    Aged, AgentHealth, BootId, EndpointId, EndpointUrl, EngineHealth, EngineKind, EngineProfile,
    EngineReport, GpuSourceKind, IdError, ModelId, NodeId, Ratio, Report, ReportKind, ServedModel, Tokens,
};
use aya_sim_engine::Engine;

use crate::fleet_spec::EngineSpec;

/// The agent beside one engine.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) endpoint: EndpointId,
    node: NodeId,
    url: EndpointUrl,
    models: Vec<ServedModel>,
    /// What the scheduler is told of the engine, which may be wrong.
    told: EngineProfile,
    period: Duration,
    /// Whether the limit on sequences is told, so that the scheduler holds what exceeds it.
    tells_slots: bool,
    sequence: u64,
    owes_full: bool,
}

impl Agent {
    /// The agent of the engine at this position; ids sort by position.
    pub(crate) fn new(
        position: usize,
        spec: &EngineSpec,
        told: EngineProfile,
        model: &ModelId,
        period: Duration,
        tells_slots: bool,
    ) -> Result<Self, IdError> {
        let name = format!("{position:05}-{}", spec.name);
        let context_length = Some(spec.context_length);
        Ok(Self {
            endpoint: EndpointId::parse(&name)?,
            node: NodeId::parse(&name)?,
            url: EndpointUrl::parse("http://127.0.0.1:1")?,
            models: vec![ServedModel { id: model.clone(), context_length, parent: None }],
            told,
            period,
            tells_slots,
            sequence: 0,
            owes_full: true,
        })
    }

    /// The next report names everything: a scheduler has asked for it.
    pub(crate) const fn owe_full(&mut self) {
        self.owes_full = true;
    }

    /// A report of this instant; of an engine that is down it has no readings.
    pub(crate) fn report(&mut self, engine: Option<&Engine>) -> Report {
        self.sequence += 1;
        let full = std::mem::take(&mut self.owes_full);
        let kind = if full { ReportKind::Full } else { ReportKind::Delta };
        let agent = AgentHealth {
            version: String::new(),
            gpu_source: GpuSourceKind::None,
            driver_version: None,
            gpu_error: None,
            period: self.period,
        };
        let engines = vec![self.engine_report(engine, full)];
        Report {
            node: self.node.clone(),
            boot: BootId(1),
            sequence: self.sequence,
            kind,
            agent,
            gpus: Vec::new(),
            engines,
        }
    }

    fn engine_report(&self, engine: Option<&Engine>, full: bool) -> EngineReport {
        let count = |n: usize| Aged::new(u32::try_from(n).unwrap_or(u32::MAX), Duration::ZERO);
        let used =
            |engine: &Engine| f64::from(engine.kv_blocks_used()) / f64::from(engine.kv_blocks().max(1));
        let health = match engine {
            Some(_) => EngineHealth::Ready,
            None => EngineHealth::Down { reason: "connection refused".to_owned() },
        };
        EngineReport {
            id: self.endpoint.clone(),
            kind: EngineKind::Simulated,
            url: self.url.clone(),
            health: Aged::new(health, Duration::ZERO),
            version: None,
            models: full.then(|| Aged::new(self.models.clone(), Duration::ZERO)),
            running: engine.map(|engine| count(engine.running())),
            waiting: engine.map(|engine| count(engine.waiting())),
            kv_used: engine.map(|engine| Aged::new(Ratio::clamped(used(engine)), Duration::ZERO)),
            kv_capacity: engine.map(|engine| Aged::new(Tokens(engine.kv_capacity_tokens()), Duration::ZERO)),
            max_sequences: self.tells_slots.then(|| Aged::new(self.told.max_sequences, Duration::ZERO)),
            profile: Some(self.told),
            prefix_cache: None,
            work: None,
            abort: None,
            kv_bytes_per_token: None,
            gpus: Vec::new(),
            signals: Vec::new(),
        }
    }
}
