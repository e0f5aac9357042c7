//! The HTTP side: vLLM's OpenAI-compatible paths, its health and metrics, and the simulator's own controls.
//!
//! Handlers parse, ask the driver and write; they hold no state of requests. There are no deadlines on the
//! client's side: this listener is for schedulers and tests on trusted networks, as a real engine's is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use aya_domain::splitmix64;
use aya_observe::Clock;
use serde_json::json;
use tokio::sync::mpsc;

use crate::config::Facts;
use crate::driver::Shared;
use crate::inbox::Job;

mod body;
mod completions;
mod control;
mod embeddings;
mod error;
mod frames;
mod intake;
mod metrics;
mod stream;

/// Largest accepted body; larger ones get a 413.
const BODY_MAX_BYTES: usize = 32 * 1024 * 1024;

/// What `/version` tells.
const VERSION: &str = concat!("aya-sim-", env!("CARGO_PKG_VERSION"));

/// What every handler needs.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) facts: Facts,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: mpsc::Sender<Job>,
    pub(crate) clock: Clock,
    pub(crate) sequence: AtomicU64,
}

impl App {
    /// A number for the next request; requests count from 1.
    fn next_key(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A well mixed number for one purpose of one request.
    const fn seed(&self, key: u64, purpose: u64) -> u64 {
        splitmix64(self.facts.seed ^ splitmix64(key.wrapping_mul(4).wrapping_add(purpose)))
    }

    /// No answer until the client gives up or the engine stops.
    async fn stall(&self) -> Result<Response, error::ApiError> {
        self.inbox.closed().await;
        Err(error::ApiError::Dead)
    }

    /// Seconds since the epoch, for OpenAI's `created`.
    fn created(&self) -> u64 {
        self.clock.wall(self.clock.now()).as_unix_s()
    }
}

pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(completions::chat))
        .route("/v1/completions", post(completions::text))
        .route("/v1/embeddings", post(embeddings::embed))
        .route("/v1/models", get(models))
        .route("/health", get(health))
        .route("/ping", get(health))
        .route("/version", get(version))
        .route("/load", get(load))
        .route("/metrics", get(metrics::page))
        .route("/sim/state", get(control::state))
        .route("/sim/faults", get(control::faults).post(control::set_faults).delete(control::clear_faults))
        .layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .fallback(not_found)
        .with_state(app)
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let created = app.created();
    let data: Vec<_> = app
        .facts
        .models
        .iter()
        .map(|id| {
            json!({
                "id": id, "object": "model", "created": created, "owned_by": "aya-sim", "root": id,
                "parent": null, "max_model_len": app.facts.context_length, "permission": [],
            })
        })
        .collect();
    axum::Json(json!({"object": "list", "data": data})).into_response()
}

async fn health(State(app): State<Arc<App>>) -> StatusCode {
    // An engine whose driver has ended answers nothing any more.
    let dead = app.inbox.is_closed();
    if dead || app.shared.faults.borrow().unhealthy {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

async fn version() -> Response {
    axum::Json(json!({"version": VERSION})).into_response()
}

async fn load(State(app): State<Arc<App>>) -> Response {
    let in_flight = app.shared.status.lock().in_flight;
    axum::Json(json!({"server_load": in_flight})).into_response()
}

/// Paths outside the API answer in the web framework's shape, as vLLM's do.
async fn not_found() -> Response {
    (StatusCode::NOT_FOUND, axum::Json(json!({"detail": "Not Found"}))).into_response()
}

#[cfg(test)]
mod tests;
