//! One request and its answer on one socket.
//!
//! The request's own task polls the socket: writing and reading go on together (an engine may refuse before it has
//! read everything), every wait has a deadline, and reads go through one 64 KiB buffer per thread, so a quiet stream
//! holds no buffer at all. A socket goes back to the pool only after an answer that was read to its exact end.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::response::{self, ParsedHead};
use super::waits::{Quiet, Until};
use super::{HEAD_MAX, Phase, RequestHead, ResponseHead, UpstreamConfig, UpstreamError, pool};
use crate::framing::{Decoder, Framing};
use crate::scratch::poll_read;
use crate::splice::{PARTS_MAX, SplicedBody};
use crate::timer::PhaseTimer;

/// Up to here head and body are copied into one buffer: one plain send is cheaper than a vectored one.
const FLATTEN_MAX: usize = 16 * 1024;

/// Which socket to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// An idle one if there is one.
    PooledOrFresh,
    /// A new connection: after a pooled socket turned out to be stale.
    Fresh,
}

/// An engine's answer.
#[derive(Debug)]
pub struct Response {
    pub head: ResponseHead,
    pub body: ResponseBody,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    timer: PhaseTimer<Phase>,
    addr: SocketAddr,
    reused: bool,
}

/// Sends a request and waits for the head of the answer. Dropping the future closes the socket.
///
/// # Errors
/// [`UpstreamError`]; the socket is closed.
pub async fn exchange(
    addr: SocketAddr,
    head: &RequestHead<'_>,
    body: &SplicedBody,
    config: &UpstreamConfig,
    socket: Socket,
) -> Result<Response, UpstreamError> {
    exchange_watched(addr, head, body, config, socket, None).await
}

/// [`exchange()`], which tells when the engine is silent for long.
///
/// # Errors
/// As from [`exchange()`].
pub async fn exchange_watched(
    addr: SocketAddr,
    head: &RequestHead<'_>,
    body: &SplicedBody,
    config: &UpstreamConfig,
    socket: Socket,
    mut quiet: Option<Quiet<'_>>,
) -> Result<Response, UpstreamError> {
    let mut outgoing = Outgoing::new(head, body)?;
    let (mut conn, now) = open(addr, config, socket).await?;
    let until = Until::from(now, config.total_timeout);
    let longest = until.bound(now, config.head_timeout);
    conn.timer.start_at(now, Phase::Head, quiet.as_ref().map_or(longest, |quiet| quiet.after.min(longest)));
    let mut incoming = Incoming::default();
    let (parsed, ready) = poll_fn(|cx| {
        outgoing.poll_send(&mut conn.stream, cx);
        if let Poll::Ready(result) = incoming.poll_head(&mut conn, cx) {
            return Poll::Ready(result);
        }
        loop {
            let phase = ready!(conn.timer.poll(cx));
            let Some(quiet) = quiet.take() else {
                return Poll::Ready(Err(UpstreamError::Timeout { phase }));
            };
            (quiet.then)();
            conn.timer.bound(longest);
        }
    })
    .await?;
    let now = Instant::now();
    conn.timer.start_at(now, Phase::Body, until.bound(now, config.idle_timeout));
    let keep = parsed.keep_alive && outgoing.is_sent() && !incoming.has_excess;
    let decoder = incoming.decoder.unwrap_or_else(|| Decoder::new(parsed.framing));
    let mut body =
        ResponseBody { conn: Some(conn), decoder, ready, config: *config, until, keep, by_reader: false };
    body.release_if_done(now);
    Ok(Response { head: parsed.head, body })
}

/// A socket, and when it was ready.
async fn open(
    addr: SocketAddr,
    config: &UpstreamConfig,
    socket: Socket,
) -> Result<(Conn, Instant), UpstreamError> {
    let now = Instant::now();
    if socket == Socket::PooledOrFresh {
        let pooled = poll_fn(|cx| Poll::Ready(pool::take(addr, config.keep_alive, now, cx))).await;
        if let Some(pool::Kept { stream, timer }) = pooled {
            return Ok((Conn { stream, timer, addr, reused: true }, now));
        }
    }
    let mut timer = PhaseTimer::new(Phase::Connect, config.connect_timeout);
    let mut connecting = std::pin::pin!(TcpStream::connect(addr));
    let stream = poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(result) => Poll::Ready(result.map_err(|e| UpstreamError::Connect { kind: e.kind() })),
        Poll::Pending => timer.poll(cx).map(|phase| Err(UpstreamError::Timeout { phase })),
    })
    .await?;
    // Without it the last segment of a request waits for an acknowledgement. A failure costs time, not correctness.
    let _ = stream.set_nodelay(true);
    Ok((Conn { stream, timer, addr, reused: false }, Instant::now()))
}

