//! A stream on its way to the client, polled by the client's own task: no channel, no second task.
//!
//! Whole events pass byte for byte while a scanner looks at them. The stream is complete only if every choice has a
//! finish reason; any other end is told to the client as an error event, and never followed by `[DONE]`.
//! Dropping the body drops the upstream connection with it, which is what makes the engine stop.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aya_proxy::{ApiError, ResponseBody, SseScanner, StreamFacts, UpstreamError};
use aya_trace::OutcomeStatus;
use bytes::Bytes;
use memchr::memmem;
use tokio::time::Sleep;

use super::account::{Account, End};
use super::blame::abandoned;
use super::carried;
use crate::fallen::{Ear, SILENCE_MAX};
use crate::http::body::Pieces;
use crate::http::respond;
use crate::ledger::Lease;
use crate::metrics::EndpointMetrics;
use crate::shared::Shared;

/// How long an engine may take to end a body whose last event it has sent.
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// What ends an event stream in OpenAI's manner.
const DONE: &[u8] = b"data: [DONE]";

/// The upstream stream with its lease and its account.
#[derive(Debug)]
pub(crate) struct StreamBody {
    shared: Arc<Shared>,
    upstream: ResponseBody,
    scanner: SseScanner,
    account: Account,
    /// Dropped as soon as the stream has ended, not when the client has read it.
    lease: Option<Lease>,
    endpoint: Arc<EndpointMetrics>,
    choices: u32,
    /// Chunks that were read before the client's response began.
    held: std::collections::VecDeque<Bytes>,
    state: State,
    /// Hears that a GPU beneath the endpoint has failed.
    ear: Ear,
    /// The request's last instant. The silence between two events is the upstream body's own deadline.
    total: Pin<Box<Sleep>>,
    /// Without a client it is read on to its end.
    drains: bool,
}

#[derive(Debug)]
enum State {
    Flowing,
    /// The last piece is out.
    Ended,
}

/// What a stream is made of when its first event has been seen.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) upstream: ResponseBody,
    pub(crate) scanner: SseScanner,
    pub(crate) held: Vec<Bytes>,
    pub(crate) lease: Lease,
    pub(crate) endpoint: Arc<EndpointMetrics>,
    pub(crate) choices: u32,
    pub(crate) total: Pin<Box<Sleep>>,
    pub(crate) drains: bool,
}

impl StreamBody {
    pub(crate) fn new(shared: Arc<Shared>, account: Account, begun: Begun) -> Self {
        let Begun { upstream, scanner, held, lease, endpoint, choices, total, drains } = begun;
        let ear = lease.cell().fallen().listen();
        let (lease, state) = (Some(lease), State::Flowing);
        let held = held.into();
        let mut stream = Self {
            shared,
            upstream,
            scanner,
            account,
            lease,
            endpoint,
            choices,
            held,
            state,
            ear,
            total,
            drains,
        };
        stream.let_go_when_told_all();
        stream
    }

    fn heard(&mut self, events_before: u64, seen_before: u64) {
        let now = self.shared.clock.now();
        let facts = self.scanner.facts();
        let seen = facts.content_events;
        // Comments are no tokens: an engine that only keeps its connection alive is silent.
        if facts.events > events_before {
            self.upstream.progressed();
        }
        if seen > seen_before {
            self.account.tokens(seen, now);
            if let Some(lease) = &mut self.lease {
                lease.tokens(seen - seen_before, now);
            }
        }
        self.let_go_when_told_all();
    }

    /// After the whole answer the endpoint is free, and its goodbye is waited for only to keep the connection.
    fn let_go_when_told_all(&mut self) {
        let facts = self.scanner.facts();
        if facts.done
            && facts.is_success(self.choices)
            && let Some(lease) = self.lease.take()
        {
            lease.cell().answered();
            lease.completed(self.shared.clock.now());
            self.upstream.set_idle_timeout(GOODBYE_MAX);
        }
    }

    /// Passes a scanned chunk on, or its part up to a `[DONE]` that would claim success falsely.
    fn looked_at(&mut self, chunk: Bytes) -> Bytes {
        let facts = self.scanner.facts();
        let failed = facts.error.is_some() || (facts.done && !facts.is_success(self.choices));
        if !failed || !self.held.is_empty() {
            return chunk;
        }
        let told = facts.error.is_some();
        let end = memmem::find(&chunk, DONE).unwrap_or(chunk.len());
        let passed = chunk.slice(..end);
        self.blame();
        self.close(OutcomeStatus::Truncated, Some("upstream_error"));
        if told { passed } else { [&passed[..], &broken_off().to_sse_frame()].concat().into() }
    }

