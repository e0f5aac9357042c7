//! `/v1/chat/completions` and `/v1/completions`, streaming and not.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::App;
use super::body::{ChatBody, TextBody, parse};
use super::error::ApiError;
use super::frames::{Frames, Shape};
use super::intake::{self, Plan};
use super::stream::{Answer, Died, error_in_stream, silence};
use crate::faults::Fault;
use crate::prompt::PromptReader;

pub(super) async fn chat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body: ChatBody = parse(body)?;
    if body.messages.is_empty() {
        let message = "messages must not be empty".to_owned();
        return Err(ApiError::Invalid { param: Some("body.messages"), message });
    }
    let model = intake::model(&app, body.common.model.as_ref())?;
    let mut reader = PromptReader::new(&model);
    body.messages.iter().for_each(|message| message.read(&mut reader));
    let max_tokens = body.max_completion_tokens.or(body.common.max_tokens);
    let plan = intake::plan(&app, &headers, reader.finish(), max_tokens, &body.common)?;
    generate(&app, Shape::Chat, plan).await
}

pub(super) async fn text(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body: TextBody = parse(body)?;
    let model = intake::model(&app, body.common.model.as_ref())?;
    let mut prompts = body.prompt.read(&model);
    let (Some(reader), true) = (prompts.pop(), prompts.is_empty()) else {
        let message = "exactly one prompt per request is simulated".to_owned();
        return Err(ApiError::Invalid { param: Some("body.prompt"), message });
    };
    let plan = intake::plan(&app, &headers, reader.finish(), body.common.max_tokens, &body.common)?;
    generate(&app, Shape::Text, plan).await
}

async fn generate(app: &App, shape: Shape, plan: Plan) -> Result<Response, ApiError> {
    let die_after = match plan.fault {
        Some(Fault::Refuse(_)) => return Err(ApiError::Busy),
        Some(Fault::Fail(_)) => return Err(ApiError::Dead),
        Some(Fault::ErrorInStream(_)) if plan.stream => return Ok(error_in_stream(&ApiError::Busy)),
        Some(Fault::ErrorInStream(_)) => return Err(ApiError::Busy),
        Some(Fault::Stall) if plan.stream => return Ok(silence(app.inbox.clone())),
        Some(Fault::Stall) => return app.stall().await,
        Some(Fault::DieMidStream(tokens)) => Some(tokens),
        Some(Fault::Slow(_) | Fault::Lie | Fault::Unhealthy | Fault::DiesOnAbort | Fault::AbortProcess)
        | None => None,
    };
    let frames = Frames::new(shape, app.created(), &plan);
    let mut generation = intake::submit(app, &plan).await?;
    if plan.stream {
        let include_usage = plan.options.include_usage == Some(true);
        let mut answer = Answer::new(generation, frames, include_usage, die_after);
        let every = u64::from(app.shared.faults.borrow().keep_alive_ms);
        answer.keep_alive = (every > 0).then(|| Duration::from_millis(every));
        return Ok(answer.into_response());
    }
    if let Some(tokens) = die_after {
        generation.beyond(tokens.saturating_sub(1)).await;
        return Ok(cut_off());
    }
    let end = generation.end().await.ok_or(ApiError::Dead)?;
    Ok(axum::Json(frames.whole(end.tokens, end.cached_tokens)).into_response())
}

/// An answer that breaks off before its promised end.
fn cut_off() -> Response {
    let body = Body::from_stream(stream::iter([Ok(Bytes::from_static(b"{\"id\":")), Err(Died)]));
    ([(header::CONTENT_TYPE, "application/json"), (header::CONTENT_LENGTH, "1000")], body).into_response()
}
