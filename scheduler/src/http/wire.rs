//! A client's socket: heads and bodies in, answers out, every wait with its deadline.
//!
//! One timer serves all waits; a deadline that moves later costs no timer operation. While nothing happens a
//! connection holds no buffer: reads go through the thread's, and an answer's pieces are written from the thread's.
//! Bytes that came ahead of their turn (a pipelined request) are kept up to [`AHEAD_MAX`]; then reading stops.

pub(super) mod body;

pub(crate) use body::BodyLimits;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aya_config::Timeouts;
use aya_observe::Clock;
use aya_proxy::downstream::{CHUNK_END, HeadBytes, HeadError, chunk};
use aya_proxy::{PhaseTimer, poll_read};
use bytes::Bytes;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::Pieces;

/// Bytes kept of requests whose turn has not come.
const AHEAD_MAX: usize = 64 * 1024;
/// Pieces of a stream that are ready at once are written together up to this size.
const GATHER_MAX: usize = 64 * 1024;
/// Up to here an answer's head and body are one send, which is cheaper than a vectored one.
const FLATTEN_MAX: usize = 16 * 1024;
/// How long what still comes of a request that was refused before its end is read and dropped, so that the refusal is
/// not lost in a reset.
const LINGER_MAX: Duration = Duration::from_millis(500);

thread_local! {
    static GATHERED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(GATHER_MAX));
}

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Accepted; nothing received.
    FirstByte,
    /// Between two requests.
    Idle,
    /// The rest of a head.
    Head,
    Body,
    /// The answer, which has deadlines of its own; this is the backstop.
    Answer,
    /// A client that does not read.
    Write,
    Linger,
}

