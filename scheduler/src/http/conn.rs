//! One client connection as the deadlines see it.
//!
//! hyper has no deadline for a silent connection, none for a request body, and mixes the header deadline with
//! the keep-alive gap. So the phase of the connection is kept here, updated by the socket wrapper (first byte,
//! stalled write) and by the service (body, busy, idle), and one timer per connection watches it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aya_config::Timeouts;
use aya_domain::MonoTime;
use aya_observe::Clock;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ConnPhase {
    /// Accepted; nothing received.
    Opened = 0,
    /// Between two requests.
    Idle = 1,
    /// A request has begun to arrive.
    Head = 2,
    /// The head is complete, the body is not.
    Body = 3,
    /// The request is ours; its own deadlines rule.
    Busy = 4,
}

const PHASES: [ConnPhase; 5] =
    [ConnPhase::Opened, ConnPhase::Idle, ConnPhase::Head, ConnPhase::Body, ConnPhase::Busy];

/// The state that socket, service and watcher share. All on one thread, but hyper wants it `Send`.
#[derive(Debug)]
pub(crate) struct ConnState {
    clock: Clock,
    phase: AtomicU8,
    since: AtomicU64,
    /// When the client stopped taking bytes; zero: it takes them.
    write_stalled_since: AtomicU64,
    /// The bytes of the current head, as they came, for checks that hyper's parser hides.
    raw_head: Mutex<RawHead>,
}

#[derive(Debug, Default)]
struct RawHead {
    bytes: Vec<u8>,
    complete: bool,
}

impl ConnState {
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        let now = clock.now().as_nanos();
        Arc::new(Self {
            clock,
            phase: AtomicU8::new(ConnPhase::Opened as u8),
            since: AtomicU64::new(now),
            write_stalled_since: AtomicU64::new(0),
            raw_head: Mutex::new(RawHead::default()),
        })
    }

    pub(crate) fn enter(&self, phase: ConnPhase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.since.store(self.clock.now().as_nanos(), Ordering::Relaxed);
    }

    fn phase(&self) -> ConnPhase {
        let at = usize::from(self.phase.load(Ordering::Relaxed));
        PHASES.get(at).copied().unwrap_or(ConnPhase::Busy)
    }

    /// Keeps the head's bytes until its empty line; a head split over reads is joined.
    fn received(&self, bytes: &[u8], head_max: usize) {
        match self.phase() {
            ConnPhase::Opened | ConnPhase::Idle => {
                let mut raw = self.raw_head.lock();
                raw.bytes.clear();
                raw.complete = false;
                raw.take(bytes, head_max);
                drop(raw);
                self.enter(ConnPhase::Head);
            }
            ConnPhase::Head => self.raw_head.lock().take(bytes, head_max),
            ConnPhase::Body | ConnPhase::Busy => {}
        }
    }

    /// How many `Content-Length` lines the head had as it came over the wire: hyper drops the length beside a
    /// `Transfer-Encoding` and merges equal ones. `None`: the head was not seen on its own and whole, because all of it
    /// or its beginning was pipelined; then it lacks some of the `headers` that hyper found. To be asked once for every
    /// head, so that none is taken for the one before.
    pub(crate) fn content_lengths(&self, headers: usize) -> Option<usize> {
        const NAME: &[u8] = b"content-length:";
        let mut raw = self.raw_head.lock();
        if !std::mem::take(&mut raw.complete) || !raw.is_whole(headers) {
            return None;
        }
        let named = |start: usize| {
            raw.bytes.get(start..start + NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        };
        Some(memchr::memchr_iter(b'\n', &raw.bytes).filter(|end| named(end + 1)).count())
    }

    /// The instant at which the connection has to end, if its phase has a deadline.
    pub(crate) fn deadline(&self, timeouts: &Timeouts) -> Option<MonoTime> {
        let stalled = self.write_stalled_since.load(Ordering::Relaxed);
        let write = (stalled != 0).then(|| MonoTime::from_nanos(stalled).after(timeouts.write_stall));
        let since = MonoTime::from_nanos(self.since.load(Ordering::Relaxed));
        let limit: Option<Duration> = match self.phase() {
            ConnPhase::Opened => Some(timeouts.first_byte),
            ConnPhase::Idle => Some(timeouts.idle),
            ConnPhase::Head => Some(timeouts.header),
            // The service ends a late body with a 408; this is the backstop.
            ConnPhase::Body => Some(timeouts.body.saturating_mul(2)),
            // The backstop for an answer that its client takes drop by drop, without ever stalling.
            ConnPhase::Busy => Some(timeouts.total.saturating_mul(2)),
        };
        [write, limit.map(|limit| since.after(limit))].into_iter().flatten().min()
    }

    /// Completes when a deadline has passed.
    pub(crate) async fn expired(&self, timeouts: &Timeouts) -> ConnPhase {
        loop {
            let now = self.clock.now();
            let wait = match self.deadline(timeouts) {
                Some(deadline) if deadline <= now => return self.phase(),
                Some(deadline) => deadline.since(now),
                None => WATCH_WHILE_BUSY,
            };
            tokio::time::sleep(wait.min(WATCH_WHILE_BUSY)).await;
        }
    }
}

