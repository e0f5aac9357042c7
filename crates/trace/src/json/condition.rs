//! A condition of an endpoint or a GPU, in the names that records, the fleet API and the event log share.

use aya_domain::{Action, Cause, Condition};
use serde::{Deserialize, Serialize};

/// One thing that was wrong with an endpoint or a GPU beneath it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConditionJson {
    /// Which rule saw it.
    pub rule: String,
    /// `note`, `derate`, `drain`, `cordon`, `fail`.
    pub action: String,
    /// What the rule asked for, where the brake held it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub braked: Option<String>,
    /// As a person would say it.
    pub cause: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed_ratio: Option<f64>,
    #[serde(default)]
    pub recovering: bool,
}

impl From<&Condition> for ConditionJson {
    fn from(condition: &Condition) -> Self {
        Self {
            rule: condition.cause.rule().to_owned(),
            action: condition.action.as_str().to_owned(),
            braked: condition.braked.map(|wanted| wanted.as_str().to_owned()),
            cause: condition.cause.to_string(),
            xid: if let Cause::Xid { code } = condition.cause { Some(code) } else { None },
            gpu: condition.gpu.as_ref().map(ToString::to_string),
            speed_ratio: match condition.action {
                Action::Derate(speed) => Some(speed.get()),
                Action::Note | Action::Limit(_) | Action::Drain | Action::Cordon | Action::Fail => None,
            },
            recovering: condition.recovering,
        }
    }
}
