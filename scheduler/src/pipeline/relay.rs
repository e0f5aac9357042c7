//! One attempt at one endpoint.
//!
//! Until the engine's first event the client has seen nothing, so whatever goes wrong can be tried elsewhere:
//! a refused connection, a crash, an overload told with 200 and an error event. Afterwards the stream belongs
//! to [`super::stream`]. Clients that do not stream get their answer whole, so for them nothing is ever cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{EndpointInfo, MonoTime, RequestKind};
use aya_proxy::upstream::{Method, Socket, exchange};
use aya_proxy::{
    ApiError, Edits, RequestHead, Response as EngineResponse, SplicedBody, SseScanner, UpstreamConfig,
    UpstreamError, splice,
};
use aya_trace::OutcomeStatus;
use bytes::Bytes;
use http::{Response, StatusCode};
use tokio::time::timeout;

use super::account::{Account, End};
use super::place::Placed;
use super::stream::{Begun, StreamBody};
use super::{Prepared, resolve, whole};
use crate::http::body::ClientBody;
use crate::http::conn::ConnState;
use crate::http::respond;
use crate::ledger::Lease;
use crate::shared::Shared;

/// How long an engine that pushes back without saying so is left alone.
const PUSHBACK_DEFAULT: Duration = Duration::from_secs(1);
/// An engine's error answer; more of it is not read.
const ERROR_BODY_MAX: usize = 256 * 1024;
/// Chunks that may come before the first event, such as keep-alive comments; beyond it the engine is broken.
const CHUNKS_BEFORE_EVENT_MAX: usize = 4096;

/// How the endpoint is asked and the client answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Stream through.
    Stream,
    /// The engine streams, the client gets one answer: such an engine notices a disconnect only while it streams.
    Assemble,
    /// One answer through.
    Whole,
}

impl Mode {
    fn of(prepared: &Prepared, endpoint: &EndpointInfo) -> Self {
        let capabilities = endpoint.kind.capabilities();
        match prepared.request.kind {
            RequestKind::Embedding => Self::Whole,
            RequestKind::Chat | RequestKind::Completion if prepared.request.stream => Self::Stream,
            RequestKind::Chat | RequestKind::Completion if capabilities.notices_disconnect_without_stream => {
                Self::Whole
            }
            RequestKind::Chat | RequestKind::Completion => Self::Assemble,
        }
    }
}

/// What an attempt is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upstream<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) conn: &'a Arc<ConnState>,
    pub(crate) prepared: &'a Prepared,
    /// Whether no further attempt is allowed.
    pub(crate) last: bool,
}

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    Answered(Response<ClientBody>),
    /// The client has seen nothing; the account goes on.
    Retry(Box<Account>),
}

/// Why an attempt gave no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// The endpoint failed; another one may do better.
    Endpoint { error: ApiError, reason: String, pause: Pause },
    /// The engine refused the request itself: told to the client as it is.
    Refused { status: StatusCode, body: Bytes },
}

/// What a failure means for the endpoint's next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It is broken: leave it alone, longer each time.
    Failed,
    /// It is full: leave it alone for as long as it asked.
    PushedBack(Duration),
}

impl Failure {
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        let error =
            ApiError::new(502, "upstream_error", "the engine failed the request").code("upstream_error");
        Self::Endpoint { error, reason: reason.into(), pause: Pause::Failed }
    }

    pub(super) fn late(reason: &str) -> Self {
        let error =
            ApiError::new(504, "timeout_error", "the engine did not answer in time").code("upstream_timeout");
        Self::Endpoint { error, reason: reason.to_owned(), pause: Pause::Failed }
    }

    pub(super) fn overloaded(reason: &str, retry_after_s: Option<u32>) -> Self {
        let seconds = retry_after_s.unwrap_or(1).max(1);
        let error = ApiError::new(503, "unavailable_error", "the engine is overloaded")
            .code("engine_overloaded")
            .retry_after_s(seconds);
        let pause = retry_after_s.map_or(PUSHBACK_DEFAULT, |s| Duration::from_secs(u64::from(s)));
        Self::Endpoint { error, reason: reason.to_owned(), pause: Pause::PushedBack(pause) }
    }
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Self {
        let late = matches!(error, UpstreamError::Timeout { .. });
        if late { Self::late(error.as_str()) } else { Self::broken(error.as_str()) }
    }
}

