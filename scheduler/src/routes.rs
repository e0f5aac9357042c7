//! One request of a client: routes, checks, and the hand-over to the pipeline.
//!
//! The route table is exact. Nothing of a client's path is ever joined to an engine's URL, and an engine's
//! management paths cannot be reached.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use aya_admission::Pressure;
use aya_domain::{ModelId, RequestId, RequestKind, WallTime};
use aya_proxy::downstream::{Fields, RequestHead};
use aya_proxy::{ApiError, headers};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;

use crate::http::answer::Answer;
use crate::http::{head, respond};
use crate::pipeline::{self, Ask, Hints};
use crate::shared::Shared;
use crate::view::FarmView;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route<'p> {
    Infer(RequestKind),
    Models,
    Model(&'p str),
    WrongMethod { allow: &'static str },
    Unknown,
}

fn route<'p>(method: &Method, path: &'p str) -> Route<'p> {
    let infer =
        |kind| if method == Method::POST { Route::Infer(kind) } else { Route::WrongMethod { allow: "POST" } };
    let read = |route| {
        if method == Method::GET || method == Method::HEAD {
            route
        } else {
            Route::WrongMethod { allow: "GET" }
        }
    };
    match path {
        "/v1/chat/completions" => infer(RequestKind::Chat),
        "/v1/completions" => infer(RequestKind::Completion),
        "/v1/embeddings" => infer(RequestKind::Embedding),
        "/v1/models" => read(Route::Models),
        _ => match path.strip_prefix("/v1/models/") {
            Some(id) if !id.is_empty() => read(Route::Model(id)),
            Some(_) | None => Route::Unknown,
        },
    }
}

/// A request whose head has been read.
pub(crate) enum Call {
    /// It needs no body and no engine.
    Answered(Answer),
    /// Its body is wanted.
    Infer(Box<Infer>),
}

/// An inference request without its body; accounted for from here on.
pub(crate) struct Infer {
    id: RequestId,
    kind: RequestKind,
    fields: Fields,
    account: pipeline::Account,
}

/// Everything that can be said by the head alone.
pub(crate) fn open(shared: &Arc<Shared>, head: RequestHead) -> Call {
    let (now, wall) = shared.clock.present();
    let id = request_id(&head.fields, wall);
    let response = match head::check(&head) {
        Err(error) => respond::and_close(respond::error(&error)),
        Ok(()) => match route(&head.method, head.target.path()) {
            Route::Infer(kind) => {
                let mut account = pipeline::Account::open(shared, &id, kind, (now, wall));
                if shared.pressure.get() == Pressure::Refuse {
                    shared.metrics.memory.refused.inc();
                    let error = respond::memory_pressure();
                    account.fail(&error);
                    return Call::Answered(finish(shared, &id, respond::error(&error)));
                }
                return Call::Infer(Box::new(Infer { id, kind, fields: head.fields, account }));
            }
            Route::Models => models(&shared.view.load(), shared),
            Route::Model(model) => one_model(&shared.view.load(), shared, model),
            Route::WrongMethod { allow } => wrong_method(allow),
            Route::Unknown => unknown_path(),
        },
    };
    Call::Answered(finish(shared, &id, response))
}

/// Answers an inference request, whatever became of its body.
pub(crate) async fn infer(shared: &Arc<Shared>, infer: Infer, body: Result<Bytes, ApiError>) -> Answer {
    let Infer { id, kind, fields, mut account } = infer;
    let response = match body {
        Err(error) => {
            account.refuse(&error);
            respond::and_close(respond::error(&error))
        }
        Ok(body) => match Hints::read(&fields, shared) {
            Err(error) => {
                account.refuse(&error);
                respond::error(&error)
            }
            Ok(hints) => {
                let answering = pin!(pipeline::run(shared, account, Ask { kind, body, hints }));
                unless_cut(shared, answering).await
            }
        },
    };
    finish(shared, &id, response)
}

/// The answer, or a refusal if the scheduler's time is over before it begins. To be polled anew at each step.
async fn unless_cut(shared: &Shared, mut answering: Pin<&mut impl Future<Output = Answer>>) -> Answer {
    poll_fn(|cx| match answering.as_mut().poll(cx) {
        Poll::Pending if shared.stopping.is_cutting() => {
            Poll::Ready(respond::error(&respond::shutting_down()))
        }
        Poll::Pending => Poll::Pending,
        Poll::Ready(answer) => Poll::Ready(answer),
    })
    .await
}

