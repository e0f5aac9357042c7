//! Serving the agents' streams over connections, whoever accepted them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aya_domain::MonoTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::transport::Error;
use tonic::transport::server::Connected;

use super::AgentStreams;

/// An agent that says nothing is asked after this, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Serves until `shutdown`, then ends the streams.
pub(crate) async fn serve_agents<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    streams: AgentStreams,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let clock = streams.clock();
    let incoming = incoming.map(|link| link.map(|link| Accepted { link, at: clock.now() }));
    let message_max = streams.message_max();
    let service = aya_proto::AgentServiceServer::new(streams.clone())
        .max_decoding_message_size(message_max)
        .max_encoding_message_size(message_max);
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.cancelled_owned())
        .await;
    streams.join().await;
    served
}

/// When the connection beneath a stream was accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AcceptedAt(pub(crate) MonoTime);

/// A connection that knows it.
#[derive(Debug)]
struct Accepted<IO> {
    link: IO,
    at: MonoTime,
}

impl<IO> Connected for Accepted<IO> {
    type ConnectInfo = AcceptedAt;

    fn connect_info(&self) -> AcceptedAt {
        AcceptedAt(self.at)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Accepted<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Accepted<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.link).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.link.is_write_vectored()
    }
}
