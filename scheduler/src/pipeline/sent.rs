//! A request on its way to one endpoint: how it is asked, what is written, what a refusal means.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{EndpointInfo, MonoTime, RequestKind};
use aya_proxy::upstream::{Method, Phase, Quiet, Socket, exchange_watched};
use aya_proxy::{
    Edits, RequestHead, Response as EngineResponse, SplicedBody, UpstreamConfig, UpstreamError, splice,
};
use tokio::time::timeout;

use super::failure::{Failure, Pause, in_openai_shape};
use super::{Account, Prepared, resolve};
use crate::shared::Shared;

/// An engine's error answer; more of it is not read.
const ERROR_BODY_MAX: usize = 256 * 1024;

/// Where a deadline around the whole exchange rules, the socket's own comes this much later: the two differ in whose
/// fault they are.
pub(super) const BEHIND: Duration = Duration::from_secs(1);

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
    pub(super) fn of(prepared: &Prepared, endpoint: &EndpointInfo) -> Self {
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
    pub(crate) prepared: &'a Prepared,
    pub(crate) patience: Patience,
}

/// What may still follow this attempt. A failure was work done in vain; a push-back cost nothing, so its request waits
/// for room as it would have done had Aya known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) failures_left: usize,
    pub(crate) pushbacks_left: usize,
    pub(crate) wait_until: MonoTime,
    /// Nothing is dispatched after it: the client's deadline, or the end of the request's total time.
    pub(crate) dispatch_until: MonoTime,
}

impl Patience {
    pub(super) fn is_over(self, why: Pause, now: MonoTime) -> bool {
        match why {
            Pause::Failed => self.failures_left == 0 || now >= self.dispatch_until,
            Pause::Over => true,
            Pause::PushedBack(_) => self.pushbacks_left == 0 || now >= self.wait_until,
        }
    }
}

/// The last instant of a request.
pub(super) fn total_until(shared: &Shared, prepared: &Prepared) -> MonoTime {
    prepared.request.arrived_at.after(shared.config.timeouts.total)
}

/// How long an exchange may take.
struct Waits<'a> {
    silence: Duration,
    total: Duration,
    quiet: Option<Quiet<'a>>,
}

/// Where nothing but the request's own time bounds an exchange.
pub(super) fn late_is_over(error: UpstreamError) -> Failure {
    let is_late = matches!(error, UpstreamError::Timeout { phase: Phase::Head | Phase::Body });
    if is_late { Failure::over() } else { error.into() }
}

/// A request on its way to one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent<'a> {
    pub(super) up: Upstream<'a>,
    pub(super) endpoint: &'a EndpointInfo,
    pub(super) mode: Mode,
    /// When it was placed there.
    pub(super) at: MonoTime,
    /// Of the endpoint, unless its URL has a name in it.
    pub(super) address: Option<SocketAddr>,
}

impl Sent<'_> {
    /// Sends the request and gives the answer if its status is a success. `head_timeout`: also of any later silence.
    pub(super) async fn exchange(
        &self,
        account: &mut Account,
        head_timeout: Duration,
    ) -> Result<EngineResponse, Failure> {
        let waits = Waits { silence: head_timeout, total: Duration::MAX, quiet: None };
        self.exchange_within(account, waits).await
    }

    /// The same within the request's time, which alone bounds an answer in one piece.
    pub(super) async fn exchange_in_all(
        &self,
        account: &mut Account,
        left: Duration,
        quiet: Quiet<'_>,
    ) -> Result<EngineResponse, Failure> {
        self.exchange_within(account, Waits { silence: left, total: left, quiet: Some(quiet) }).await
    }

    async fn exchange_within(
        &self,
        account: &mut Account,
        mut waits: Waits<'_>,
    ) -> Result<EngineResponse, Failure> {
        let Upstream { shared, prepared, .. } = self.up;
        let address = self.address().await?;
        let body = self.body();
        let authorization = match shared.authorization(&self.endpoint.id) {
            Some(own_key) => own_key.to_str().ok(),
            None => prepared.authorization.as_deref(),
        };
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
            authorization,
            traceparent: prepared.traceparent.as_deref(),
        };
        let config = UpstreamConfig {
            connect_timeout: shared.config.timeouts.connect,
            head_timeout: waits.silence,
            idle_timeout: waits.silence,
            total_timeout: waits.total,
            ..UpstreamConfig::default()
        };
        let quiet = waits.quiet.as_mut().map(Quiet::again);
        let mut answer = exchange_watched(address, &head, &body, &config, Socket::PooledOrFresh, quiet).await;
        if answer.as_ref().is_err_and(UpstreamError::is_stale_socket) {
            account.resent();
            answer = exchange_watched(address, &head, &body, &config, Socket::Fresh, waits.quiet).await;
        }
        let response = if waits.total < Duration::MAX {
            answer.map_err(late_is_over)
        } else {
            answer.map_err(Failure::from)
        }?;
        if response.head.status.is_success() {
            Ok(response)
        } else {
            // In a box, because it is rare: its room would be part of every request's.
            Err(Box::pin(self.refusal(response)).await)
        }
    }

    async fn address(&self) -> Result<SocketAddr, Failure> {
        if let Some(address) = self.address {
            return Ok(address);
        }
        let resolving = resolve::resolve(&self.endpoint.url, self.at);
        timeout(self.up.shared.config.timeouts.connect, resolving)
            .await
            .map_err(|_| Failure::late("resolve_timeout"))?
            .map_err(|error| Failure::broken(format!("resolve: {error}")))
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
                Failure::Refused { status, body: in_openai_shape(status, &body) }
            }
            // Redirects, and statuses that no engine should send: never followed, never passed on.
            _ => Failure::broken(reason),
        }
    }
}
