//! How a request was let in, or refused for a predicted wait, as JSON.

use aya_admission::Shed;
use serde::{Deserialize, Serialize};

use super::finite;
use crate::record::{Admission, WaitedFor};

/// How a request was let in, or why not; stands among the fields of the record.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct AdmissionJson {
    /// How many stood before it when it first waited; absent: it did not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_position: Option<u64>,
    /// What it first waited for; absent: it did not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_for: Option<WaitedFor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shed: Option<ShedJson>,
}

impl From<&Admission> for AdmissionJson {
    fn from(admission: &Admission) -> Self {
        Self {
            queue_position: admission.position.and_then(|position| u64::try_from(position).ok()),
            waited_for: admission.waited_for,
            shed: admission.shed.as_ref().map(shed_json),
        }
    }
}

/// Why a request was refused for what was predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShedJson {
    /// `queueing`, `deadline` or `misses`.
    pub reason: String,
    /// Seconds that it would have lost to others; for `misses` the pool's mean predicted time to the first token.
    pub predicted_s: Option<f64>,
    /// Seconds that it was allowed to lose; for `misses` its objective for the time to the first token.
    pub allowed_s: Option<f64>,
    /// How many misses per request are predicted in the pool, and how many are allowed; for `misses` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_misses_ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_misses_ratio: Option<f64>,
    pub probability: f64,
}

fn shed_json(shed: &Shed) -> ShedJson {
    ShedJson {
        reason: shed.reason.as_str().to_owned(),
        predicted_s: finite(shed.predicted_s),
        allowed_s: finite(shed.allowed_s),
        predicted_misses_ratio: shed.predicted_misses_ratio.and_then(finite),
        allowed_misses_ratio: shed.allowed_misses_ratio.and_then(finite),
        probability: shed.probability,
    }
}
