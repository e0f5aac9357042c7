//! `GET /api/v1/queues`: who waits for which model, in the order in which they are to be placed.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use aya_admission::Standing;
use aya_domain::Priority;
use serde::Serialize;

use super::Admin;
use super::fleet::millis;
use crate::room::PoolDepth;

/// Requests told of one queue: its front.
const SHOWN_MAX: usize = 50;

#[derive(Debug, Serialize)]
struct Queues {
    queues: Vec<Queue>,
}

/// How much waits for a model; also in `GET /api/v1/fleet`.
#[derive(Debug, Serialize)]
pub(super) struct QueueDepth {
    model: String,
    waiting: usize,
    /// Of the one who came first.
    oldest_waited_ms: u64,
}

impl From<&PoolDepth> for QueueDepth {
    fn from(depth: &PoolDepth) -> Self {
        Self {
            model: depth.model.to_string(),
            waiting: depth.waiting.iter().sum(),
            oldest_waited_ms: millis(depth.oldest),
        }
    }
}

#[derive(Debug, Serialize)]
struct Queue {
    #[serde(flatten)]
    depth: QueueDepth,
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
        waited_ms: millis(standing.waited),
        overtaken: standing.overtaken,
    };
    let by_class = Priority::ALL.into_iter().zip(depth.waiting);
    Queue {
        depth: QueueDepth::from(&depth),
        waiting_by_priority: by_class.map(|(class, n)| (class.as_str().to_owned(), n.into())).collect(),
        front: front.into_iter().enumerate().map(waiting).collect(),
    }
}
