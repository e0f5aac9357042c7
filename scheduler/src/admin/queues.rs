//! `GET /api/v1/queues`: who waits for which model, in the order in which they are to be placed.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use aya_admission::Standing;
use aya_domain::Priority;
use serde::Serialize;

use super::Admin;
use crate::room::PoolDepth;

/// Requests told of one queue: its front.
const SHOWN_MAX: usize = 50;

#[derive(Debug, Serialize)]
struct Queues {
    queues: Vec<Queue>,
}

#[derive(Debug, Serialize)]
struct Queue {
    model: String,
    waiting: usize,
    /// By class; a class in which nobody waits is 0.
    waiting_by_priority: serde_json::Map<String, serde_json::Value>,
    /// The front, at most 50.
    front: Vec<Waiting>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    position: usize,
    priority: &'static str,
    tenant: String,
    waited_ms: u64,
    /// Placements of requests behind it, while what it fits was full.
    overtaken: u32,
}

/// The queues of this moment; a model for which nobody waits has none.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let queues = admin.shared.room.standings(SHOWN_MAX).into_iter().map(queue).collect();
    Json(Queues { queues }).into_response()
}

fn queue((depth, front): (PoolDepth, Vec<Standing>)) -> Queue {
    let waiting = |(at, standing): (usize, Standing)| Waiting {
        position: at,
        priority: standing.class.as_str(),
        tenant: standing.tenant.to_string(),
        waited_ms: u64::try_from(standing.waited.as_millis()).unwrap_or(u64::MAX),
        overtaken: standing.overtaken,
    };
    let by_class = Priority::ALL.into_iter().zip(depth.waiting);
    Queue {
        model: depth.model.to_string(),
        waiting: depth.waiting.iter().sum(),
        waiting_by_priority: by_class.map(|(class, n)| (class.as_str().to_owned(), n.into())).collect(),
        front: front.into_iter().enumerate().map(waiting).collect(),
    }
}
