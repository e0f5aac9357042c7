//! Questions to a scheduler's admin listener: status, decisions, explain.

use std::time::Duration;

use aya_domain::EndpointUrl;
use aya_trace::{EventJson, RecordJson};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::args::{AdminArgs, DecisionsArgs, EventsArgs, ExplainArgs, Output, StatusArgs};
use crate::exit::Failure;
use crate::fleet::FleetJson;
use crate::text::Style;
use crate::{decisions, events, explain, out, status, why_not};

/// A scheduler that has not taken the connection by then is not reachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A farm of thousands of endpoints is answered well within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer that is read: 1,000 records of 1,000 candidates each stay below it.
const ANSWER_BYTES_MAX: usize = 512 * 1024 * 1024;
/// How a scheduler's listener says that it has no such path at all.
const UNKNOWN_PATH: &str = "unknown_path";

pub(crate) fn status(args: &StatusArgs) -> Result<(), Failure> {
    show(&args.admin, "/api/v1/fleet", |fleet: &FleetJson, style| status::render(fleet, args.gpus, style))
}

pub(crate) fn decisions(args: &DecisionsArgs) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct List {
        decisions: Vec<RecordJson>,
    }
    let mut path = format!("/api/v1/decisions?limit={}", args.limit);
    for (key, value) in [("model", &args.model), ("endpoint", &args.endpoint), ("outcome", &args.outcome)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escaped(value)));
        }
    }
    show(&args.admin, &path, |list: &List, style| decisions::render(&list.decisions, style))
}

pub(crate) fn events(args: &EventsArgs) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct List {
        events: Vec<EventJson>,
    }
    let mut path = format!("/api/v1/events?limit={}", args.limit);
    for (key, value) in [
        ("node", &args.node),
        ("endpoint", &args.endpoint),
        ("gpu", &args.gpu),
        ("kind", &args.kind),
        ("since", &args.since),
    ] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", escaped(value)));
        }
    }
    show(&args.admin, &path, |list: &List, style| events::render(&list.events, style))
}

pub(crate) fn explain(args: &ExplainArgs) -> Result<(), Failure> {
    let path = format!("/api/v1/decisions/{}", escaped(&args.id));
    let Some(endpoint) = &args.why_not else {
        return show(&args.admin, &path, |record: &RecordJson, style| explain::render(record, style));
    };
    let record: RecordJson = parse(&fetch(&args.admin, &path)?)?;
    let answer = why_not::answer(&record, endpoint)?;
    match args.admin.output {
        Output::Json => out::say(&serde_json::to_string_pretty(&answer)?),
        Output::Table => out::say(&why_not::render(&answer, Style { colour: out::colour() })),
    }
    Ok(())
}

/// Asks, and shows the answer as the API gave it or as a table.
fn show<T: DeserializeOwned>(
    args: &AdminArgs,
    path: &str,
    render: impl FnOnce(&T, Style) -> String,
) -> Result<(), Failure> {
    let answer = fetch(args, path)?;
    match args.output {
        Output::Json => {
            let json: serde_json::Value = parse(&answer)?;
            out::say(&serde_json::to_string_pretty(&json)?);
        }
        Output::Table => out::say(&render(&parse(&answer)?, Style { colour: out::colour() })),
    }
    Ok(())
}

fn fetch(args: &AdminArgs, path: &str) -> Result<Bytes, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(get(&args.admin, path))
}

fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let hint = "is this the admin listener of an aya scheduler of this version?";
        Failure::Failed(anyhow::anyhow!("the answer was not understood: {error}; {hint}"))
    })
}

async fn get(admin: &EndpointUrl, path: &str) -> Result<Bytes, Failure> {
    let (status, body) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange(admin, path)).await {
        Ok(answered) => answered?,
        Err(_) => return Err(Failure::Unreachable(format!("{admin} does not answer"))),
    };
    if status == StatusCode::OK {
        return Ok(body);
    }
    let error = error_of(&body);
    if status == StatusCode::NOT_FOUND
        && error.as_ref().is_none_or(|error| error.code.is_empty() || error.code == UNKNOWN_PATH)
    {
        let hint = "is this the scheduler's --admin-listen address, port 8081 by default?";
        let wrong =
            format!("{admin} is no admin listener of a scheduler: it answers {status} to {path}; {hint}");
        return Err(Failure::Unreachable(wrong));
    }
    let message = error.map_or_else(|| format!("{admin} answered {status} to {path}"), |error| error.message);
    Err(match status {
        StatusCode::NOT_FOUND => Failure::NotFound(message),
        StatusCode::BAD_REQUEST => Failure::Usage(format!("error: {message}")),
        _ => Failure::Failed(anyhow::anyhow!(message)),
    })
}

/// What an error says, in the shape that all listeners of a scheduler share.
struct Said {
    message: String,
    code: String,
}

fn error_of(body: &[u8]) -> Option<Said> {
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = json.get("error")?;
    let message = crate::text::plain(error.get("message")?.as_str()?);
    let code = error.get("code").and_then(serde_json::Value::as_str).unwrap_or_default();
    Some(Said { message, code: code.to_owned() })
}

async fn exchange(admin: &EndpointUrl, path: &str) -> Result<(StatusCode, Bytes), Failure> {
    let unreachable = |error: &dyn std::fmt::Display| {
        Failure::Unreachable(format!(
            "no scheduler answers at {admin} ({error}); is it running? try --admin URL"
        ))
    };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(admin.authority()));
    let socket = connecting.await.map_err(|e| unreachable(&e))?.map_err(|e| unreachable(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|e| unreachable(&e))?;
    // Dropped with this function: the connection serves one question.
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, admin.authority())
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await.map_err(|e| unreachable(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| Failure::Failed(anyhow::anyhow!("the answer broke off: {error}")))?;
    Ok((status, body.to_bytes()))
}

/// A text as part of a path or query.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

#[cfg(test)]
mod tests;
