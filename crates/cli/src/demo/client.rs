//! The demo's client: plain HTTP to the farm's public and admin listeners, like any other client.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aya_domain::MonoTime;
use aya_observe::Clock;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The longest line of a stream, and the largest other answer, in bytes.
const LINE_MAX: usize = 1024 * 1024;
const ANSWER_MAX: usize = 256 * 1024 * 1024;
/// A loopback answer of the admin side.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A streamed answer as the client saw it, in real time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Streamed {
    /// The endpoint that answered, by the response's header.
    pub(crate) endpoint: String,
    pub(crate) ttft: Duration,
    pub(crate) e2e: Duration,
}

/// Streams one chat completion. `headers` go with it.
///
/// # Errors
/// Anything but a complete answer: a status other than 200, an error event, an end without a finish reason and `[DONE]`.
pub(crate) async fn stream(
    api: SocketAddr,
    headers: &[(&'static str, String)],
    body: String,
    clock: &Clock,
) -> anyhow::Result<Streamed> {
    let started = clock.now();
    let mut request = Request::post("/v1/chat/completions");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let mut exchange = Exchange::send(api, request, body).await?;
    if exchange.status != StatusCode::OK {
        let status = exchange.status;
        let body = exchange.collect().await.unwrap_or_default();
        bail!("HTTP {status}: {}", String::from_utf8_lossy(&body));
    }
    let endpoint = exchange.headers.get("x-aya-endpoint").and_then(|v| v.to_str().ok());
    let endpoint = endpoint.context("the answer names no endpoint")?.to_owned();
    let mut reader = StreamReader::default();
    while let Some(frame) = exchange.body.frame().await {
        if let Ok(data) = frame?.into_data() {
            reader.take(&data, clock.now())?;
        }
    }
    let (first, end) = reader.finish()?;
    Ok(Streamed { endpoint, ttft: first.since(started), e2e: end.since(started) })
}

/// Asks the admin listener.
///
/// # Errors
/// No answer in time, a status other than 200, or JSON of another shape.
pub(crate) async fn get<T: DeserializeOwned>(admin: SocketAddr, path: &str) -> anyhow::Result<T> {
    let asking = async {
        let exchange = Exchange::send(admin, Request::get(path), String::new()).await?;
        let status = exchange.status;
        let body = exchange.collect().await?;
        anyhow::ensure!(status == StatusCode::OK, "{path}: HTTP {status}");
        serde_json::from_slice(&body).with_context(|| format!("{path} answers in another shape"))
    };
    tokio::time::timeout(ADMIN_TIMEOUT, asking).await.with_context(|| format!("{path} is not answered"))?
}

/// One request on a connection of its own.
struct Exchange {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    /// Drives the connection; dropped with the exchange.
    _connection: JoinSet<Result<(), hyper::Error>>,
}

impl Exchange {
    async fn send(to: SocketAddr, request: http::request::Builder, body: String) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let mut connections = JoinSet::new();
        connections.spawn(connection);
        let request = request
            .header(header::HOST, to.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok(Self { status: head.status, headers: head.headers, body, _connection: connections })
    }

    async fn collect(self) -> anyhow::Result<Bytes> {
        let body = Limited::new(self.body, ANSWER_MAX).collect().await;
        Ok(body.map_err(|error| anyhow::anyhow!(error))?.to_bytes())
    }
}

/// What a client must see of a stream before it may believe the answer.
#[derive(Debug, Default)]
struct StreamReader {
    line: Vec<u8>,
    first_token_at: Option<MonoTime>,
    finished: bool,
    done_at: Option<MonoTime>,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

impl StreamReader {
    /// Reads what arrived at this instant.
    fn take(&mut self, data: &[u8], at: MonoTime) -> anyhow::Result<()> {
        for part in data.split_inclusive(|byte| *byte == b'\n') {
            anyhow::ensure!(self.line.len() + part.len() <= LINE_MAX, "a line of the stream is too long");
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.event(line.trim_ascii(), at)?;
            }
        }
        Ok(())
    }

    fn event(&mut self, line: &[u8], at: MonoTime) -> anyhow::Result<()> {
        let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return Ok(()) };
        if data == b"[DONE]" {
            self.done_at = Some(at);
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(data).context("an event is not JSON")?;
        if let Some(error) = chunk.error {
            bail!("error in the stream: {error}");
        }
        for choice in chunk.choices {
            let content = choice.delta.and_then(|delta| delta.content);
            if content.is_some_and(|text| !text.is_empty()) && self.first_token_at.is_none() {
                self.first_token_at = Some(at);
            }
            self.finished |= choice.finish_reason.is_some();
        }
        Ok(())
    }

    /// The first token's and the end's instants.
    fn finish(self) -> anyhow::Result<(MonoTime, MonoTime)> {
        anyhow::ensure!(self.finished, "the stream ended without a finish reason");
        let end = self.done_at.context("the stream ended without [DONE]")?;
        Ok((self.first_token_at.context("the answer has no token")?, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parts: &[&str]) -> Result<(u64, u64), String> {
        let mut reader = StreamReader::default();
        for (at, part) in (1..).zip(parts) {
            reader.take(part.as_bytes(), MonoTime::from_nanos(at)).map_err(|e| e.to_string())?;
        }
        let (first, end) = reader.finish().map_err(|e| e.to_string())?;
        Ok((first.as_nanos(), end.as_nanos()))
    }

    #[test]
    fn an_answer_counts_only_with_a_token_a_finish_reason_and_done() {
        let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let token = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        let stop = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
        let done = "data: [DONE]\n\n";
        assert_eq!(read(&[role, token, token, stop, done]), Ok((2, 5)));
        let (head, tail) = token.split_at(20);
        assert_eq!(read(&[role, head, tail, stop, done]), Ok((3, 5)), "an event in two pieces");
        for (parts, problem) in [
            (&[role, token, done][..], "finish reason"),
            (&[role, token, stop][..], "[DONE]"),
            (&[role, stop, done][..], "no token"),
            (&["data: {\"error\":{\"message\":\"x\"}}\n\n"][..], "error in the stream"),
            (&["data: {\n"][..], "not JSON"),
        ] {
            let error = read(parts).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
