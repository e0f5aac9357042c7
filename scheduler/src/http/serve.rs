//! One client connection: request after request, each answered before the next is read.
//!
//! The request's own future lives in a box of its own, gone when the answer begins: an open stream holds little more
//! than its relay. While an answer is made the socket is watched, so a client that leaves drops the request at once.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use aya_admission::Pressure;
use aya_config::Timeouts;
use aya_observe::Clock;
use aya_proxy::ApiError;
use aya_proxy::downstream::{self, AnswerLength, AnswerShape, RequestHead, write_head};
use bytes::Bytes;
use http::Method;
use tokio::net::TcpStream;
use tracing::debug;

use super::answer::Answer;
use super::attention::Attention;
use super::body::ClientBody;
use super::h2;
use super::respond;
use super::wire::{BodyLimits, Idle, Wire, WireEnd};
use crate::routes::{self, Call};
use crate::shared::Shared;
use crate::stopping::Step;

/// What a connection that was accepted last may take to send its request when the scheduler closes idle ones.
const FIRST_AT_CLOSE_MAX: Duration = Duration::from_millis(500);

/// What is read and dropped after a refusal: bodies that are allowed, and those that are somewhat too large.
const LINGER_BODIES: usize = 2;

/// Serves a connection until its client or the scheduler's end ends it. Must stay on its thread.
pub(crate) async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let _attention = Attention::of_this_task().await;
    // Without it the last piece of a small answer waits for the client's acknowledgement; failing costs only that.
    let _ = socket.set_nodelay(true);
    let mut connection =
        Connection { wire: Wire::new(socket, shared.clock.clone(), shared.config.timeouts.clone()), shared };
    loop {
        match connection.request().await {
            Ok(Next::Request) => {}
            Ok(Next::Close) => return,
            Ok(Next::Http2(head)) => return connection.go_on_with_http2(&head).await,
            Ok(Next::Linger) => {
                let bytes_max = connection.shared.config.limits.body_max.saturating_mul(LINGER_BODIES);
                return connection.wire.linger(bytes_max).await;
            }
            Err(end) => {
                debug!(%end, "client connection ended");
                return;
            }
        }
    }
}

/// What follows an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Request,
    Close,
    /// It is no connection of HTTP/1.1; this was read of it.
    Http2(Bytes),
    /// Close, but the client may still be sending.
    Linger,
}

struct Connection {
    wire: Wire,
    shared: Arc<Shared>,
}

impl Connection {
    /// One request and its answer.
    async fn request(&mut self) -> Result<Next, WireEnd> {
        let is_first = self.wire.is_first();
        let limit = self.shared.config.limits.head_max;
        let shared = &self.shared;
        let head = match self.wire.head(limit, |times| may_idle(shared, times)).await {
            Ok(Some(head)) if is_first && h2::is_preface(&head) => return Ok(Next::Http2(head)),
            Ok(Some(head)) => downstream::parse(&head),
            Ok(None) => return Ok(Next::Close),
            Err(WireEnd::Head(error)) => Err(error),
            Err(end) => return Err(end),
        };
        let head = match head {
            Ok(head) => head,
            Err(error) => {
                let answer = respond::and_close(respond::error(&error.to_api_error()));
                self.wire.begin_answer();
                return self.answer(answer, Shape::UNKNOWN).await;
            }
        };
        let shape = Shape {
            keep_alive: head.keep_alive,
            is_http_1_0: head.is_http_1_0,
            is_head: head.method == Method::HEAD,
        };
        let answer = self.respond(head).await?;
        self.answer(answer, shape).await
    }

    /// In a box of its own: connections of HTTP/1.1 hold no room for it.
    async fn go_on_with_http2(self, head: &Bytes) {
        let (socket, ahead) = self.wire.into_parts();
        Box::pin(h2::serve(socket, [head, ahead.as_slice()].concat(), self.shared)).await;
    }

