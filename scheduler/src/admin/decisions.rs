//! Decisions as JSON: the records of the ring, and dry runs that place nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use aya_config::SchedulerConfig;
use aya_domain::{DecisionId, RequestId, RequestKind};
use aya_proxy::downstream::Fields;
use aya_proxy::{ApiError, ScanLimits, scan};
use aya_trace::{DecisionJson, Found, RecordJson};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::{Admin, listed, problem};
use crate::journal;
use crate::pipeline::{self, Ask, Hints, place};

/// What is read of the segments on disk for one id: about a second's work.
const SEARCH_BYTES_MAX: u64 = 1024 * 1024 * 1024;
static SEARCHES: Mutex<()> = Mutex::const_new(());

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    model: Option<String>,
    endpoint: Option<String>,
    outcome: Option<String>,
}

#[derive(Debug, Serialize)]
struct List {
    decisions: Vec<RecordJson>,
}

/// `GET /api/v1/decisions?limit=&model=&endpoint=&outcome=`: newest first.
pub(crate) async fn list(
    State(admin): State<Admin>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, "bad_query", error.body_text()),
    };
    let found = admin.ring.find(&journal::Query {
        limit: listed(query.limit),
        model: query.model,
        endpoint: query.endpoint,
        outcome: query.outcome,
    });
    Json(List { decisions: found.iter().map(|record| RecordJson::from(&**record)).collect() }).into_response()
}

/// `GET /api/v1/decisions/{id}`: by decision id or request id, in memory and then on disk, newest first.
pub(crate) async fn one(State(admin): State<Admin>, Path(id): Path<String>) -> Response {
    if let Some(record) = admin.ring.get(&id) {
        return Json(RecordJson::from(&*record)).into_response();
    }
    let unknown = |message: String| problem(StatusCode::NOT_FOUND, "unknown_decision", message);
    let kept = admin.shared.config.decisions.ring;
    let Some(dir) = admin.shared.config.decisions.dir.clone() else {
        return unknown(format!(
            "none of the newest {kept} records has this decision or request id; a request is recorded when it ends, and \
             decisions.dir keeps more"
        ));
    };
    // One search at a time: it is the disk that takes the time.
    let _turn = SEARCHES.lock().await;
    let shown = dir.display().to_string();
    match tokio::task::spawn_blocking(move || aya_trace::find(&dir, &id, SEARCH_BYTES_MAX)).await {
        Ok(Ok(Found::Record(record))) => Json(record).into_response(),
        Ok(Ok(Found::Absent)) => unknown(format!(
            "no record in {shown} has this decision or request id; a request is recorded when it ends"
        )),
        Ok(Ok(Found::GaveUp)) => unknown(format!(
            "not in the newest {} MiB of {shown}, where the search ends",
            SEARCH_BYTES_MAX / 1024 / 1024
        )),
        Ok(Err(error)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "records_unreadable", format!("{shown}: {error}"))
        }
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, "search_failed", error.to_string()),
    }
}

/// `POST /api/v1/placements:explain`: where this body would go now, and why. Places nothing.
pub(crate) async fn explain(
    State(admin): State<Admin>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(error) => return problem(error.status(), "bad_body", error.body_text()),
    };
    match dry_run(&admin, &headers, body) {
        Ok(decision) => Json(decision).into_response(),
        Err(error) => {
            let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, [(header::CONTENT_TYPE, "application/json")], error.to_json()).into_response()
        }
    }
}

fn dry_run(admin: &Admin, headers: &HeaderMap, body: Bytes) -> Result<DecisionJson, ApiError> {
    let shared = &admin.shared;
    let scanned = scan(&body, ScanLimits::DEFAULT)?;
    let kind = if scanned.messages.is_some() { RequestKind::Chat } else { RequestKind::Completion };
    let hints = Hints::read(&Fields::from(headers), shared)?;
    let policy = hints.policy.clone();
    let (now, wall) = shared.clock.present();
    let id = pipeline::fresh_id(wall, RequestId::parse);
    let prepared = pipeline::prepare(shared, &id, now, Ask { kind, body, hints })?;
    let policy = policy.unwrap_or_else(|| shared.policy_of(&prepared.request.model).clone());
    let view = Arc::clone(&shared.view.load());
    let decision = place::decide_on(&view, &prepared.request, &policy, now, shared.config.placement.seed);
    let decision_id = pipeline::fresh_id(wall, DecisionId::parse);
    Ok(DecisionJson::dry_run(&decision_id, &id, wall, &prepared.request, &decision))
}

#[derive(Serialize)]
struct Setting {
    key: String,
    value: String,
    source: String,
}

/// The configuration in force, secrets masked, with where each value comes from.
pub(crate) fn effective_config(config: &SchedulerConfig) -> serde_json::Value {
    let settings: Vec<Setting> = config
        .effective()
        .iter()
        .map(|s| Setting { key: s.key.clone(), value: s.value.clone(), source: s.origin.to_string() })
        .collect();
    serde_json::json!({ "settings": settings })
}
