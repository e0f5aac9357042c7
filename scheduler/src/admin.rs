//! The operators' listener: health, metrics, the fleet, decisions, dry runs, drain.
//!
//! Loopback by default and without authentication: whoever reaches it operates the farm. It runs beside telemetry, away
//! from the threads that relay.

mod decisions;
mod engine;
mod events;
mod fleet;
mod learned;
mod pcie;
mod process;
mod queues;
mod scrape;
mod serve;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use aya_domain::{EndpointId, NodeId};
use aya_fleet::Target;
use serde::Serialize;

pub(crate) use serve::serve;

use crate::journal::Ring;
use crate::shared::Shared;
use crate::telemetry::{Drained, FleetHandle};

/// What the handlers need.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) fleet: FleetHandle,
    pub(crate) ring: Arc<Ring>,
}

/// All routes.
pub(crate) fn router(admin: Admin) -> Router {
    let body_max = admin.shared.config.limits.body_max;
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/api/v1/fleet", get(fleet))
        .route("/api/v1/queues", get(queues::list))
        .route("/api/v1/config", get(config))
        .route("/api/v1/decisions", get(decisions::list))
        .route("/api/v1/decisions/{id}", get(decisions::one))
        .route("/api/v1/events", get(events::list))
        .route("/api/v1/gpus/{target}", post(events::operate_gpu))
        .route("/api/v1/placements:explain", post(decisions::explain))
        .route("/api/v1/nodes/{target}", post(operate_node))
        .route("/api/v1/endpoints/{target}", post(operate_endpoint))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        // A dry run takes what the clients' side takes.
        .layer(DefaultBodyLimit::max(body_max))
        .with_state(admin)
}

/// An error in the same shape as the clients' side, so that one reader serves both.
pub(crate) fn problem(status: StatusCode, code: &'static str, message: impl Into<String>) -> Response {
    let error = aya_proxy::ApiError::new(status.as_u16(), "admin_error", message).code(code);
    (status, [(header::CONTENT_TYPE, "application/json")], error.to_json()).into_response()
}

/// Entries in the answer to a list, for as many as were asked for.
pub(crate) fn listed(asked: Option<usize>) -> usize {
    const MAX: usize = 1_000;
    const DEFAULT: usize = 50;
    asked.unwrap_or(DEFAULT).min(MAX)
}

async fn unknown() -> Response {
    problem(
        StatusCode::NOT_FOUND,
        "unknown_path",
        "unknown path; see /api/v1/fleet, /api/v1/decisions, /api/v1/events, /metrics",
    )
}

async fn wrong_method() -> Response {
    problem(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        "this path has another method; see the Allow header",
    )
}

#[derive(Serialize)]
struct Status {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// Alive: the process answers; degraded: with something wrong that a restart would not mend.
async fn healthz(State(admin): State<Admin>) -> Json<Status> {
    let reason = admin.shared.problems().first().copied();
    Json(Status { status: if reason.is_some() { "degraded" } else { "ok" }, reason })
}

/// Ready: a new request could be placed.
async fn readyz(State(admin): State<Admin>) -> (StatusCode, Json<Status>) {
    let view = admin.shared.view.load();
    let reason = if admin.shared.stopping.is_draining() {
        Some("shutting down")
    } else if view.ready() == 0 {
        Some("no endpoint is ready")
    } else {
        None
    };
    match reason {
        None => (StatusCode::OK, Json(Status { status: "ready", reason })),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, Json(Status { status: "not ready", reason })),
    }
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

async fn version() -> Json<Version> {
    Json(Version { name: "aya", version: env!("CARGO_PKG_VERSION") })
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let shared = &admin.shared;
    match scrape::render(&shared.metrics, &shared.view.load(), &shared.room, shared.clock.now()) {
        Ok(text) => ([(header::CONTENT_TYPE, aya_observe::metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "metrics_failed", error.to_string()),
    }
}

#[derive(Serialize)]
struct Fleet {
    #[serde(flatten)]
    fleet: fleet::FleetJson,
    /// What is wrong with the scheduler itself.
    problems: Vec<&'static str>,
}

async fn fleet(State(admin): State<Admin>) -> Json<Fleet> {
    let now = admin.shared.clock.now();
    let time = admin.shared.clock.wall(now).to_string();
    let fleet = fleet::FleetJson::new(&admin.shared.view.load(), &admin.shared.room.depths(), now, time);
    Json(Fleet { fleet, problems: admin.shared.problems() })
}

async fn config(State(admin): State<Admin>) -> Json<serde_json::Value> {
    Json(decisions::effective_config(&admin.shared.config))
}

async fn operate_node(State(admin): State<Admin>, Path(target): Path<String>) -> Response {
    operate(&admin, &target, |id| NodeId::parse(id).ok().map(Target::Node)).await
}

async fn operate_endpoint(State(admin): State<Admin>, Path(target): Path<String>) -> Response {
    operate(&admin, &target, |id| EndpointId::parse(id).ok().map(Target::Endpoint)).await
}

#[derive(Serialize)]
struct Operated<'a> {
    id: &'a str,
    draining: bool,
}

/// `ID:drain` and `ID:undrain`.
async fn operate(admin: &Admin, target: &str, parse: impl Fn(&str) -> Option<Target>) -> Response {
    let (id, on) = match target.rsplit_once(':') {
        Some((id, "drain")) => (id, true),
        Some((id, "undrain")) => (id, false),
        Some(_) | None => {
            return problem(StatusCode::NOT_FOUND, "unknown_action", "use ID:drain or ID:undrain");
        }
    };
    let unknown = || problem(StatusCode::NOT_FOUND, "unknown_id", format!("the fleet does not know {id:?}"));
    let Some(target) = parse(id) else { return unknown() };
    match admin.fleet.drain(target.clone(), on).await {
        Ok(Drained::Done) => match admin.shared.state.note(target, on).await {
            Ok(()) => Json(Operated { id, draining: on }).into_response(),
            Err(error) => {
                let message = format!("done, but it will not survive a restart: {error}");
                problem(StatusCode::INTERNAL_SERVER_ERROR, "state_not_kept", message)
            }
        },
        Ok(Drained::Unknown) => unknown(),
        Ok(Drained::Refused) => {
            let message = "too many nodes and endpoints are draining; undrain some that are gone";
            problem(StatusCode::SERVICE_UNAVAILABLE, "too_many_drains", message)
        }
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", error.to_string()),
    }
}
