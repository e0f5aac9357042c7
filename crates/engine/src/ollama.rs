//! Ollama's `/api/ps`, after its source of August 2026 (`server/routes.go`, `api/types.go`).
//!
//! Ollama tells no load at all; what it has loaded decides whether a request starts at once or after a load of
//! seconds to minutes, and how much of the model spilled out of VRAM.

use aya_domain::{Bytes, ModelId};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Absent, Findings, LoadedModel, PageError, whole};
use crate::json;

/// More loaded models than this are no host's.
const MAX_LOADED: usize = 256;
/// The longest time of expiry taken over, in bytes; RFC 3339 with nanoseconds and a zone has 35.
const MAX_TIME_BYTES: usize = 40;

#[derive(Deserialize)]
struct Page {
    models: Vec<Value>,
}

/// The models in memory; one odd entry costs that entry.
pub(crate) fn loaded(body: &[u8]) -> Result<Findings, PageError> {
    let page: Page = json::read(body)?;
    let loaded: Vec<_> = page.models.iter().filter_map(model).take(MAX_LOADED).collect();
    let odd = loaded.is_empty() && !page.models.is_empty();
    Ok(Findings {
        loaded: Some(if odd { Err(Absent::Malformed) } else { Ok(loaded) }),
        ..Findings::default()
    })
}

fn model(entry: &Value) -> Option<LoadedModel> {
    let name = entry.get("name").or_else(|| entry.get("model"))?.as_str()?;
    let bytes = |name| entry.get(name).and_then(Value::as_f64).and_then(|v| whole(v).ok()).map(Bytes);
    let expires_at = entry.get("expires_at").and_then(Value::as_str);
    let expires_at =
        expires_at.filter(|t| t.len() <= MAX_TIME_BYTES && t.bytes().all(|b| b.is_ascii_graphic()));
    let (size, vram) = (bytes("size"), bytes("size_vram"));
    Some(LoadedModel {
        id: ModelId::parse(name).ok()?,
        size,
        // More of it in VRAM than there is of it is a mistake, and nobody knows of which of the two.
        vram: vram.filter(|vram| size.is_none_or(|size| *vram <= size)),
        context_length: json::tokens(entry.get("context_length")).ok(),
        expires_at: expires_at.map(str::to_owned),
    })
}