/// What every answer has; a draining scheduler takes no further request on the connection.
fn finish(shared: &Shared, id: &RequestId, mut answer: Answer) -> Answer {
    answer.fields.add(respond::X_REQUEST_ID, id.as_str());
    if shared.closes_connections() { respond::and_close(answer) } else { answer }
}

fn wrong_method(allow: &'static str) -> Answer {
    let error = ApiError::new(405, "invalid_request_error", format!("use {allow} on this path"));
    let mut answer = respond::and_close(respond::error(&error.should_retry(false)));
    answer.fields.add("allow", allow);
    answer
}

fn unknown_path() -> Answer {
    let error = ApiError::new(404, "invalid_request_error", "unknown path; see GET /v1/models")
        .code("unknown_path")
        .should_retry(false);
    respond::and_close(respond::error(&error))
}

/// The client's own id if it is safe to repeat in headers and logs, else a new one.
fn request_id(fields: &Fields, wall: WallTime) -> RequestId {
    let given = fields
        .text(respond::X_REQUEST_ID)
        .filter(|value| headers::is_safe_request_id(value.as_bytes()))
        .and_then(|value| RequestId::parse(value).ok());
    given.unwrap_or_else(|| pipeline::fresh_id(wall, RequestId::parse))
}

#[derive(Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<ModelJson>,
}

#[derive(Serialize)]
struct ModelJson {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// The largest context that an endpoint gives this model.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_model_len: Option<u64>,
    /// Endpoints that serve it.
    endpoints: usize,
}

fn model_json(view: &FarmView, shared: &Shared, id: &ModelId) -> Option<ModelJson> {
    let target = shared.aliases.get(id).unwrap_or(id);
    let pool = view.snapshot.models.get(target)?;
    let context = pool.members.iter().filter_map(|(_, context)| *context).max();
    Some(ModelJson {
        id: id.to_string(),
        object: "model",
        // No engine tells when its model was made; the field is there because clients require it.
        created: 0,
        owned_by: "aya",
        max_model_len: context.map(|tokens| tokens.get()),
        endpoints: pool.members.len(),
    })
}

fn models(view: &FarmView, shared: &Shared) -> Answer {
    let data = shared.known_models(view).iter().filter_map(|id| model_json(view, shared, id)).collect();
    encode(&ModelList { object: "list", data })
}

fn one_model(view: &FarmView, shared: &Shared, path: &str) -> Answer {
    let name = percent_decode(path);
    match ModelId::parse(&name).ok().and_then(|id| model_json(view, shared, &id)) {
        Some(model) => encode(&model),
        None => respond::error(&respond::unknown_model(&name, &shared.known_models(view))),
    }
}

fn encode(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => Answer::json(StatusCode::OK, body),
        Err(_) => respond::error(&ApiError::new(500, "internal_error", "the answer could not be written")),
    }
}

/// Model ids hold `/`, which clients send as it is or as `%2F`.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) * 16 + hex(low).unwrap_or(0));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_table_is_exact() {
        for (method, path, expect) in [
            (Method::POST, "/v1/chat/completions", Route::Infer(RequestKind::Chat)),
            (Method::POST, "/v1/completions", Route::Infer(RequestKind::Completion)),
            (Method::POST, "/v1/embeddings", Route::Infer(RequestKind::Embedding)),
            (Method::GET, "/v1/chat/completions", Route::WrongMethod { allow: "POST" }),
            (Method::GET, "/v1/models", Route::Models),
            (Method::POST, "/v1/models", Route::WrongMethod { allow: "GET" }),
            (Method::GET, "/v1/models/org/model", Route::Model("org/model")),
            (Method::GET, "/v1/models/", Route::Unknown),
            (Method::POST, "/v1/chat/completions/", Route::Unknown),
            (Method::POST, "/v1/../v1/chat/completions", Route::Unknown),
            (Method::POST, "/sleep", Route::Unknown),
            (Method::POST, "/v1/load_lora_adapter", Route::Unknown),
        ] {
            assert_eq!(route(&method, path), expect, "{method} {path}");
        }
    }

    #[test]
    fn a_model_path_is_decoded_once() {
        for (text, expect) in
            [("a%2Fb", "a/b"), ("a/b", "a/b"), ("a%252Fb", "a%2Fb"), ("a%", "a%"), ("a%zz", "a%zz")]
        {
            assert_eq!(percent_decode(text), expect);
        }
    }
}
