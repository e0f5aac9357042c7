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
use super::continuation::{Continuation, Going, Next, Went, marker};
use super::relay::FirstEvent;
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
    /// If it may go on elsewhere when it breaks off.
    continuation: Option<Box<Continuation>>,
}

enum State {
    Flowing,
    /// It broke off, and another engine is asked.
    Continuing(Going),
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
    pub(super) continuation: Option<Box<Continuation>>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Flowing => "Flowing",
            Self::Continuing(_) => "Continuing",
            Self::Ended => "Ended",
        })
    }
}

impl StreamBody {
    pub(crate) fn new(shared: Arc<Shared>, account: Account, begun: Begun) -> Self {
        let Begun { upstream, scanner, held, lease, endpoint, choices, total, drains, continuation } = begun;
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
            continuation,
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

    /// Passes a scanned chunk on, or its part up to a `[DONE]` that would claim success falsely. Empty only where the
    /// stream goes on elsewhere.
    fn looked_at(&mut self, chunk: Bytes) -> Bytes {
        let facts = self.scanner.facts();
        let told = facts.error.is_some();
        let failed = told || (facts.done && !facts.is_success(self.choices));
        let sound = self.continuation.as_ref().filter(|_| failed).and_then(|it| it.sound_part(&chunk));
        let chunk = match &mut self.continuation {
            None => chunk,
            Some(continuation) => continuation.pass(chunk),
        };
        if !failed || !self.held.is_empty() {
            return chunk;
        }
        self.blame();
        if let Some(sound) = sound
            && self.goes_on()
        {
            return sound;
        }
        let end = memmem::find(&chunk, DONE).unwrap_or(chunk.len());
        let passed = chunk.slice(..end);
        self.close(OutcomeStatus::Truncated, Some("upstream_error"));
        if told { passed } else { [&passed[..], &broken_off().to_sse_frame()].concat().into() }
    }

    /// The upstream's body is over: success only if every choice is finished.
    fn ended(&mut self) -> Option<Bytes> {
        if self.scanner.facts().is_success(self.choices) {
            self.close(OutcomeStatus::Completed, None);
            return Some(self.scanner.take_held()).filter(|rest| !rest.is_empty());
        }
        self.failed("the engine ended the stream before the answer was complete")
    }

    fn broken(&mut self, error: &UpstreamError) -> Option<Bytes> {
        if self.scanner.facts().is_success(self.choices) {
            // The answer is whole; what broke was only the goodbye.
            self.close(OutcomeStatus::Completed, None);
            return None;
        }
        tracing::warn!(request = %self.account.request_id(), %error, "stream broke");
        let silent = matches!(error, UpstreamError::Timeout { .. });
        self.failed(if silent && self.ear.has_heard() {
            "a GPU of the engine failed in the middle of the answer"
        } else if silent {
            "the engine stopped sending tokens"
        } else {
            "the connection to the engine broke in the middle of the answer"
        })
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

    /// Cut by the endpoint's fault. `None`: it goes on elsewhere.
    fn failed(&mut self, message: &str) -> Option<Bytes> {
        self.blame();
        if self.goes_on() { None } else { Some(self.truncate(message)) }
    }

    /// Sets out to another engine, if it may; this one is told to stop first.
    fn goes_on(&mut self) -> bool {
        let Some(continuation) = &mut self.continuation else { return false };
        drop(self.upstream.take_rest());
        match continuation.set_out(&self.shared, &mut self.account, self.scanner.facts()) {
            Some(going) => (self.state, self.lease) = (State::Continuing(going), None),
            None => self.continuation = None,
        }
        self.continuation.is_some()
    }

    /// What the client sees of the change: a comment, or the end.
    fn went(&mut self, went: Went) -> Bytes {
        self.account = went.account;
        let Some(Next { first, lease, metrics, endpoint }) = went.next else {
            return self.truncate("the engine broke off, and no other one could go on");
        };
        let FirstEvent { mut response, scanner, held } = first;
        response.body.count_progress_only();
        response.body.set_idle_timeout(self.shared.config.timeouts.inter_token);
        self.ear = lease.cell().fallen().listen();
        (self.upstream, self.scanner, self.held) = (response.body, scanner, held.into());
        (self.lease, self.endpoint, self.state) = (Some(lease), metrics, State::Flowing);
        self.let_go_when_told_all();
        marker(&endpoint)
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
        loop {
            if let Some(chunk) = self.held.pop_front() {
                let piece = self.looked_at(chunk);
                if piece.is_empty() {
                    continue;
                }
                return Poll::Ready(Some(piece));
            }
            match &mut self.state {
                State::Flowing => {}
                State::Ended => return Poll::Ready(None),
                State::Continuing(going) => {
                    let went = ready!(going.as_mut().poll(cx));
                    return Poll::Ready(Some(self.went(went)));
                }
            }
            match self.upstream.poll_chunk(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    let StreamFacts { events, content_events, .. } = *self.scanner.facts();
                    let Ok(whole) = self.scanner.feed_whole(&chunk) else {
                        match self.failed("an event of the engine's stream is too long") {
                            None => continue,
                            told => return Poll::Ready(told),
                        }
                    };
                    self.heard(events, content_events);
                    // A mere piece of an event stays with the scanner until its end has come.
                    if !whole.is_empty() {
                        let piece = self.looked_at(whole);
                        if !piece.is_empty() {
                            return Poll::Ready(Some(piece));
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let told = self.broken(&error);
                    if !matches!(self.state, State::Continuing(_)) {
                        return Poll::Ready(told);
                    }
                }
                Poll::Ready(None) => {
                    let told = self.ended();
                    if !matches!(self.state, State::Continuing(_)) {
                        return Poll::Ready(told);
                    }
                }
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