/// The request on its way out.
struct Outgoing<'b> {
    /// The head, and for small messages the body behind it.
    front: Vec<u8>,
    /// The body, unless it is in `front`.
    body: Option<&'b SplicedBody>,
    total: usize,
    written: usize,
    failed: bool,
}

impl<'b> Outgoing<'b> {
    fn new(head: &RequestHead<'_>, body: &'b SplicedBody) -> Result<Self, UpstreamError> {
        const HEAD_GUESS: usize = 384;
        let flatten = body.len() <= FLATTEN_MAX;
        let mut front = Vec::with_capacity(HEAD_GUESS + if flatten { body.len() } else { 0 });
        head.write(body.len(), &mut front)?;
        let head_len = front.len();
        if flatten {
            body.parts().iter().for_each(|part| front.extend_from_slice(part));
        }
        let total = head_len + body.len();
        Ok(Self { front, body: (!flatten).then_some(body), total, written: 0, failed: false })
    }

    const fn is_sent(&self) -> bool {
        self.written == self.total
    }

    /// Writes what the socket takes. A head that comes before the end of the writing ends it: the rest is never sent.
    /// A failure only ends the writing: the engine may have answered before it closed,
    /// and if not, the read says so.
    fn poll_send(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) {
        while !self.is_sent() && !self.failed {
            match self.poll_write(stream, cx) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => self.failed = true,
                Poll::Ready(Ok(count)) => self.written += count,
                Poll::Pending => return,
            }
        }
        // The wait for the first token can be long: it holds no copy of the request.
        self.front = Vec::new();
    }

    fn poll_write(&self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let front = self.front.get(self.written..).unwrap_or_default();
        let Some(body) = self.body else { return Pin::new(stream).poll_write(cx, front) };
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
        let (first, others) = slices.split_at_mut(usize::from(!front.is_empty()));
        first.iter_mut().for_each(|slot| *slot = IoSlice::new(front));
        let used = first.len() + body.io_slices(self.written.saturating_sub(self.front.len()), others);
        Pin::new(stream).poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
    }
}

/// The head on its way in.
#[derive(Default)]
struct Incoming {
    /// What came of a head that did not come at once.
    partial: Vec<u8>,
    /// Set with the head: what came behind it has passed through it.
    decoder: Option<Decoder>,
    /// The engine sent more than its answer.
    has_excess: bool,
}