/// Sends the request to the placed endpoint.
pub(crate) async fn attempt(up: Upstream<'_>, mut account: Account, placed: Placed) -> AttemptEnd {
    let Placed { decision, endpoint, metrics, mut lease, predicted_ttft_s } = placed;
    account.dispatched(decision, &endpoint.id);
    metrics.placements.inc();
    let mode = Mode::of(up.prepared, &endpoint);
    let sent = Sent { up, endpoint: &endpoint, mode };
    let failure = match mode {
        Mode::Stream => match sent.first_event(&mut account).await {
            Ok(first) => {
                lease.cell().succeeded();
                let body = begin(up, first, account, lease, &metrics);
                return AttemptEnd::Answered(body);
            }
            Err(failure) => failure,
        },
        Mode::Assemble | Mode::Whole => {
            match whole::answer(&sent, &mut account, &mut lease, predicted_ttft_s).await {
                Ok(body) => {
                    lease.cell().succeeded();
                    return AttemptEnd::Answered(whole::respond(up, account, lease, body));
                }
                Err(failure) => failure,
            }
        }
    };
    failed(up, account, &lease, &metrics, failure)
}

fn failed(
    up: Upstream<'_>,
    mut account: Account,
    lease: &Lease,
    metrics: &crate::metrics::EndpointMetrics,
    failure: Failure,
) -> AttemptEnd {
    let now = up.shared.clock.now();
    match failure {
        Failure::Refused { status, body } => {
            lease.cell().succeeded();
            let mut response = respond::json(status, body.to_vec(), up.conn);
            account.head(response.headers_mut());
            let at_fault = if status.is_client_error() {
                OutcomeStatus::ClientError
            } else {
                OutcomeStatus::UpstreamError
            };
            let (http_status, error) = (Some(status.as_u16()), Some("refused_by_engine"));
            account.close(End { status: at_fault, http_status, error });
            AttemptEnd::Answered(response)
        }
        Failure::Endpoint { error, reason, pause } => {
            metrics.failures.inc();
            match pause {
                Pause::Failed => lease.cell().failed(now),
                Pause::PushedBack(pause) => lease.cell().pushed_back(now, pause),
            }
            tracing::warn!(request = %account.request_id(), reason, last = up.last, "attempt failed");
            account.attempt_failed(&reason);
            if !up.last {
                return AttemptEnd::Retry(Box::new(account));
            }
            let mut response = respond::error(&error, up.conn);
            account.head(response.headers_mut());
            account.fail(&error);
            AttemptEnd::Answered(response)
        }
    }
}

/// A stream whose first event has been seen.
struct FirstEvent {
    response: EngineResponse,
    scanner: SseScanner,
    held: Vec<Bytes>,
}

fn begin(
    up: Upstream<'_>,
    first: FirstEvent,
    account: Account,
    mut lease: Lease,
    metrics: &Arc<crate::metrics::EndpointMetrics>,
) -> Response<ClientBody> {
    let FirstEvent { response, scanner, held } = first;
    let EngineResponse { head, body: mut upstream } = response;
    upstream.set_idle_timeout(up.shared.config.timeouts.inter_token);
    let seen = scanner.facts().content_events;
    if seen > 0 {
        lease.tokens(seen);
    }
    let left = total_until(up.shared, up.prepared).since(up.shared.clock.now());
    let mut response = Response::new(());
    for (name, value) in head.forward {
        response.headers_mut().insert(name, value);
    }
    account.head(response.headers_mut());
    let begun = Begun {
        upstream,
        scanner,
        held,
        lease,
        endpoint: Arc::clone(metrics),
        choices: up.prepared.choices(),
        total: Box::pin(tokio::time::sleep(left)),
    };
    let stream = StreamBody::new(Arc::clone(up.shared), account, begun);
    response.map(|()| ClientBody::stream(stream, up.conn))
}

/// The last instant of a request.
pub(super) fn total_until(shared: &Shared, prepared: &Prepared) -> MonoTime {
    prepared.request.arrived_at.after(shared.config.timeouts.total)
}

/// A request on its way to one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) up: Upstream<'a>,
    pub(super) endpoint: &'a EndpointInfo,
    pub(super) mode: Mode,
}

