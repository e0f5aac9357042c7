//! What a simulated agent would report about its engine: the same `Report` that arrives over the wire.
//!
//! One node per engine. The first report is FULL, the others name only the engine.

use std::time::Duration;

use aya_domain::{
    Aged, AgentHealth, BootId, EndpointId, EndpointUrl, EngineHealth, EngineKind, EngineReport,
    GpuSourceKind, IdError, ModelId, NodeId, Ratio, Report, ReportKind, ServedModel, Tokens,
};
use aya_estimate::NamedProfile;
use aya_sim_engine::Engine;

/// The agent beside one engine.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) endpoint: EndpointId,
    node: NodeId,
    url: EndpointUrl,
    models: Vec<ServedModel>,
    named: &'static NamedProfile,
    period: Duration,
    /// Whether the limit on sequences is told, so that the scheduler holds what exceeds it.
    tells_slots: bool,
    sequence: u64,
}

impl Agent {
    /// The agent of the engine at this position; ids sort by position.
    pub(crate) fn new(
        position: usize,
        named: &'static NamedProfile,
        model: &ModelId,
        period: Duration,
        tells_slots: bool,
    ) -> Result<Self, IdError> {
        let name = format!("{position:05}-{}", named.name);
        let context_length = Some(named.context_length);
        Ok(Self {
            endpoint: EndpointId::parse(&name)?,
            node: NodeId::parse(&name)?,
            url: EndpointUrl::parse("http://127.0.0.1:1")?,
            models: vec![ServedModel { id: model.clone(), context_length }],
            named,
            period,
            tells_slots,
            sequence: 0,
        })
    }

    /// A report of this instant.
    pub(crate) fn report(&mut self, engine: &Engine) -> Report {
        self.sequence += 1;
        let full = self.sequence == 1;
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

    fn engine_report(&self, engine: &Engine, full: bool) -> EngineReport {
        let count = |n: usize| now(u32::try_from(n).unwrap_or(u32::MAX));
        let used = f64::from(engine.kv_blocks_used()) / f64::from(engine.kv_blocks().max(1));
        EngineReport {
            id: self.endpoint.clone(),
            kind: EngineKind::Simulated,
            url: self.url.clone(),
            health: Aged::new(EngineHealth::Ready, Duration::ZERO),
            version: None,
            models: full.then(|| Aged::new(self.models.clone(), Duration::ZERO)),
            running: count(engine.running()),
            waiting: count(engine.waiting()),
            kv_used: now(Ratio::clamped(used)),
            kv_capacity: now(Tokens(engine.kv_capacity_tokens())),
            max_sequences: self
                .tells_slots
                .then(|| Aged::new(self.named.profile.max_sequences, Duration::ZERO)),
            profile: Some(self.named.profile),
            kv_bytes_per_token: None,
            gpus: Vec::new(),
        }
    }
}

fn now<T>(value: T) -> Option<Aged<T>> {
    Some(Aged::new(value, Duration::ZERO))
}
