//! The fleet as JSON: nodes, GPUs, endpoints, with ages. An absent value is absent, never 0.

use std::collections::BTreeMap;
use std::time::Duration;

use aya_domain::{Condition, Endpoint, EndpointId, EndpointUrl, Gpu, Health, MonoTime, Node, Reading};
use aya_trace::ConditionJson;
use serde::Serialize;

use super::engine::{CapabilitiesJson, SignalJson};
use super::learned::LearnedJson;
use super::pcie::PcieLinkJson;
use super::process::ProcessJson;
use super::queues::QueueDepth;
use crate::room::PoolDepth;
use crate::view::{Companion, FarmView};

#[derive(Debug, Serialize)]
pub(crate) struct FleetJson {
    generation: u64,
    time: String,
    nodes: Vec<NodeJson>,
    endpoints: Vec<EndpointJson>,
    /// Models that are known, with the number of endpoints that serve each.
    models: Vec<ModelJson>,
    /// Only those in which somebody waits.
    queues: Vec<QueueDepth>,
}

#[derive(Debug, Serialize)]
struct ModelJson {
    id: String,
    endpoints: usize,
}

#[derive(Debug, Serialize)]
struct NodeJson {
    id: String,
    phase: &'static str,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_reason: Option<String>,
    freshness: &'static str,
    connected: bool,
    age_ms: u64,
    agent_version: String,
    gpu_source: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_version: Option<String>,
    gpus: Vec<GpuJson>,
}

#[derive(Debug, Serialize)]
struct GpuJson {
    uuid: String,
    name: String,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_reason: Option<String>,
    conditions: Vec<SinceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_total_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_used_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_free_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature_celsius: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_milliwatts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    power_limit_milliwatts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sm_clock_mhz: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_temperature_celsius: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thermal_margin_celsius: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock_event_reasons: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sm_active_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensor_active_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dram_active_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ecc_corrected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ecc_uncorrected: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_remapped: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_remap_pending: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_remap_failed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovery_action: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    xids: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_xid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled_thermal_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throttled_power_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcie_tx_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcie_rx_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvlink_tx_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvlink_rx_bytes_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcie_replays: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pcie_link: Option<PcieLinkJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pages_retired: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page_retirement_pending: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvlink_errors: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvlinks_active: Option<u32>,
    /// `full`, `partial` or `unsupported`; absent before the first list.
    #[serde(skip_serializing_if = "Option::is_none")]
    process_view: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<Vec<ProcessJson>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
}

/// What is wrong with a GPU or an endpoint, and since when.
#[derive(Debug, Serialize)]
struct SinceJson {
    #[serde(flatten)]
    condition: ConditionJson,
    since_ms: u64,
}

fn conditions(conditions: &[Condition], now: MonoTime) -> Vec<SinceJson> {
    let json = |condition: &Condition| SinceJson {
        condition: ConditionJson::from(condition),
        since_ms: millis(now.since(condition.since)),
    };
    conditions.iter().map(json).collect()
}

