//! The bytes of an HTTP/2 connection on their way in: those that were read before it was known to be one come first,
//! and frames that make us work for nothing are counted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aya_domain::MonoTime;
use aya_observe::Clock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// The client's preface, behind which frames begin.
const PREFACE_LEN: usize = 24;
const HEADER_LEN: usize = 9;
const PRIORITY: u8 = 0x2;
const SETTINGS: u8 = 0x4;
const PING: u8 = 0x6;
/// Frames of these kinds in [`SPAN`]: each of them asks for an answer or changes nothing. Clients send a few a minute.
const CONTROL_MAX: u32 = 1_000;
const SPAN: Duration = Duration::from_secs(10);

/// A socket whose first bytes have been read already. It is given back when the connection is dropped: its last frame
/// would be lost in a reset if it were closed with bytes unread.
#[derive(Debug)]
pub(super) struct Frames<S> {
    /// `None` only once it is dropped.
    socket: Option<S>,
    give_back: Option<oneshot::Sender<S>>,
    before: Vec<u8>,
    count: Count,
    clock: Clock,
}

impl<S> Frames<S> {
    pub(super) fn new(socket: S, before: Vec<u8>, clock: Clock) -> (Self, oneshot::Receiver<S>) {
        let count = Count::new(clock.now());
        let (give_back, given) = oneshot::channel();
        (Self { socket: Some(socket), give_back: Some(give_back), before, count, clock }, given)
    }
}

impl<S: Unpin> Frames<S> {
    fn socket(&mut self) -> io::Result<Pin<&mut S>> {
        self.socket.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S> Drop for Frames<S> {
    fn drop(&mut self) {
        if let (Some(socket), Some(give_back)) = (self.socket.take(), self.give_back.take()) {
            // Nobody may be waiting for it: then it is closed here.
            let _ = give_back.send(socket);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Frames<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let had = out.filled().len();
        if this.before.is_empty() {
            ready!(this.socket()?.poll_read(cx, out))?;
        } else {
            let rest = this.before.split_off(this.before.len().min(out.remaining()));
            out.put_slice(&this.before);
            this.before = rest;
        }
        let fresh = out.filled().get(had..).unwrap_or_default();
        if this.count.take(fresh, this.clock.now()) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Ready(Err(io::Error::other("too many pings or settings")))
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Frames<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}

/// Follows the frames without looking into them.
#[derive(Debug)]
struct Count {
    /// Bytes up to the next frame's header.
    skip: usize,
    header: [u8; HEADER_LEN],
    have: usize,
    control: u32,
    since: MonoTime,
}

impl Count {
    const fn new(now: MonoTime) -> Self {
        Self { skip: PREFACE_LEN, header: [0; HEADER_LEN], have: 0, control: 0, since: now }
    }

    /// Whether the client may go on after these bytes.
    fn take(&mut self, mut bytes: &[u8], now: MonoTime) -> bool {
        if now.since(self.since) >= SPAN {
            (self.control, self.since) = (0, now);
        }
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let open = self.header.get_mut(self.have..).unwrap_or_default();
            let part = open.len().min(bytes.len());
            let (head, rest) = bytes.split_at(part);
            open.iter_mut().zip(head).for_each(|(slot, byte)| *slot = *byte);
            self.have += part;
            bytes = rest;
            if self.have == HEADER_LEN {
                let [a, b, c, kind, ..] = self.header;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.have = 0;
                self.control += u32::from(matches!(kind, PRIORITY | SETTINGS | PING));
            }
        }
        self.control <= CONTROL_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: u8 = 0x0;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        bytes.resize(HEADER_LEN + payload, PING);
        bytes
    }

    /// So many frames of a kind behind the preface, in reads of so many bytes: may the client go on?
    fn check(kind: u8, payload: usize, frames: usize, read: usize, expect: bool) {
        let mut count = Count::new(MonoTime::ZERO);
        let mut bytes = vec![b'P'; PREFACE_LEN];
        bytes.extend(frame(kind, payload).repeat(frames));
        let fine = bytes.chunks(read).all(|read| count.take(read, MonoTime::ZERO));
        assert_eq!(fine, expect, "{frames} frames of kind {kind} with {payload} bytes, read by {read}");
    }

    #[test]
    fn pings_settings_and_priorities_have_a_limit_however_they_are_cut() {
        for read in [1, 7, 9, 4096, usize::MAX] {
            check(PING, 8, 1_000, read, true);
            check(PING, 8, 1_001, read, false);
            check(SETTINGS, 0, 1_001, read, false);
            check(PRIORITY, 5, 1_001, read, false);
            check(DATA, 300, 5_000, read, true);
        }
    }

    #[test]
    fn a_client_that_pings_now_and_then_may_go_on_for_ever() {
        let mut count = Count::new(MonoTime::ZERO);
        assert!(count.take(&[0; PREFACE_LEN], MonoTime::ZERO));
        for second in 0..10_000 {
            let pings = frame(PING, 8).repeat(90);
            assert!(count.take(&pings, MonoTime::from_millis(1_000 * second)), "at second {second}");
        }
    }
}
