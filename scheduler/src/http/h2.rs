//! A client connection that speaks HTTP/2 by prior knowledge (h2c): requests side by side, each a task of the
//! connection's own set, answered by the same routes as over HTTP/1.1.
//!
//! The protocol and its limits on resets, continuations and empty frames are the `h2` crate's; pings and settings
//! without end, which it answers faithfully, [`frames`] counts. Deadlines are ours, as over HTTP/1.1.

mod frames;
mod stream;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aya_admission::Pressure;
use aya_proxy::PhaseTimer;
use bytes::Bytes;
use h2::server::Connection;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::debug;

use self::frames::Frames;
use super::wire::Wire;
use crate::shared::Shared;

/// What an HTTP/1 parser takes for the first head of such a connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
/// Requests that one connection may have open; a client is told, and one that asks for more is refused that stream.
const STREAMS_MAX: u32 = 128;
/// Bytes of a body that a client may send before it is read, per request and per connection.
const WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of an answer that wait for the socket, per request.
const SEND_BUFFER: usize = 64 * 1024;
/// Between telling the client to go and closing.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

/// What is read and dropped of a client that sends on behind its end.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Whether a connection's first head is the beginning of HTTP/2.
pub(crate) fn is_preface(head: &[u8]) -> bool {
    head == PREFACE
}

/// Serves a connection whose first `read` bytes have been read, until its client or the scheduler's end ends it.
pub(crate) async fn serve(socket: TcpStream, read: Vec<u8>, shared: Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(shared.config.limits.head_max).unwrap_or(u32::MAX))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    let (frames, given_back) = Frames::new(socket, read, shared.clock.clone());
    let greeting = builder.handshake::<_, Bytes>(frames);
    let Ok(Ok(connection)) = timeout(shared.config.timeouts.header, greeting).await else {
        return debug!("a client that began with HTTP/2 did not go on with it");
    };
    let idle = PhaseTimer::new((), shared.config.timeouts.idle);
    let mut serving = Serving { connection, streams: JoinSet::new(), idle, told_to_go: false, shared };
    poll_fn(|cx| serving.poll(cx)).await;
    // Whoever is still there has lost its client.
    serving.streams.shutdown().await;
    let Serving { connection, shared, .. } = serving;
    drop(connection);
    if let Ok(socket) = given_back.await {
        // The client may not have read yet why it has to go.
        Wire::new(socket, shared.clock.clone(), shared.config.timeouts.clone())
            .linger(LINGER_BYTES_MAX)
            .await;
    }
}

struct Serving {
    connection: Connection<Frames<TcpStream>, Bytes>,
    streams: JoinSet<()>,
    idle: PhaseTimer<()>,
    told_to_go: bool,
    shared: Arc<Shared>,
}

impl Serving {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(Some(_)) = self.streams.poll_join_next(cx) {
                self.idle.start((), self.shared.config.timeouts.idle);
            }
            if !self.told_to_go && self.must_go() {
                self.tell_to_go();
            }
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.streams.spawn(stream::serve(Arc::clone(&self.shared), request, respond));
                }
                Poll::Ready(Some(Err(error))) => {
                    debug!(%error, "an HTTP/2 connection broke");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending if !self.streams.is_empty() || self.idle.poll(cx).is_pending() => {
                    return Poll::Pending;
                }
                Poll::Pending if self.told_to_go => return Poll::Ready(()),
                Poll::Pending => self.tell_to_go(),
            }
        }
    }

    /// An HTTP/1.1 connection would close behind its next answer.
    fn must_go(&self) -> bool {
        self.shared.stopping.is_draining()
            || matches!(self.shared.pressure.get(), Pressure::NoKeepAlive | Pressure::Refuse)
    }

    /// Open requests go on; new ones have to come on another connection.
    fn tell_to_go(&mut self) {
        self.told_to_go = true;
        self.connection.graceful_shutdown();
        self.idle.start((), GOODBYE_MAX);
    }
}
