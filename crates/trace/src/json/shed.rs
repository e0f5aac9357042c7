//! A refusal for a predicted wait, as JSON.

use aya_admission::Shed;
use serde::{Deserialize, Serialize};

use super::finite;

/// Why a request was refused for what was predicted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShedJson {
    /// `queueing` or `deadline`.
    pub reason: String,
    /// Seconds that it would have lost to others.
    pub predicted_s: Option<f64>,
    /// Seconds that it was allowed to lose.
    pub allowed_s: Option<f64>,
    pub probability: f64,
}

pub(super) fn shed_json(shed: &Shed) -> ShedJson {
    ShedJson {
        reason: shed.reason.as_str().to_owned(),
        predicted_s: finite(shed.predicted_s),
        allowed_s: finite(shed.allowed_s),
        probability: shed.probability,
    }
}
