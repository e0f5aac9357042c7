//! What a client is told when no endpoint takes its request: one table.

use aya_admission::retry_after_wait_s;
use aya_domain::{Health, HoldReason, ModelId, Phase, RefusalReason, Request, Tokens};
use aya_proxy::ApiError;

use super::place::NotPlaced;
use crate::http::respond;
use crate::shared::Shared;
use crate::view::FarmView;

/// What a client waits before it asks for a model without a ready endpoint again, in seconds.
const NOT_READY_RETRY_S: u32 = 5;
/// Endpoints that an error names.
const NAMED_MAX: usize = 5;

/// The error for a request that was not placed.
pub(super) fn error(shared: &Shared, request: &Request, reason: &NotPlaced) -> ApiError {
    let model = &request.model;
    match reason {
        NotPlaced::Refused(RefusalReason::UnknownModel) => {
            let view = shared.view.load();
            loading(shared, &view, model)
                .unwrap_or_else(|| respond::unknown_model(model.as_str(), &shared.known_models(&view)))
        }
        NotPlaced::Refused(RefusalReason::TooLong { need, largest }) => too_long(*need, *largest),
        NotPlaced::WaitedOut(HoldReason::NoneReady) => {
            ApiError::new(503, "unavailable_error", format!("no endpoint of `{model}` is ready"))
                .code("no_endpoint_ready")
                .retry_after_s(NOT_READY_RETRY_S)
        }
        NotPlaced::WaitedOut(HoldReason::AllFull) => {
            ApiError::new(503, "unavailable_error", format!("every endpoint of `{model}` stayed full"))
                .code("queue_timeout")
                .retry_after_s(retry_after_s(shared, request))
        }
        NotPlaced::DeadlineExceeded(held) => {
            let why = match held {
                Some(HoldReason::AllFull) => format!(": every endpoint of `{model}` stayed full"),
                Some(HoldReason::NoneReady) => format!(": no endpoint of `{model}` is ready"),
                None => String::new(),
            };
            let ms = request.deadline.map_or(0, |deadline| deadline.since(request.arrived_at).as_millis());
            let message = format!("not sent within its deadline of {ms} ms (x-aya-deadline-ms){why}");
            ApiError::new(503, "unavailable_error", message)
                .code("deadline_exceeded")
                .retry_after_s(retry_after_s(shared, request))
        }
        NotPlaced::QueueFull { limit } => {
            ApiError::new(429, "rate_limit_error", format!("{limit} requests already wait for `{model}`"))
                .code("queue_full")
                .retry_after_s(retry_after_s(shared, request))
        }
        NotPlaced::Displaced => {
            let message = format!("a more urgent request took the place in the queue of `{model}`");
            ApiError::new(429, "rate_limit_error", message)
                .code("displaced")
                .retry_after_s(retry_after_s(shared, request))
        }
        NotPlaced::Shed(shed) => {
            let message = format!("`{model}` is overloaded for {} requests: {shed}", request.priority);
            ApiError::new(429, "rate_limit_error", message)
                .code("overloaded")
                .retry_after_s(u32::try_from(retry_after_wait_s(Some(shed.predicted_s))).unwrap_or(u32::MAX))
        }
    }
}

/// When somebody who comes now would be placed, as the queue drains.
fn retry_after_s(shared: &Shared, request: &Request) -> u32 {
    let (_, wait_s) = shared.room.outlook(&request.model, request.priority, &request.tenant);
    u32::try_from(retry_after_wait_s(wait_s)).unwrap_or(u32::MAX)
}

/// 503 for a model that nobody serves while an engine starts that has not told yet what it serves: it may be its own.
fn loading(shared: &Shared, view: &FarmView, model: &ModelId) -> Option<ApiError> {
    let (now, grace) = (shared.clock.now(), shared.config.placement.starting_grace);
    let mut named: Vec<String> = Vec::new();
    for (endpoint, companion) in view.snapshot.endpoints.iter().zip(&view.companions) {
        let why = match (&endpoint.phase, &endpoint.health) {
            _ if !endpoint.info.models.is_empty() || named.len() == NAMED_MAX => continue,
            (Phase::Gone, _) => continue,
            // By its own word, for as long as it says so.
            (Phase::Joining, _) => "loading",
            _ if now.since(companion.since) >= grace => continue,
            (_, Health::Unhealthy { .. }) => "not up yet",
            _ => "not read yet",
        };
        named.push(format!("{} ({why})", endpoint.info.id));
    }
    if named.is_empty() {
        return None;
    }
    let known: Vec<String> = shared.known_models(view).iter().map(ToString::to_string).collect();
    let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
    let message = format!(
        "no endpoint serves `{model}` now; these have not said yet what they serve: {}; known: {known}",
        named.join(", ")
    );
    let error = ApiError::new(503, "unavailable_error", message).code("model_loading");
    Some(error.retry_after_s(NOT_READY_RETRY_S))
}

fn too_long(need: Tokens, largest: Tokens) -> ApiError {
    let message = format!("this request needs at least {need}; the largest context available is {largest}");
    ApiError::invalid_request(message).code("context_length_exceeded").param("max_tokens")
}
