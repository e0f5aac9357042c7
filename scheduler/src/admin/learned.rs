//! What was learned about the cost of an endpoint, as JSON.

use aya_domain::{Learned, LearnedCost};
use serde::Serialize;

/// Corrections of an endpoint's cost.
#[derive(Debug, Serialize)]
pub(super) struct LearnedJson {
    /// Of iterations that only decode.
    decode: FactorJson,
    /// Of prompts.
    prefill: FactorJson,
}

#[derive(Debug, Serialize)]
struct FactorJson {
    /// What predicted seconds are multiplied with; 1 unless `used`.
    factor: f64,
    /// Whether it predicts better than the prior, on enough samples.
    used: bool,
    /// Steps that taught, of the whole class of hardware.
    samples: u32,
    /// Mean relative errors of the predictions, each made before the step was known; absent without samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    prior_error_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    learned_error_ratio: Option<f64>,
}

impl From<&LearnedCost> for LearnedJson {
    fn from(learned: &LearnedCost) -> Self {
        Self { decode: (&learned.decode).into(), prefill: (&learned.prefill).into() }
    }
}

impl From<&Learned> for FactorJson {
    fn from(learned: &Learned) -> Self {
        let known = |error: f64| (learned.samples > 0).then_some(error);
        Self {
            factor: learned.factor,
            used: learned.is_used,
            samples: learned.samples,
            prior_error_ratio: known(learned.prior_error),
            learned_error_ratio: known(learned.learned_error),
        }
    }
}
