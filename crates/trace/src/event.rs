//! What happened to the farm, in the names of `GET /api/v1/events`. Readers take unknown fields of newer writers.

use serde::{Deserialize, Serialize};

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventJson {
    /// Counts up by one per event of a start of the scheduler.
    pub id: u64,
    /// RFC 3339.
    pub time: String,
    /// The same as seconds since 1970.
    pub time_unix_s: f64,
    /// `info`, `warning`, `error`; an error keeps requests away.
    pub severity: String,
    /// A stable name, such as `health_raised`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// The endpoints it is about: those above the GPU, where it is about one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Of a health rule: its name, and what it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// What the rule saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xid: Option<u32>,
    /// As a person would say it.
    pub message: String,
}
