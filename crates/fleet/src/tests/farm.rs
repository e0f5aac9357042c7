//! A farm to tell stories about: short words for reports, events and what they led to.

use std::time::Duration;

use aya_domain::{
    Aged, AgentHealth, BootId, Bytes, Endpoint, EndpointId, EndpointUrl, EngineHealth, EngineKind,
    EngineReport, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid, ModelId, MonoTime, NodeId, Report,
    ReportKind, ServedModel, Snapshot, Tokens,
};

use crate::{Effects, Event, Fleet, OwnInFlight, Params, Target, invariants};

pub(super) fn at(ms: u64) -> MonoTime {
    MonoTime::from_millis(ms)
}

pub(super) fn node_id(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

pub(super) fn endpoint_id(name: &str) -> EndpointId {
    EndpointId::parse(name).unwrap()
}

pub(super) fn model_id(name: &str) -> ModelId {
    ModelId::parse(name).unwrap()
}

pub(super) fn aged<T>(value: T) -> Aged<T> {
    Aged::new(value, Duration::ZERO)
}

fn served(model: &str) -> ServedModel {
    ServedModel { id: model_id(model), context_length: Some(Tokens(8_192)), parent: None }
}

/// A ready engine that serves `model` and says nothing about its load.
pub(super) fn engine(id: &str, model: &str) -> EngineReport {
    EngineReport {
        id: endpoint_id(id),
        kind: EngineKind::Vllm,
        url: EndpointUrl::parse(&format!("http://{id}:8000")).unwrap(),
        health: aged(EngineHealth::Ready),
        version: None,
        models: Some(aged(vec![served(model)])),
        running: None,
        waiting: None,
        kv_used: None,
        kv_capacity: None,
        max_sequences: None,
        profile: None,
        prefix_cache: None,
        work: None,
        abort: None,
        kv_bytes_per_token: None,
        gpus: Vec::new(),
        signals: Vec::new(),
    }
}

/// The same with its requests counted this long ago.
pub(super) fn loaded(id: &str, running: u32, waiting: u32, age_ms: u64) -> EngineReport {
    let age = Duration::from_millis(age_ms);
    EngineReport {
        running: Some(Aged::new(running, age)),
        waiting: Some(Aged::new(waiting, age)),
        ..engine(id, "m")
    }
}

pub(super) fn with_health(engine: EngineReport, health: EngineHealth) -> EngineReport {
    EngineReport { health: aged(health), ..engine }
}

pub(super) fn gpu(uuid: &str, name: &str, free: Option<u64>) -> GpuReport {
    GpuReport {
        info: GpuInfo {
            uuid: GpuUuid::parse(uuid).unwrap(),
            name: name.to_owned(),
            vram_total: None,
            power_limit: None,
            sm_clock_max_mhz: None,
            slowdown_margin: None,
            mig: None,
        },
        sample: Some(aged(GpuSample { vram_free: free.map(Bytes), ..GpuSample::default() })),
        processes: None,
    }
}

pub(super) fn report(
    node: &str,
    boot: u64,
    sequence: u64,
    kind: ReportKind,
    engines: Vec<EngineReport>,
) -> Report {
    Report {
        node: node_id(node),
        boot: BootId(boot),
        sequence,
        kind,
        agent: AgentHealth {
            version: "test".to_owned(),
            gpu_source: GpuSourceKind::None,
            driver_version: None,
            gpu_error: None,
            period: Duration::from_millis(250),
        },
        gpus: Vec::new(),
        engines,
    }
}

pub(super) fn full(node: &str, boot: u64, sequence: u64, engines: Vec<EngineReport>) -> Report {
    report(node, boot, sequence, ReportKind::Full, engines)
}

pub(super) fn delta(node: &str, boot: u64, sequence: u64, engines: Vec<EngineReport>) -> Report {
    report(node, boot, sequence, ReportKind::Delta, engines)
}

/// A fleet and its last snapshot.
pub(super) struct Farm {
    pub(super) fleet: Fleet,
    last: Snapshot,
}

impl Farm {
    pub(super) fn new() -> Self {
        Self::with(Params::DEFAULT)
    }

    pub(super) fn with(params: Params) -> Self {
        Self { fleet: Fleet::new(params), last: Snapshot::empty() }
    }

    pub(super) fn apply(&mut self, ms: u64, event: Event) -> Effects {
        self.fleet.apply(event, at(ms))
    }

    pub(super) fn report(&mut self, ms: u64, report: Report) -> Effects {
        self.apply(ms, Event::Report { report: Box::new(report), received_at: at(ms) })
    }

    pub(super) fn tick(&mut self, ms: u64) -> Effects {
        self.apply(ms, Event::Tick)
    }

    pub(super) fn own(&mut self, ms: u64, id: &str, in_flight: u32, decoding: u32) -> Effects {
        let own = OwnInFlight { in_flight, decoding, kv_tokens: 0 };
        self.apply(ms, Event::OwnLoad { at: at(ms), loads: vec![(endpoint_id(id), own)] })
    }

    pub(super) fn drain_endpoint(&mut self, ms: u64, id: &str) -> Effects {
        self.apply(ms, Event::Drain(Target::Endpoint(endpoint_id(id))))
    }

    /// A snapshot that keeps all rules.
    pub(super) fn snapshot(&mut self, ms: u64) -> Snapshot {
        let next = self.fleet.snapshot(at(ms));
        assert_eq!(invariants::check(&next), Ok(()));
        assert_eq!(invariants::check_succession(&self.last, &next), Ok(()));
        self.last = next.clone();
        next
    }

    pub(super) fn endpoint(&mut self, ms: u64, id: &str) -> Endpoint {
        let snapshot = self.snapshot(ms);
        let index = snapshot.index_of(&endpoint_id(id)).unwrap();
        snapshot.endpoint(index).unwrap().clone()
    }

    /// The ids of the endpoints.
    pub(super) fn ids(&mut self, ms: u64) -> Vec<String> {
        self.snapshot(ms).directory.iter().map(ToString::to_string).collect()
    }
}

/// What an event led to, as an operator reads it.
pub(super) fn said(effects: &Effects) -> Vec<String> {
    effects.notices.iter().map(ToString::to_string).collect()
}