    async fn respond(&mut self, head: RequestHead) -> Result<Answer, WireEnd> {
        let (framing, expects_continue) = (head.framing, head.expects_continue);
        let has_body = framing != aya_proxy::Framing::Length(0);
        let infer = match routes::open(&self.shared, head) {
            Call::Answered(answer) => {
                self.wire.begin_answer();
                // A body that nobody asked for is not read, so the next request cannot be found behind it.
                return Ok(if has_body { respond::and_close(answer) } else { answer });
            }
            Call::Infer(infer) => infer,
        };
        let limits = &self.shared.config.limits;
        let limits = BodyLimits { bytes_max: limits.body_max, rate_min: limits.body_rate_min };
        let body = self.wire.body(framing, limits, expects_continue).await;
        self.wire.begin_answer();
        self.infer(*infer, body).await
    }

    async fn infer(
        &mut self,
        infer: routes::Infer,
        body: Result<Bytes, ApiError>,
    ) -> Result<Answer, WireEnd> {
        let mut answering = Box::pin(routes::infer(&self.shared, infer, body));
        let wire = &mut self.wire;
        poll_fn(|cx| match answering.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => wire.poll_gone(cx).map(Err),
        })
        .await
    }

    async fn answer(&mut self, answer: Answer, shape: Shape) -> Result<Next, WireEnd> {
        let Answer { status, fields, closes, body } = answer;
        let keep_alive = shape.keep_alive && !closes;
        let length = match &body {
            ClientBody::Whole(bytes) => AnswerLength::Known(bytes.len()),
            ClientBody::Stream(_) if shape.is_http_1_0 => AnswerLength::UntilClose,
            ClientBody::Stream(_) => AnswerLength::Chunked,
        };
        let mut head = Vec::with_capacity(HEAD_GUESS);
        with_date(&self.shared.clock, |date| {
            write_head(&mut head, status, &fields, &AnswerShape { length, keep_alive, date });
        });
        match body {
            _ if shape.is_head => self.wire.write_whole(head, b"").await?,
            ClientBody::Whole(bytes) => self.wire.write_whole(head, &bytes).await?,
            ClientBody::Stream(mut pieces) => {
                let chunked = length == AnswerLength::Chunked;
                let stopping = &self.shared.stopping;
                self.wire.write_stream(head, pieces.as_mut(), chunked, || stopping.is_cutting()).await?;
            }
        }
        Ok(match (keep_alive, closes) {
            (true, _) => Next::Request,
            (false, true) => Next::Linger,
            (false, false) => Next::Close,
        })
    }
}

fn may_idle(shared: &Shared, times: &Timeouts) -> Idle {
    if shared.stopping.step() >= Step::Closing {
        return Idle { first: times.first_byte.min(FIRST_AT_CLOSE_MAX), next: Duration::ZERO };
    }
    match shared.pressure.get() {
        Pressure::None => Idle { first: times.first_byte, next: times.idle },
        Pressure::ShortIdle => {
            let short = shared.config.memory.short_idle;
            Idle { first: times.first_byte.min(short), next: times.idle.min(short) }
        }
        Pressure::NoKeepAlive | Pressure::Refuse => {
            Idle { first: times.first_byte.min(shared.config.memory.short_idle), next: Duration::ZERO }
        }
    }
}

/// Room for an answer's head and a small body, in bytes.
const HEAD_GUESS: usize = 1024;

/// What the request's head says about the answer's form.
#[derive(Debug, Clone, Copy)]
struct Shape {
    keep_alive: bool,
    is_http_1_0: bool,
    is_head: bool,
}

impl Shape {
    /// For a head that could not be read.
    const UNKNOWN: Self = Self { keep_alive: false, is_http_1_0: false, is_head: false };
}

thread_local! {
    /// The present second as an HTTP date, and that second.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Lends the present as an HTTP date; it is written anew once per second.
pub(super) fn with_date<T>(clock: &Clock, then: impl FnOnce(&str) -> T) -> T {
    let now = clock.now();
    let second = now.as_nanos() / 1_000_000_000;
    DATE.with_borrow_mut(|(at, text)| {
        if *at != second {
            let wall = Duration::from_secs(clock.wall(now).as_unix_s());
            *text = httpdate::fmt_http_date(std::time::UNIX_EPOCH + wall);
            *at = second;
        }
        then(text)
    })
}
