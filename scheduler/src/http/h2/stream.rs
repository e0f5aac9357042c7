//! One request of an HTTP/2 connection: its body in, its answer out, each wait with its deadline.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use aya_proxy::downstream::{Fields, HEADERS_MAX, RequestHead};
use aya_proxy::{ApiError, Framing, PhaseTimer};
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request, Response, header};
use tracing::debug;

use crate::http::answer::Answer;
use crate::http::attention::Attention;
use crate::http::body::ClientBody;
use crate::http::wire::body::{Pace, broken_off, late, too_large};
use crate::http::{respond, serve};
use crate::routes::{self, Call};
use crate::shared::Shared;

/// Why an answer did not reach its client.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the client took it back: {0}")]
    Reset(Reason),
    #[error("the client does not read")]
    Late,
    #[error(transparent)]
    Protocol(#[from] h2::Error),
}

/// Answers one request. Dropped with its connection, it ends the request as one whose client has gone.
pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
) {
    let _attention = Attention::of_this_task().await;
    let (parts, body) = request.into_parts();
    let is_head = parts.method == Method::HEAD;
    let response = match head(parts, body.is_end_stream()) {
        Err(error) => respond::error(&error),
        Ok(head) => match routes::open(&shared, head) {
            Call::Answered(response) => response,
            Call::Infer(infer) => {
                let body = whole(body, &shared).await;
                // Its own box: an open stream holds no more than its relay.
                let mut answering = Box::pin(routes::infer(&shared, *infer, body));
                let answered = poll_fn(|cx| match answering.as_mut().poll(cx) {
                    Poll::Ready(response) => Poll::Ready(Some(response)),
                    Poll::Pending => answer.poll_reset(cx).map(|_| None),
                });
                let Some(response) = answered.await else { return };
                response
            }
        },
    };
    if let Err(end) = send(&shared, response, is_head, answer).await {
        debug!(%end, "an answer over HTTP/2 ended early");
    }
}

/// The head as the routes know it. Framing is the protocol's affair; what is left to check is whom it is for.
fn head(parts: http::request::Parts, ends: bool) -> Result<RequestHead, ApiError> {
    let bad = |status, message: &str| {
        Err(ApiError::new(status, "invalid_request_error", message).should_retry(false))
    };
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let authority = parts.uri.authority();
    match (hosts.next(), hosts.next(), authority) {
        (_, Some(_), _) => return bad(400, "there is more than one Host header"),
        (None, None, None) => return bad(400, "the request names no host"),
        (Some(host), None, Some(authority))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return bad(400, "the Host header differs from the request target");
        }
        (_, None, _) => {}
    }
    if parts.headers.len() > HEADERS_MAX {
        return bad(431, "the request has too many header fields");
    }
    Ok(RequestHead {
        method: parts.method,
        target: parts.uri,
        fields: Fields::from(&parts.headers),
        framing: if ends { Framing::Length(0) } else { Framing::Chunked },
        keep_alive: true,
        is_http_1_0: false,
        expects_continue: false,
    })
}

/// A request's body within the limits that it has over HTTP/1.1.
async fn whole(mut stream: RecvStream, shared: &Shared) -> Result<Bytes, ApiError> {
    let limits = &shared.config.limits;
    let pace = Pace::begin(shared.clock.now(), &shared.config.timeouts, limits.body_rate_min);
    let mut timer = PhaseTimer::new((), pace.first());
    let mut whole = BytesMut::new();
    poll_fn(|cx| {
        loop {
            match stream.poll_data(cx) {
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(broken_off())),
                Poll::Ready(Some(Ok(data))) if whole.len() + data.len() > limits.body_max => {
                    return Poll::Ready(Err(too_large(limits.body_max)));
                }
                Poll::Ready(Some(Ok(data))) => {
                    // A stream that has ended in the meantime needs no window.
                    let _ = stream.flow_control().release_capacity(data.len());
                    whole.extend_from_slice(&data);
                }
                Poll::Pending => {
                    ready!(timer.poll(cx));
                    match pace.left(shared.clock.now(), whole.len()) {
                        Some(left) => timer.start((), left),
                        None => return Poll::Ready(Err(late())),
                    }
                }
            }
        }
    })
    .await?;
    Ok(whole.freeze())
}

async fn send(
    shared: &Shared,
    response: Answer,
    is_head: bool,
    mut answer: SendResponse<Bytes>,
) -> Result<(), End> {
    // The connection's affairs are frames here.
    let Answer { status, fields, closes: _, body } = response;
    let mut head = Response::new(());
    *head.status_mut() = status;
    let headers = head.headers_mut();
    for (name, value) in fields.iter() {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    if let Some(date) = serve::with_date(&shared.clock, |date| HeaderValue::from_str(date).ok()) {
        headers.insert(header::DATE, date);
    }
    if let ClientBody::Whole(bytes) = &body {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    let stream = answer.send_response(head, is_head)?;
    if is_head {
        return Ok(());
    }
    let timer = PhaseTimer::new((), shared.config.timeouts.total.saturating_mul(2));
    let mut out = Out { stream, timer, stall: shared.config.timeouts.write_stall };
    match body {
        ClientBody::Whole(bytes) => out.data(bytes).await?,
        ClientBody::Stream(mut pieces) => loop {
            let stream = &mut out.stream;
            let mut is_cut = false;
            let piece = poll_fn(|cx| {
                if shared.stopping.is_cutting() {
                    is_cut = true;
                    return Poll::Ready(Ok(Some(pieces.cut())));
                }
                match pieces.poll_next(cx) {
                    Poll::Ready(piece) => Poll::Ready(Ok(piece)),
                    Poll::Pending => Poll::Ready(Err(reset(ready!(stream.poll_reset(cx))))),
                }
            });
            match piece.await? {
                Some(last_words) if is_cut => break out.data(last_words).await?,
                Some(piece) => out.data(piece).await?,
                None => break,
            }
        },
    }
    Ok(out.stream.send_data(Bytes::new(), true)?)
}

fn reset(told: Result<Reason, h2::Error>) -> End {
    told.map_or_else(End::Protocol, End::Reset)
}

/// The way out, as fast as the client opens its window.
struct Out {
    stream: SendStream<Bytes>,
    timer: PhaseTimer<()>,
    stall: std::time::Duration,
}

impl Out {
    async fn data(&mut self, mut bytes: Bytes) -> Result<(), End> {
        while !bytes.is_empty() {
            self.stream.reserve_capacity(bytes.len());
            self.timer.start((), self.stall);
            let room = poll_fn(|cx| {
                loop {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(0))) => {}
                        Poll::Ready(Some(Ok(room))) => return Poll::Ready(Ok(room)),
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(End::Protocol(error))),
                        Poll::Ready(None) => return Poll::Ready(Err(End::Reset(Reason::CANCEL))),
                        Poll::Pending if self.timer.poll(cx).is_ready() => {
                            return Poll::Ready(Err(End::Late));
                        }
                        Poll::Pending => return self.stream.poll_reset(cx).map(|told| Err(reset(told))),
                    }
                }
            });
            let room = room.await?;
            let part = bytes.split_to(room.min(bytes.len()));
            self.stream.send_data(part, false)?;
        }
        Ok(())
    }
}