/// While a request is ours the phase may change at any moment; looking once a second bounds the delay.
const WATCH_WHILE_BUSY: Duration = Duration::from_secs(1);

impl RawHead {
    fn take(&mut self, bytes: &[u8], head_max: usize) {
        if self.complete {
            return;
        }
        // Empty lines before a request line are skipped by hyper too: they do not end a head.
        let begun = !self.bytes.is_empty();
        let start = bytes.iter().position(|byte| begun || !matches!(byte, b'\r' | b'\n'));
        let bytes = start.and_then(|start| bytes.get(start..)).unwrap_or_default();
        let from = self.bytes.len().saturating_sub(3);
        let room = head_max.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        let rest = self.bytes.get(from..).unwrap_or_default();
        if let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
            self.bytes.truncate(from + end + 4);
            self.complete = true;
        }
    }

    /// Whether it begins with a request line and has a line for each of so many headers.
    fn is_whole(&self, headers: usize) -> bool {
        let mut lines = self.bytes.split(|byte| *byte == b'\n');
        let first = lines.next().unwrap_or_default();
        // What is left behind it: the headers, the empty line, and nothing behind its end.
        memchr::memmem::find(first, b" HTTP/1.").is_some() && lines.count() >= headers.saturating_add(2)
    }
}

/// The client's socket, telling [`ConnState`] what passes.
#[derive(Debug)]
pub(crate) struct WatchedSocket {
    socket: TcpStream,
    state: Arc<ConnState>,
    head_max: usize,
}

impl WatchedSocket {
    pub(crate) fn new(socket: TcpStream, state: Arc<ConnState>, head_max: usize) -> Self {
        Self { socket, state, head_max }
    }

    fn wrote<T>(&self, result: &Poll<T>) {
        let stalled = &self.state.write_stalled_since;
        if result.is_ready() {
            stalled.store(0, Ordering::Relaxed);
        } else if stalled.load(Ordering::Relaxed) == 0 {
            stalled.store(self.state.clock.now().as_nanos(), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for WatchedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        let received = buf.filled().get(before..).unwrap_or_default();
        if !received.is_empty() {
            self.state.received(received, self.head_max);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.wrote(&result);
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.wrote(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Arc<ConnState> {
        ConnState::new(Clock::start())
    }

    #[test]
    fn a_content_length_beside_chunked_is_found_however_the_head_is_split() {
        let head = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nCONTENT-length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        for cut in 1..head.len() {
            let state = state();
            let (first, second) = head.split_at(cut);
            state.received(first, 32 * 1024);
            state.received(second, 32 * 1024);
            assert_eq!(state.content_lengths(2), Some(1), "cut at {cut}");
        }
    }

    #[test]
    fn only_a_head_seen_whole_is_surely_without_content_length() {
        let clean = state();
        clean.received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 32 * 1024);
        assert_eq!(clean.content_lengths(1), Some(0));
        assert_eq!(clean.content_lengths(1), None, "the next, pipelined head was never seen");
        let cut_off = state();
        cut_off.received(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 10);
        assert_eq!(cut_off.content_lengths(1), None);
    }

    #[test]
    fn a_head_whose_beginning_was_pipelined_is_not_taken_for_a_whole_one() {
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        // hyper drops the length beside the coding: it finds three headers.
        for cut in 1..head.len() {
            let state = state();
            state.enter(ConnPhase::Busy);
            let (pipelined, rest) = head.split_at(cut);
            state.received(pipelined, 32 * 1024);
            state.enter(ConnPhase::Idle);
            state.received(rest, 32 * 1024);
            assert_ne!(state.content_lengths(3), Some(0), "cut at {cut}");
        }
    }

    #[test]
    fn empty_lines_before_a_head_do_not_end_it() {
        for before in ["\r\n", "\r\n\r\n", "\n\n\r\n"] {
            let state = state();
            state.received(before.as_bytes(), 32 * 1024);
            state.received(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n", 32 * 1024);
            assert_eq!(state.content_lengths(1), Some(1), "{before:?}");
        }
    }

    #[test]
    fn each_phase_has_its_own_deadline() {
        let config: aya_config::SchedulerConfig = aya_config::parse("", "", [], &[]).unwrap();
        let timeouts = config.timeouts;
        let state = state();
        for (phase, limit) in [
            (ConnPhase::Opened, Some(timeouts.first_byte)),
            (ConnPhase::Idle, Some(timeouts.idle)),
            (ConnPhase::Head, Some(timeouts.header)),
            (ConnPhase::Body, Some(timeouts.body * 2)),
            (ConnPhase::Busy, Some(timeouts.total * 2)),
        ] {
            state.enter(phase);
            let since = MonoTime::from_nanos(state.since.load(Ordering::Relaxed));
            assert_eq!(state.deadline(&timeouts), limit.map(|l| since.after(l)), "{phase:?}");
        }
    }
}
