//! The fleet as the admin API gives it, the part that tables show. What a scheduler does not tell is absent.

use aya_trace::ConditionJson;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
pub(crate) struct FleetJson {
    pub(crate) generation: u64,
    pub(crate) time: String,
    pub(crate) nodes: Vec<NodeJson>,
    pub(crate) endpoints: Vec<EndpointJson>,
    /// Empty: nobody waits, or the scheduler does not say.
    #[serde(default)]
    pub(crate) queues: Vec<QueueJson>,
    /// What is wrong with the scheduler itself.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
}

/// Who waits for a model.
#[derive(Debug, Deserialize)]
pub(crate) struct QueueJson {
    pub(crate) model: String,
    pub(crate) waiting: u64,
    pub(crate) oldest_waited_ms: f64,
}

#[derive(Debug, Deserialize)]
pub(crate) struct NodeJson {
    pub(crate) id: String,
    pub(crate) phase: String,
    pub(crate) health: String,
    pub(crate) health_reason: Option<String>,
    pub(crate) freshness: String,
    pub(crate) connected: bool,
    pub(crate) age_ms: f64,
    pub(crate) agent_version: String,
    pub(crate) gpu_source: String,
    pub(crate) gpus: Vec<GpuJson>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct GpuJson {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) health: String,
    pub(crate) health_reason: Option<String>,
    pub(crate) vram_total_bytes: Option<u64>,
    pub(crate) vram_used_bytes: Option<u64>,
    pub(crate) busy_ratio: Option<f64>,
    pub(crate) temperature_celsius: Option<i32>,
    pub(crate) power_milliwatts: Option<u64>,
    pub(crate) age_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct EndpointJson {
    pub(crate) id: String,
    pub(crate) node: String,
    pub(crate) engine: String,
    pub(crate) same_engine_as: Option<String>,
    pub(crate) models: Vec<ServedModelJson>,
    pub(crate) phase: String,
    pub(crate) health: String,
    pub(crate) health_reason: Option<String>,
    pub(crate) freshness: String,
    pub(crate) in_flight: u32,
    pub(crate) running: Option<u32>,
    pub(crate) waiting: Option<u32>,
    pub(crate) kv_used_ratio: Option<f64>,
    pub(crate) max_sequences: Option<u32>,
    /// Empty: the scheduler does not say.
    #[serde(default)]
    pub(crate) signals: Vec<SignalJson>,
    pub(crate) cooling_ms: Option<f64>,
    pub(crate) speed_ratio: Option<f64>,
    #[serde(default)]
    pub(crate) conditions: Vec<ConditionJson>,
    pub(crate) age_ms: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SignalJson {
    pub(crate) signal: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ServedModelJson {
    pub(crate) id: String,
}

impl EndpointJson {
    /// What keeps requests away although its engine is well: `drain`, `cordon`, `fail`.
    pub(crate) fn excluded_by(&self) -> Option<&ConditionJson> {
        self.conditions.iter().find(|c| matches!(c.action.as_str(), "drain" | "cordon" | "fail"))
    }

    /// What its breaker says where that keeps requests away or lets only a few in.
    pub(crate) fn breaker(&self) -> Option<&str> {
        let mut rules = self.conditions.iter().map(|c| c.rule.as_str());
        rules.find(|rule| matches!(*rule, "ejected" | "wedged" | "half_open"))
    }

    /// Whether it takes requests as far as anyone knows.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == "serving"
            && (self.health == "healthy" || self.health == "degraded")
            && self.excluded_by().is_none()
    }
}
