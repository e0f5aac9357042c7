//! Why an endpoint did not take a request, in the names of the contract.

use aya_domain::{Condition, Rejection};
use serde::{Deserialize, Serialize};

use super::{finite, millis};

/// Why an endpoint cannot take a request, with the numbers behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RejectionJson {
    ModelNotServed,
    NotServing {
        phase: String,
    },
    Unhealthy,
    HealthUnknown,
    GpuFault {
        action: String,
        rule: String,
        cause: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gpu: Option<String>,
    },
    Ejected {
        cause: String,
        remaining_ms: f64,
    },
    Wedged {
        silent_ms: f64,
    },
    OnTrial {
        in_flight: u32,
        limit: u32,
    },
    Thinned {
        share_ratio: f64,
    },
    AlreadyTried,
    Cooling {
        remaining_ms: f64,
    },
    ContextTooLong {
        need_tokens: u64,
        limit_tokens: u64,
        /// Even the smallest possible token count is too long.
        certain: bool,
    },
    KvPoolTooSmall {
        need_tokens: u64,
        limit_tokens: u64,
    },
    VramShort {
        need_bytes: u64,
        free_bytes: u64,
    },
    SlotsFull {
        in_flight: u32,
        limit: u32,
    },
    Backlogged {
        wait_s: Option<f64>,
        limit_s: Option<f64>,
    },
    /// A newer writer's word.
    #[serde(other)]
    Unknown,
}

pub(crate) fn rejection_json(rejection: &Rejection, conditions: &[Condition]) -> RejectionJson {
    match *rejection {
        Rejection::ModelNotServed => RejectionJson::ModelNotServed,
        Rejection::NotServing { phase } => RejectionJson::NotServing { phase: phase.as_str().to_owned() },
        Rejection::Unhealthy => RejectionJson::Unhealthy,
        Rejection::HealthUnknown => RejectionJson::HealthUnknown,
        Rejection::GpuFault { action, cause } => {
            let gpu = conditions.iter().find(|c| c.cause == cause).and_then(|c| c.gpu.as_ref());
            RejectionJson::GpuFault {
                action: action.as_str().to_owned(),
                rule: cause.rule().to_owned(),
                cause: cause.to_string(),
                gpu: gpu.map(ToString::to_string),
            }
        }
        Rejection::Ejected { trip, remaining } => {
            RejectionJson::Ejected { cause: trip.to_string(), remaining_ms: millis(remaining) }
        }
        Rejection::Wedged { silent } => RejectionJson::Wedged { silent_ms: millis(silent) },
        Rejection::OnTrial { in_flight, limit } => RejectionJson::OnTrial { in_flight, limit },
        Rejection::Thinned { share } => RejectionJson::Thinned { share_ratio: share.get() },
        Rejection::AlreadyTried => RejectionJson::AlreadyTried,
        Rejection::Cooling { remaining } => RejectionJson::Cooling { remaining_ms: millis(remaining) },
        Rejection::ContextTooLong { need, limit, certain } => {
            RejectionJson::ContextTooLong { need_tokens: need.get(), limit_tokens: limit.get(), certain }
        }
        Rejection::KvPoolTooSmall { need, limit } => {
            RejectionJson::KvPoolTooSmall { need_tokens: need.get(), limit_tokens: limit.get() }
        }
        Rejection::VramShort { need, free } => {
            RejectionJson::VramShort { need_bytes: need.get(), free_bytes: free.get() }
        }
        Rejection::SlotsFull { in_flight, limit } => RejectionJson::SlotsFull { in_flight, limit },
        Rejection::Backlogged { wait_s, limit_s } => {
            RejectionJson::Backlogged { wait_s: finite(wait_s), limit_s: finite(limit_s) }
        }
    }
}