#[derive(Debug, Serialize)]
struct EndpointJson {
    id: String,
    node: String,
    engine: &'static str,
    url: String,
    /// Another endpoint with this address: its load is counted twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_engine_as: Option<String>,
    models: Vec<ServedModelJson>,
    phase: &'static str,
    health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    health_reason: Option<String>,
    freshness: &'static str,
    /// By this scheduler's own ledger.
    in_flight: u32,
    prefill_tokens: u64,
    /// Load that is not ours.
    foreign_running: u32,
    foreign_waiting: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_used_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_capacity_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_sequences: Option<u32>,
    /// Of the prompt tokens since the engine's start, or over its own window.
    #[serde(skip_serializing_if = "Option::is_none")]
    prefix_hit_ratio: Option<f64>,
    /// Absent from an agent that does not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    signals: Vec<SignalJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vram_free_bytes: Option<u64>,
    /// As a share of what the profile says.
    speed_ratio: f64,
    /// What is done about it; absent: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'static str>,
    conditions: Vec<SinceJson>,
    profile: String,
    /// How the profile's cost was corrected; absent: no step was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<LearnedJson>,
    /// Left of the pause after a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    cooling_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine_version: Option<String>,
    capabilities: CapabilitiesJson,
    gpus: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ServedModelJson {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<u64>,
    /// Of an adapter: the model it rests on.
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

impl FleetJson {
    /// The whole farm at `now`.
    pub(crate) fn new(view: &FarmView, queues: &[PoolDepth], now: MonoTime, time: String) -> Self {
        let snapshot = &view.snapshot;
        let mut first_at: BTreeMap<&EndpointUrl, &EndpointId> = BTreeMap::new();
        for endpoint in &snapshot.endpoints {
            first_at.entry(&endpoint.info.url).or_insert(&endpoint.info.id);
        }
        let twin = |endpoint: &Endpoint| {
            let first = first_at.get(&endpoint.info.url).filter(|first| ***first != endpoint.info.id);
            first.map(ToString::to_string)
        };
        Self {
            generation: snapshot.generation,
            time,
            nodes: snapshot.nodes.iter().map(|node| node_json(node, now)).collect(),
            endpoints: snapshot
                .endpoints
                .iter()
                .zip(&view.companions)
                .map(|(endpoint, companion)| EndpointJson {
                    same_engine_as: twin(endpoint),
                    ..endpoint_json(endpoint, companion, now)
                })
                .collect(),
            models: snapshot
                .models
                .iter()
                .map(|(id, pool)| ModelJson { id: id.to_string(), endpoints: pool.members.len() })
                .collect(),
            queues: queues.iter().map(QueueDepth::from).collect(),
        }
    }
}

fn node_json(node: &Node, now: MonoTime) -> NodeJson {
    NodeJson {
        id: node.id.to_string(),
        phase: node.phase.as_str(),
        health: node.health.as_str(),
        health_reason: reason(&node.health),
        freshness: node.freshness.as_str(),
        connected: node.connected,
        age_ms: millis(now.since(node.last_report_at)),
        agent_version: node.agent.version.clone(),
        gpu_source: node.agent.gpu_source.as_str(),
        driver_version: node.agent.driver_version.clone(),
        gpus: node.gpus.iter().map(|gpu| gpu_json(gpu, now)).collect(),
    }
}

fn gpu_json(gpu: &Gpu, now: MonoTime) -> GpuJson {
    let sample = gpu.sample.map(|reading| reading.value).unwrap_or_default();
    GpuJson {
        uuid: gpu.info.uuid.to_string(),
        name: gpu.info.name.clone(),
        health: gpu.health.as_str(),
        health_reason: reason(&gpu.health),
        conditions: conditions(&gpu.conditions, now),
        vram_total_bytes: gpu.info.vram_total.map(|b| b.get()),
        vram_used_bytes: sample.vram_used.map(|b| b.get()),
        vram_free_bytes: sample.vram_free.map(|b| b.get()),
        busy_ratio: sample.busy.map(|r| r.get()),
        temperature_celsius: sample.temperature.map(|t| t.0),
        power_milliwatts: sample.power.map(|p| p.get()),
        power_limit_milliwatts: gpu.info.power_limit.map(|p| p.get()),
        sm_clock_mhz: sample.sm_clock_mhz,
        parent_uuid: gpu.info.mig.as_ref().map(|mig| mig.parent.to_string()),
        memory_temperature_celsius: sample.memory_temperature.map(|t| t.0),
        thermal_margin_celsius: sample.thermal_margin.map(|t| t.0),
        clock_event_reasons: sample.clock_event_reasons,
        sm_active_ratio: sample.sm_active.map(|r| r.get()),
        tensor_active_ratio: sample.tensor_active.map(|r| r.get()),
        dram_active_ratio: sample.dram_active.map(|r| r.get()),
        ecc_corrected: sample.ecc_corrected,
        ecc_uncorrected: sample.ecc_uncorrected,
        rows_remapped: sample.rows_remapped,
        row_remap_pending: sample.row_remap_pending,
        row_remap_failed: sample.row_remap_failed,
        recovery_action: sample.recovery_action,
        xids: sample.xids,
        last_xid: sample.last_xid,
        throttled_thermal_seconds: sample.throttled_thermal.map(|time| time.as_secs_f64()),
        throttled_power_seconds: sample.throttled_power.map(|time| time.as_secs_f64()),
        pcie_tx_bytes_per_second: sample.pcie_tx_bytes_per_second,
        pcie_rx_bytes_per_second: sample.pcie_rx_bytes_per_second,
        nvlink_tx_bytes_per_second: sample.nvlink_tx_bytes_per_second,
        nvlink_rx_bytes_per_second: sample.nvlink_rx_bytes_per_second,
        pcie_replays: sample.pcie_replays,
        pcie_link: sample.pcie_link.map(Into::into),
        pages_retired: sample.pages_retired,
        page_retirement_pending: sample.page_retirement_pending,
        nvlink_errors: sample.nvlink_errors,
        nvlinks_active: sample.nvlinks_active,
        process_view: gpu.processes.as_ref().map(|list| list.value.view.as_str()),
        processes: gpu.processes.as_ref().map(|list| list.value.processes.iter().map(Into::into).collect()),
        processes_age_ms: gpu.processes.as_ref().map(|list| millis(list.age(now))),
        age_ms: gpu.sample.map(|reading| millis(reading.age(now))),
    }
}

fn endpoint_json(endpoint: &Endpoint, companion: &Companion, now: MonoTime) -> EndpointJson {
    let own = companion.cell.read(now);
    let info = &endpoint.info;
    EndpointJson {
        id: info.id.to_string(),
        node: info.node.to_string(),
        engine: info.kind.as_str(),
        url: info.url.to_string(),
        same_engine_as: None,
        models: info
            .models
            .iter()
            .map(|m| ServedModelJson {
                id: m.id.to_string(),
                context_length: m.context_length.map(|t| t.get()),
                parent: m.parent.as_ref().map(ToString::to_string),
            })
            .collect(),
        phase: endpoint.phase.as_str(),
        health: endpoint.health.as_str(),
        health_reason: reason(&endpoint.health),
        freshness: endpoint.freshness.as_str(),
        in_flight: own.in_flight,
        prefill_tokens: own.prefill_tokens,
        foreign_running: endpoint.foreign.running,
        foreign_waiting: endpoint.foreign.waiting,
        running: value(endpoint.running),
        waiting: value(endpoint.waiting),
        kv_used_ratio: endpoint.kv_used.map(|reading| reading.value.get()),
        kv_capacity_tokens: info.kv_capacity.map(|t| t.get()),
        max_sequences: info.max_sequences,
        prefix_hit_ratio: endpoint.prefix_cache.and_then(|reading| reading.value.share()).map(|r| r.get()),
        signals: endpoint.signals.iter().map(SignalJson::from).collect(),
        vram_free_bytes: endpoint.vram_free.map(|reading| reading.value.get()),
        speed_ratio: endpoint.speed.get(),
        action: endpoint.conditions.first().map(|worst| worst.action.as_str()),
        conditions: conditions(&endpoint.conditions, now),
        profile: info.profile_source.clone(),
        learned: info.learned.as_ref().map(LearnedJson::from),
        cooling_ms: own.cooling_until.map(|until| millis(until.since(now))),
        age_ms: endpoint.sampled_at.map(|at| millis(now.since(at))),
        engine_version: info.version.clone(),
        capabilities: CapabilitiesJson::of(info.kind, info.abort),
        gpus: info.gpus.iter().map(ToString::to_string).collect(),
    }
}

fn value(reading: Option<Reading<u32>>) -> Option<u32> {
    reading.map(|r| r.value)
}

fn reason(health: &Health) -> Option<String> {
    match health {
        Health::Unknown | Health::Healthy => None,
        Health::Degraded { reason } | Health::Unhealthy { reason } => Some(reason.clone()),
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