impl Sent<'_> {
    /// Sends the request and gives the answer if its status is a success.
    pub(super) async fn exchange(&self, head_timeout: Duration) -> Result<EngineResponse, Failure> {
        let Upstream { shared, prepared, .. } = self.up;
        let address: SocketAddr = resolve::resolve(&self.endpoint.url, shared.clock.now())
            .await
            .map_err(|error| Failure::broken(format!("resolve: {error}")))?;
        let body = self.body();
        let own_key = shared.upstream_authorization.as_ref().or(prepared.authorization.as_ref());
        let head = RequestHead {
            method: Method::Post,
            path: match prepared.request.kind {
                RequestKind::Chat => "/v1/chat/completions",
                RequestKind::Completion => "/v1/completions",
                RequestKind::Embedding => "/v1/embeddings",
            },
            host: self.endpoint.url.authority(),
            accept_stream: self.mode != Mode::Whole,
            request_id: Some(prepared.request.id.as_str()),
            authorization: own_key.and_then(|value| value.to_str().ok()),
            traceparent: prepared.traceparent.as_ref().and_then(|value| value.to_str().ok()),
        };
        let config = UpstreamConfig {
            connect_timeout: shared.config.timeouts.connect,
            head_timeout,
            idle_timeout: head_timeout,
            ..UpstreamConfig::default()
        };
        let mut answer = exchange(address, &head, &body, &config, Socket::PooledOrFresh).await;
        if answer.as_ref().is_err_and(UpstreamError::is_stale_socket) {
            answer = exchange(address, &head, &body, &config, Socket::Fresh).await;
        }
        let response = answer?;
        if response.head.status.is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    fn body(&self) -> SplicedBody {
        let prepared = self.up.prepared;
        let assemble = self.mode == Mode::Assemble;
        let edits = Edits {
            stream: assemble.then_some(true),
            include_usage: assemble,
            model: prepared.renamed.as_ref().map(aya_domain::ModelId::as_str),
        };
        splice(&prepared.body, &prepared.scanned, edits)
    }

    /// What an answer other than a success means.
    async fn refusal(&self, response: EngineResponse) -> Failure {
        let EngineResponse { head, body } = response;
        let status = head.status;
        let reason = format!("status {}", status.as_u16());
        match status.as_u16() {
            429 | 503 | 529 => Failure::overloaded(&reason, head.retry_after_s),
            401 | 403 if self.up.prepared.authorization.is_none() => Failure::broken(reason),
            408 | 500 | 502 | 504 => Failure::broken(reason),
            400..=499 | 501 => {
                let error_body =
                    timeout(self.up.shared.config.timeouts.inter_token, body.collect(ERROR_BODY_MAX)).await;
                let body = error_body.ok().and_then(Result::ok).flatten().unwrap_or_default();
                Failure::Refused { status, body: in_openai_shape(status, body) }
            }
            // Redirects, and statuses that no engine should send: never followed, never passed on.
            _ => Failure::broken(reason),
        }
    }

    /// Waits for the engine's first event, holding back everything before it.
    async fn first_event(&self, account: &mut Account) -> Result<FirstEvent, Failure> {
        let ttft = self.up.shared.config.timeouts.ttft;
        match timeout(ttft, self.wait_first_event(account, ttft)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::late("ttft_timeout")),
        }
    }

    async fn wait_first_event(&self, account: &mut Account, ttft: Duration) -> Result<FirstEvent, Failure> {
        let mut response = self.exchange(ttft).await?;
        if !response.head.is_event_stream() {
            return Err(Failure::broken("the answer is no event stream"));
        }
        let mut scanner = SseScanner::default();
        let mut held = Vec::new();
        while scanner.facts().events == 0 {
            let Some(chunk) = response.body.chunk().await? else {
                return Err(Failure::broken("the stream ended before its first event"));
            };
            let whole = scanner.feed_whole(&chunk).map_err(|error| Failure::broken(error.to_string()))?;
            if !whole.is_empty() {
                held.push(whole);
            }
            if held.len() > CHUNKS_BEFORE_EVENT_MAX {
                return Err(Failure::broken("the stream has no events"));
            }
        }
        let facts = scanner.facts();
        if facts.content_events == 0 && facts.finished == 0 {
            if let Some(error) = &facts.error {
                return Err(told_in_stream(error));
            }
            if facts.done {
                return Err(Failure::broken("the stream was done before it began"));
            }
        }
        account.tokens(facts.content_events, self.up.shared.clock.now());
        Ok(FirstEvent { response, scanner, held })
    }
}

/// An error event before any token is as good as a status.
pub(super) fn told_in_stream(error: &aya_proxy::sse::StreamError) -> Failure {
    let code = error.code.unwrap_or(500);
    if error.is_overload() {
        return Failure::overloaded("error event: overloaded", None);
    }
    if error.is_retryable() {
        return Failure::broken(format!("error event: code {code}"));
    }
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST);
    let body = ApiError::new(status.as_u16(), "invalid_request_error", error.message.clone()).to_json();
    Failure::Refused { status, body: body.into() }
}

/// The engine's own words if they are in OpenAI's shape, else its message in that shape.
fn in_openai_shape(status: StatusCode, body: Bytes) -> Bytes {
    let is_object = |value: &serde_json::Value| value.get("error").is_some_and(serde_json::Value::is_object);
    match serde_json::from_slice::<serde_json::Value>(&body) {
        Ok(value) if is_object(&value) => body,
        Ok(_) | Err(_) => {
            let told = aya_proxy::sse::StreamError::from_json(&body).map(|error| error.message);
            let message =
                told.unwrap_or_else(|| format!("the engine refused the request with status {status}"));
            ApiError::new(status.as_u16(), "invalid_request_error", message).to_json().into()
        }
    }
}
