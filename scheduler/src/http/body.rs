//! Bodies of both directions: a request's body collected under limits, a response's body that tells its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aya_proxy::ApiError;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::conn::{ConnPhase, ConnState};

/// Collects a request's body of at most `limit` bytes within `deadline`.
///
/// # Errors
/// 413 at the limit, 408 at the deadline, 400 for broken framing. The connection must close after each.
pub(crate) async fn collect(
    headers: &HeaderMap,
    body: Incoming,
    limit: usize,
    deadline: Duration,
) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(deadline, gather(body, announced, limit)).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::new(408, "timeout_error", "the request body did not arrive in time")
            .code("body_timeout")),
    }
}

/// One frame is passed on as it is; several are joined once.
async fn gather(mut body: Incoming, announced: Option<usize>, limit: usize) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| ApiError::invalid_request("the request body broke off or its framing is broken"))?;
        // Trailers mean nothing to any engine.
        let Ok(data) = frame.into_data() else { continue };
        if first.len().max(joined.len()) + data.len() > limit {
            return Err(too_large(limit));
        }
        if first.is_empty() && joined.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.reserve(announced.unwrap_or(0).max(first.len() + data.len()));
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the request body is larger than {limit} bytes");
    ApiError::new(413, "invalid_request_error", message).code("body_too_large").should_retry(false)
}

/// A body that comes piece by piece.
pub(crate) trait Pieces: std::fmt::Debug + Send {
    /// The next piece; `None` ends the response.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>>;
}

/// What a client gets.
#[derive(Debug)]
pub(crate) struct ClientBody {
    content: Content,
    conn: Arc<ConnState>,
}

#[derive(Debug)]
enum Content {
    Whole(Bytes),
    Stream(Box<dyn Pieces>),
}

impl ClientBody {
    pub(crate) fn whole(bytes: impl Into<Bytes>, conn: &Arc<ConnState>) -> Self {
        Self { content: Content::Whole(bytes.into()), conn: Arc::clone(conn) }
    }

    pub(crate) fn stream(stream: impl Pieces + 'static, conn: &Arc<ConnState>) -> Self {
        Self { content: Content::Stream(Box::new(stream)), conn: Arc::clone(conn) }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(stream) => {
                stream.poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

impl Drop for ClientBody {
    /// hyper drops the body when it has taken its last byte, or when the client has gone.
    fn drop(&mut self) {
        self.conn.enter(ConnPhase::Idle);
    }
}