/// How long a connection may wait for a request that has not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Idle {
    /// The first one.
    pub(crate) first: Duration,
    /// A further one.
    pub(crate) next: Duration,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireEnd {
    #[error("the client closed it")]
    Closed,
    #[error("the socket failed: {0}")]
    Io(#[from] io::Error),
    #[error("its deadline for {0:?} passed")]
    Late(Wait),
    #[error("{0}")]
    Head(#[from] HeadError),
}

/// The client's side of the relay.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: TcpStream,
    timer: PhaseTimer<Wait>,
    clock: Clock,
    timeouts: Timeouts,
    ahead: Vec<u8>,
    is_first: bool,
    /// However slowly the client takes its answer, it has until here.
    answer_until: Instant,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream, clock: Clock, timeouts: Timeouts) -> Self {
        let timer = PhaseTimer::new(Wait::FirstByte, timeouts.first_byte);
        let answer_until = timer.deadline();
        Self { socket, timer, clock, timeouts, ahead: Vec::new(), is_first: true, answer_until }
    }

    /// Whether nothing has been asked for on this connection.
    pub(crate) const fn is_first(&self) -> bool {
        self.is_first
    }

    /// The socket and what was read of it and not used, for another protocol.
    pub(crate) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.socket, self.ahead)
    }

    /// The next request's head; `None` if the client is done, or has not begun one for as long as it may now.
    /// To be polled anew when `idle` has changed.
    pub(crate) async fn head(
        &mut self,
        limit: usize,
        idle: impl Fn(&Timeouts) -> Idle,
    ) -> Result<Option<Bytes>, WireEnd> {
        let mut may = Idle { first: self.timeouts.first_byte, next: self.timeouts.idle };
        let is_first = std::mem::take(&mut self.is_first);
        if !is_first {
            self.timer.start(Wait::Idle, self.timeouts.idle);
        }
        let mut bytes = HeadBytes::default();
        let ahead = std::mem::take(&mut self.ahead);
        if let Some((head, used)) = bytes.take(&ahead, limit)? {
            self.ahead = ahead.get(used..).unwrap_or_default().to_vec();
            return Ok(Some(head));
        }
        let mut begun = false;
        poll_fn(|cx| {
            loop {
                if !begun && !bytes.is_empty() {
                    begun = true;
                    self.timer.start(Wait::Head, self.timeouts.header);
                }
                let ahead = &mut self.ahead;
                let read = poll_read(&mut self.socket, cx, |input| {
                    let taken = bytes.take(input, limit)?;
                    Ok::<_, HeadError>(taken.map(|(head, used)| {
                        // Nothing is ahead of a head; what follows it is mostly a body of just this size.
                        *ahead = input.get(used..).unwrap_or_default().to_vec();
                        head
                    }))
                });
                return match read? {
                    Poll::Ready(Some(Ok(None))) => continue,
                    Poll::Ready(Some(taken)) => Poll::Ready(Ok(taken?)),
                    Poll::Ready(None) if begun => Poll::Ready(Err(WireEnd::Closed)),
                    Poll::Ready(None) => Poll::Ready(Ok(None)),
                    Poll::Pending => {
                        let now_may = idle(&self.timeouts);
                        if !begun && now_may != may {
                            may = now_may;
                            self.timer.bound(if is_first { may.first } else { may.next });
                        }
                        self.timer.poll(cx).map(|wait| Err(WireEnd::Late(wait)))
                    }
                };
            }
        })
        .await
    }

    /// From here on the request is being answered.
    pub(crate) fn begin_answer(&mut self) {
        // Requests end by their own deadlines, long before.
        let backstop = self.timeouts.total.saturating_mul(2);
        self.timer.start(Wait::Answer, backstop);
        self.answer_until = self.timer.deadline();
    }

    /// Ready when the client has gone or its answer's last instant has passed. To be polled while an answer is made:
    /// it costs no system call as long as nothing happens.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<WireEnd> {
        while self.ahead.len() < AHEAD_MAX {
            let ahead = &mut self.ahead;
            match poll_read(&mut self.socket, cx, |input| ahead.extend_from_slice(input)) {
                Poll::Ready(Ok(Some(()))) => {}
                Poll::Ready(Ok(None)) => return Poll::Ready(WireEnd::Closed),
                Poll::Ready(Err(error)) => return Poll::Ready(WireEnd::Io(error)),
                Poll::Pending => break,
            }
        }
        self.timer.poll(cx).map(WireEnd::Late)
    }

    /// Writes a whole answer.
    pub(crate) async fn write_whole(&mut self, mut head: Vec<u8>, body: &[u8]) -> Result<(), WireEnd> {
        let mut written = 0;
        if head.len() + body.len() <= FLATTEN_MAX {
            head.extend_from_slice(body);
            return poll_fn(|cx| self.poll_write_all(cx, &head, &mut written)).await;
        }
        let total = head.len() + body.len();
        poll_fn(|cx| {
            while written < total {
                let front = head.get(written..).unwrap_or_default();
                let back = body.get(written.saturating_sub(head.len())..).unwrap_or_default();
                let slices = [IoSlice::new(front), IoSlice::new(back)];
                let skip = usize::from(front.is_empty());
                let polled = Pin::new(&mut self.socket)
                    .poll_write_vectored(cx, slices.get(skip..).unwrap_or_default());
                written += ready!(self.wrote(cx, polled))?;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Writes a head and then pieces as they come; those that are ready at once go out together. To be polled anew
    /// when `is_cut` turns true: then the pieces' last words follow.
    pub(crate) async fn write_stream(
        &mut self,
        head: Vec<u8>,
        pieces: &mut dyn Pieces,
        chunked: bool,
        is_cut: impl Fn() -> bool,
    ) -> Result<(), WireEnd> {
        // What the socket did not take; until it is out nothing more is asked of the engine.
        let (mut unsent, mut sent) = (Vec::new(), 0);
        let mut front = head;
        let mut ended = false;
        poll_fn(|cx| {
            loop {
                ready!(self.poll_write_all(cx, &unsent, &mut sent))?;
                (unsent, sent) = (Vec::new(), 0);
                if ended {
                    return Poll::Ready(Ok(()));
                }
                let (left, is_idle) = GATHERED.with_borrow_mut(|out| {
                    out.clear();
                    out.append(&mut front);
                    ended = if is_cut() {
                        last_words(pieces, chunked, out);
                        true
                    } else {
                        gather(pieces, cx, chunked, out)
                    };
                    if out.is_empty() {
                        return Ok((Vec::new(), true));
                    }
                    let mut written = 0;
                    match self.poll_write_all(cx, out, &mut written) {
                        Poll::Ready(Err(error)) => Err(error),
                        Poll::Ready(Ok(())) => Ok((Vec::new(), false)),
                        Poll::Pending => Ok((out.get(written..).unwrap_or_default().to_vec(), false)),
                    }
                })?;
                unsent = left;
                if is_idle && !ended {
                    return self.poll_gone(cx).map(Err);
                }
            }
        })
        .await
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        written: &mut usize,
    ) -> Poll<Result<(), WireEnd>> {
        while *written < bytes.len() {
            let polled = Pin::new(&mut self.socket).poll_write(cx, bytes.get(*written..).unwrap_or_default());
            *written += ready!(self.wrote(cx, polled))?;
        }
        Poll::Ready(Ok(()))
    }

    /// A client that takes nothing has a deadline; one that takes something has it anew.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<Result<usize, WireEnd>> {
        match polled {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(WireEnd::Closed)),
            Poll::Ready(Ok(count)) => {
                if self.timer.phase() == Wait::Write {
                    self.timer.start(Wait::Answer, self.answer_until.duration_since(Instant::now()));
                }
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(WireEnd::Io(error))),
            Poll::Pending => {
                if self.timer.phase() == Wait::Answer {
                    let left = self.answer_until.duration_since(Instant::now());
                    self.timer.start(Wait::Write, self.timeouts.write_stall.min(left));
                }
                self.timer.poll(cx).map(|wait| Err(WireEnd::Late(wait)))
            }
        }
    }

    /// Ends a connection whose client may still be sending: a close with unread bytes would reset it, and the answer
    /// with it.
    pub(crate) async fn linger(mut self, bytes_max: usize) {
        self.timer.start(Wait::Linger, LINGER_MAX);
        let mut read = 0;
        poll_fn(|cx| {
            if Pin::new(&mut self.socket).poll_shutdown(cx)?.is_pending() {
                return Poll::Pending;
            }
            while read < bytes_max {
                match poll_read(&mut self.socket, cx, |input| read += input.len())? {
                    Poll::Ready(Some(())) => {}
                    Poll::Ready(None) => break,
                    Poll::Pending => return self.timer.poll(cx).map(|_| Ok(())),
                }
            }
            Poll::Ready(io::Result::Ok(()))
        })
        .await
        // It ends either way.
        .unwrap_or(());
    }
}

/// Appends what is left to say when there is no time for the rest.
fn last_words(pieces: &mut dyn Pieces, chunked: bool, out: &mut Vec<u8>) {
    let last = pieces.cut();
    match chunked {
        true if last.is_empty() => out.extend_from_slice(CHUNK_END),
        true => {
            chunk(out, &last);
            out.extend_from_slice(CHUNK_END);
        }
        false => out.extend_from_slice(&last),
    }
}

/// Appends all pieces that are ready; true after the last one.
fn gather(pieces: &mut dyn Pieces, cx: &mut Context<'_>, chunked: bool, out: &mut Vec<u8>) -> bool {
    while out.len() < GATHER_MAX {
        match pieces.poll_next(cx) {
            Poll::Ready(Some(piece)) if chunked => chunk(out, &piece),
            Poll::Ready(Some(piece)) => out.extend_from_slice(&piece),
            Poll::Ready(None) => {
                if chunked {
                    out.extend_from_slice(CHUNK_END);
                }
                return true;
            }
            Poll::Pending => return false,
        }
    }
    false
}
