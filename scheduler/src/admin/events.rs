//! `GET /api/v1/events` and what operators do to GPUs.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use aya_domain::GpuUuid;
use aya_trace::EventJson;
use serde::{Deserialize, Serialize};

use super::{Admin, listed, problem};
use crate::events::{self, Since};
use crate::telemetry::Drained;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    node: Option<String>,
    endpoint: Option<String>,
    gpu: Option<String>,
    kind: Option<String>,
    since: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    events: Vec<EventJson>,
}

/// `GET /api/v1/events?limit=&node=&endpoint=&gpu=&kind=&since=`: newest first; `since` is an id or a time.
pub(crate) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "bad_query", error.body_text()),
    };
    let since = match query.since.as_deref().map(|text| Since::parse(text).ok_or(text)) {
        None => None,
        Some(Ok(since)) => Some(since),
        Some(Err(text)) => {
            let message =
                format!("since: {text:?} is neither an event's id nor a time such as 2026-11-21T04:24:34Z");
            return problem(StatusCode::BAD_REQUEST, "bad_query", message);
        }
    };
    let events = admin.shared.events.find(&events::Query {
        limit: listed(query.limit),
        node: query.node,
        endpoint: query.endpoint,
        gpu: query.gpu,
        kind: query.kind,
        since,
    });
    Json(List { events }).into_response()
}

#[derive(Serialize)]
struct Cleared<'a> {
    gpu: &'a str,
    cleared: bool,
}

/// `POST /api/v1/gpus/{uuid}:clear`: an operator says that a GPU is good again.
pub(crate) async fn operate_gpu(State(admin): State<Admin>, Path(target): Path<String>) -> Response {
    let Some(uuid) = target.strip_suffix(":clear") else {
        return problem(StatusCode::NOT_FOUND, "unknown_action", "use UUID:clear");
    };
    let unknown =
        || problem(StatusCode::NOT_FOUND, "unknown_id", format!("the fleet does not know GPU {uuid:?}"));
    let Ok(gpu) = GpuUuid::parse(uuid) else { return unknown() };
    match admin.fleet.clear_gpu(gpu).await {
        Ok(Drained::Done) => Json(Cleared { gpu: uuid, cleared: true }).into_response(),
        Ok(Drained::Unknown | Drained::Refused) => unknown(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", error.to_string()),
    }
}