    /// The upstream's body is over: success only if every choice is finished.
    fn ended(&mut self) -> Option<Bytes> {
        if self.scanner.facts().is_success(self.choices) {
            self.close(OutcomeStatus::Completed, None);
            return Some(self.scanner.take_held()).filter(|rest| !rest.is_empty());
        }
        Some(self.failed("the engine ended the stream before the answer was complete"))
    }

    fn broken(&mut self, error: &UpstreamError) -> Option<Bytes> {
        if self.scanner.facts().is_success(self.choices) {
            // The answer is whole; what broke was only the goodbye.
            self.close(OutcomeStatus::Completed, None);
            return None;
        }
        tracing::warn!(request = %self.account.request_id(), %error, "stream broke");
        let silent = matches!(error, UpstreamError::Timeout { .. });
        Some(self.failed(if silent && self.ear.has_heard() {
            "a GPU of the engine failed in the middle of the answer"
        } else if silent {
            "the engine stopped sending tokens"
        } else {
            "the connection to the engine broke in the middle of the answer"
        }))
    }

    /// Leaves the rest to a task that reads it.
    fn read_on(&mut self) {
        if let (Some(rest), Some(lease)) = (self.upstream.take_rest(), self.lease.take()) {
            carried::read_on(rest, lease, self.total.deadline());
        }
    }

    fn blame(&self) {
        self.endpoint.failures.inc();
        if let Some(lease) = &self.lease {
            lease.cell().broke_off();
        }
    }

    /// Cut by the endpoint's fault.
    fn failed(&mut self, message: &str) -> Bytes {
        self.blame();
        self.truncate(message)
    }

    fn truncate(&mut self, message: &str) -> Bytes {
        self.close(OutcomeStatus::Truncated, Some("stream_truncated"));
        truncated(message).to_sse_frame().into()
    }

    fn close(&mut self, status: OutcomeStatus, error: Option<&str>) {
        self.state = State::Ended;
        self.account.facts(self.scanner.facts());
        self.account.close(End { status, http_status: Some(200), error });
        if let Some(lease) = self.lease.take()
            && status == OutcomeStatus::Completed
        {
            lease.cell().answered();
            lease.completed(self.shared.clock.now());
        }
    }
}

impl Pieces for StreamBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(chunk) = self.held.pop_front() {
            return Poll::Ready(Some(self.looked_at(chunk)));
        }
        if matches!(self.state, State::Ended) {
            return Poll::Ready(None);
        }
        loop {
            match self.upstream.poll_chunk(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    let StreamFacts { events, content_events, .. } = *self.scanner.facts();
                    let Ok(whole) = self.scanner.feed_whole(&chunk) else {
                        return Poll::Ready(Some(self.failed("an event of the engine's stream is too long")));
                    };
                    self.heard(events, content_events);
                    // A mere piece of an event stays with the scanner until its end has come.
                    if !whole.is_empty() {
                        return Poll::Ready(Some(self.looked_at(whole)));
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.broken(&error)),
                Poll::Ready(None) => return Poll::Ready(self.ended()),
                Poll::Pending if self.lease.is_some() && self.ear.hears(cx) => {
                    self.upstream.set_idle_timeout(SILENCE_MAX);
                }
                Poll::Pending => {
                    ready!(self.total.as_mut().poll(cx));
                    return Poll::Ready(Some(self.truncate("the request's total time is over")));
                }
            }
        }
    }

    fn cut(&mut self) -> Bytes {
        let mut last = self.held.drain(..).collect::<Vec<Bytes>>().concat();
        let facts = self.scanner.facts();
        if matches!(self.state, State::Ended) {
            // What is held is the end.
        } else if facts.done && facts.is_success(self.choices) {
            self.close(OutcomeStatus::Completed, None);
        } else {
            let error = respond::shutting_down();
            last.extend_from_slice(&error.to_sse_frame());
            self.close(OutcomeStatus::Truncated, error.code);
        }
        last.into()
    }
}

impl Drop for StreamBody {
    /// The client has gone, or is cut off: what it got so far still belongs into the record.
    fn drop(&mut self) {
        if matches!(self.state, State::Ended) {
            return;
        }
        let facts = self.scanner.facts();
        let (status, error) = if facts.done && facts.is_success(self.choices) {
            // It had everything and did not wait for our goodbye.
            (OutcomeStatus::Completed, None)
        } else {
            abandoned(&self.shared, OutcomeStatus::Truncated)
        };
        if self.drains && !self.shared.stopping.is_cutting() {
            self.read_on();
        }
        self.close(status, error);
    }
}

fn truncated(message: &str) -> ApiError {
    ApiError::new(502, "upstream_error", message).code("stream_truncated").should_retry(false)
}

fn broken_off() -> ApiError {
    truncated("the engine ended the stream before the answer was complete")
}