impl Incoming {
    fn poll_head(
        &mut self,
        conn: &mut Conn,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(ParsedHead, Bytes), UpstreamError>> {
        let reused = conn.reused;
        loop {
            let outcome = ready!(poll_read(&mut conn.stream, cx, |input| self.take(input)));
            match outcome {
                Err(_) | Ok(None) if self.partial.is_empty() => {
                    return Poll::Ready(Err(UpstreamError::ClosedBeforeHead { reused }));
                }
                Err(error) => return Poll::Ready(Err(UpstreamError::Io { kind: error.kind() })),
                Ok(None) => return Poll::Ready(Err(UpstreamError::BadHead { what: "it ends early" })),
                Ok(Some(Ok(None))) => {}
                Ok(Some(Ok(Some(found)))) => return Poll::Ready(Ok(found)),
                Ok(Some(Err(error))) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Adds bytes to the head; once it is whole, the rest of them are the beginning of the body.
    fn take(&mut self, input: &[u8]) -> Result<Option<(ParsedHead, Bytes)>, UpstreamError> {
        let before = self.partial.len();
        let parsed = if before == 0 {
            response::parse(input)?
        } else {
            self.partial.extend_from_slice(input);
            // A head ends with a line end: pieces of a line need no parsing (an engine may send them byte by byte).
            if input.contains(&b'\n') { response::parse(&self.partial)? } else { None }
        };
        let Some(parsed) = parsed else {
            if before == 0 {
                self.partial.extend_from_slice(input);
            }
            let fits = self.partial.len() <= HEAD_MAX;
            return if fits { Ok(None) } else { Err(UpstreamError::HeadTooLarge { limit: "64 KiB" }) };
        };
        if parsed.length > HEAD_MAX {
            return Err(UpstreamError::HeadTooLarge { limit: "64 KiB" });
        }
        let rest = input.get(parsed.length.saturating_sub(before)..).unwrap_or_default();
        let mut decoder = Decoder::new(parsed.framing);
        let mut out = Vec::with_capacity(rest.len());
        let used = decoder.decode(rest, &mut out)?;
        self.has_excess = used < rest.len();
        self.decoder = Some(decoder);
        Ok(Some((parsed, Bytes::from(out))))
    }
}

/// The body of an answer. Dropped before its end, it closes the socket: the engine's sign to cancel.
#[derive(Debug)]
pub struct ResponseBody {
    /// `None` once the socket has been released or closed.
    conn: Option<Conn>,
    decoder: Decoder,
    ready: Bytes,
    config: UpstreamConfig,
    until: Until,
    keep: bool,
    /// The reader tells what counts against the longest silence.
    by_reader: bool,
}

impl ResponseBody {
    /// The next data of the body, de-chunked: all that one read gave. `None` is its proper end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        loop {
            if !self.ready.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut self.ready))));
            }
            // Released at its end, or closed by an error that has been given out.
            let Some(conn) = &mut self.conn else { return Poll::Ready(None) };
            let decoder = &mut self.decoder;
            let read = poll_read(&mut conn.stream, cx, |input| {
                let mut out = Vec::with_capacity(input.len());
                let used = decoder.decode(input, &mut out)?;
                Ok((Bytes::from(out), used < input.len()))
            });
            let result = match read {
                Poll::Pending => {
                    ready!(conn.timer.poll(cx).map(|phase| Err(UpstreamError::Timeout { phase })))
                }
                Poll::Ready(Ok(Some(decoded))) => decoded,
                Poll::Ready(Ok(None)) => {
                    decoder.end().map(|()| (Bytes::new(), true)).map_err(UpstreamError::from)
                }
                Poll::Ready(Err(error)) => Err(UpstreamError::Io { kind: error.kind() }),
            };
            match result {
                Ok((data, has_excess)) => {
                    self.keep &= !has_excess;
                    self.ready = data;
                    let now = Instant::now();
                    if !self.by_reader {
                        conn.timer.start_at(
                            now,
                            Phase::Body,
                            self.until.bound(now, self.config.idle_timeout),
                        );
                    }
                    self.release_if_done(now);
                }
                Err(error) => {
                    self.conn = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    /// The next data of the body; see [`Self::poll_chunk`].
    ///
    /// # Errors
    /// [`UpstreamError`]; the socket is closed and the body has ended.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        poll_fn(|cx| self.poll_chunk(cx)).await.transpose()
    }

    /// The whole body, if it is not larger than `limit` bytes; `None` if it is, and then the socket is closed.
    ///
    /// # Errors
    /// [`UpstreamError`], as from [`Self::poll_chunk`].
    pub async fn collect(mut self, limit: usize) -> Result<Option<Bytes>, UpstreamError> {
        let mut whole = Vec::new();
        while let Some(data) = self.chunk().await? {
            if whole.is_empty() && self.is_end() && data.len() <= limit {
                return Ok(Some(data));
            }
            if whole.len() + data.len() > limit {
                return Ok(None);
            }
            whole.extend_from_slice(&data);
        }
        Ok(Some(Bytes::from(whole)))
    }

    /// The rest of the body for somebody else to read, who has to be as patient; here it has ended then. `None`: it had.
    pub fn take_rest(&mut self) -> Option<Self> {
        let mut conn = self.conn.take()?;
        let now = Instant::now();
        conn.timer.start_at(now, Phase::Body, self.until.bound(now, self.config.idle_timeout));
        Some(Self {
            conn: Some(conn),
            decoder: std::mem::replace(&mut self.decoder, Decoder::new(Framing::Length(0))),
            ready: std::mem::take(&mut self.ready),
            config: self.config,
            until: self.until,
            keep: self.keep,
            by_reader: false,
        })
    }

    /// Whether everything of the body has been given out.
    #[must_use]
    pub fn is_end(&self) -> bool {
        self.ready.is_empty() && self.decoder.is_done()
    }

    /// The longest silence from now on; the first token may be waited for longer than the next ones.
    pub fn set_idle_timeout(&mut self, limit: Duration) {
        self.config.idle_timeout = limit;
        if let Some(conn) = &mut self.conn {
            let now = Instant::now();
            conn.timer.start_at(now, Phase::Body, self.until.bound(now, limit));
        }
    }

    /// From now on bytes alone do not end a silence, for they may be keep-alives: [`Self::progressed`] does.
    pub fn count_progress_only(&mut self) {
        self.by_reader = true;
    }

    /// Something came that the reader has waited for.
    pub fn progressed(&mut self) {
        if let Some(conn) = &mut self.conn {
            let now = Instant::now();
            conn.timer.start_at(now, Phase::Body, self.until.bound(now, self.config.idle_timeout));
        }
    }

    fn release_if_done(&mut self, now: Instant) {
        if !self.decoder.is_done() {
            return;
        }
        if let Some(conn) = self.conn.take()
            && self.keep
        {
            let kept = pool::Kept { stream: conn.stream, timer: conn.timer };
            pool::put(conn.addr, kept, &self.config, now);
        }
    }
}

#[cfg(test)]
mod tests;
