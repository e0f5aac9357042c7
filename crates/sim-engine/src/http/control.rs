//! The simulator's own paths: its true books, and its faults.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::App;
use super::body::parse;
use super::error::ApiError;
use crate::faults::Faults;

/// The engine's own counts, whatever `/metrics` claims, and the last requests in order of arrival.
pub(super) async fn state(State(app): State<Arc<App>>) -> Response {
    let status = app.shared.status.lock();
    let counters = status.counters;
    let requests: Vec<_> = status.records.values().collect();
    let state = json!({
        "running": status.running, "waiting": status.waiting, "in_flight": status.in_flight,
        "kv_blocks": status.kv_blocks, "kv_used_blocks": status.kv_used_blocks,
        "submitted": counters.submitted, "finished": counters.finished, "aborted": counters.aborted,
        "refused": status.refused, "steps": counters.steps, "preemptions": counters.preemptions,
        "prompt_tokens": counters.prompt_tokens, "cached_tokens": counters.cached_tokens,
        "generation_tokens": counters.generation_tokens,
        "requests": requests,
    });
    drop(status);
    axum::Json(state).into_response()
}

pub(super) async fn faults(State(app): State<Arc<App>>) -> Response {
    axum::Json(app.shared.faults.borrow().clone()).into_response()
}

/// Changes the faults that the JSON object names; answers with all of them. `{"abort_process": true}` ends the
/// process, where it may.
pub(super) async fn set_faults(
    State(app): State<Arc<App>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let invalid = |message: String| ApiError::Invalid { param: None, message };
    let mut patch: Map<String, Value> = parse(body)?;
    if patch.remove("abort_process") == Some(Value::Bool(true)) {
        if app.facts.may_abort_process {
            std::process::abort();
        }
        return Err(invalid("this engine may not end its process".to_owned()));
    }
    let mut outcome = Ok(());
    app.shared.faults.send_modify(|faults| match faults.patched(&patch) {
        Ok(patched) if patched.dies_on_abort && !app.facts.may_abort_process => {
            outcome = Err(invalid("this engine may not end its process".to_owned()));
        }
        Ok(patched) => *faults = patched,
        Err(message) => outcome = Err(invalid(message)),
    });
    outcome?;
    tracing::info!(faults = ?app.shared.faults.borrow().clone(), "faults changed");
    Ok(faults(State(app)).await)
}

pub(super) async fn clear_faults(State(app): State<Arc<App>>) -> Response {
    app.shared.faults.send_replace(Faults::default());
    faults(State(app)).await
}
