//! What an endpoint's engine is, as JSON: whether its readings work, and how its kind behaves.

use aya_domain::{AbortPolicy, EngineKind, FirstEvent, HeadersWhen, KvAllocation, Overload, SignalReport};
use serde::Serialize;

/// Whether one reading of an engine works.
#[derive(Debug, Serialize)]
pub(super) struct SignalJson {
    signal: &'static str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<&SignalReport> for SignalJson {
    fn from(told: &SignalReport) -> Self {
        let (signal, state) = (told.signal.as_str(), told.state.as_str());
        Self { signal, state, reason: told.reason.clone() }
    }
}

/// What placement and relay go by. Absent: not known of this kind.
#[derive(Debug, Serialize)]
pub(super) struct CapabilitiesJson {
    /// `preallocated`, `slots`, `on_demand`.
    kv_allocation: &'static str,
    /// `at_once`: a 200 says nothing about admission; `first_token`.
    headers: &'static str,
    /// `with_first_token`, `before_work`.
    first_event: &'static str,
    /// When a client leaves: `cancel`, `drain`. By kind, or as the agent's configuration says.
    abort: &'static str,
    notices_disconnect_without_stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks_model: Option<bool>,
    /// Absent: no limit is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_flight_beyond_slots: Option<u32>,
    /// The status beyond its limit; absent: requests wait inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    refuses_with: Option<u16>,
    health_path: &'static str,
}

impl CapabilitiesJson {
    pub(super) fn of(kind: EngineKind, abort: AbortPolicy) -> Self {
        let is = kind.capabilities();
        Self {
            kv_allocation: match is.kv {
                KvAllocation::Preallocated => "preallocated",
                KvAllocation::Slots => "slots",
                KvAllocation::OnDemand => "on_demand",
            },
            headers: match is.headers {
                HeadersWhen::AtOnce => "at_once",
                HeadersWhen::FirstToken => "first_token",
            },
            first_event: match is.first_event {
                FirstEvent::WithFirstToken => "with_first_token",
                FirstEvent::BeforeWork => "before_work",
            },
            abort: abort.as_str(),
            notices_disconnect_without_stream: is.notices_disconnect_without_stream,
            checks_model: is.checks_model,
            in_flight_beyond_slots: is.in_flight_beyond_slots,
            refuses_with: match is.overload {
                Overload::Waits => None,
                Overload::Refuses(status) => Some(status),
            },
            health_path: is.health_path,
        }
    }
}
