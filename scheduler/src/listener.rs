//! The client-facing listener: one socket per core on the same port, one accept loop each.
//!
//! Every connection is a task of its loop's set, so shutdown knows whom to wait for. At the connection limit
//! the loop stops accepting and new clients wait in the kernel's backlog; nobody is refused half-way.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::http::conn::{ConnState, WatchedSocket};
use crate::routes;
use crate::shared::Shared;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address; port 0 picks one free port for all of them.
pub(crate) fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let first = bind_one(address)?;
    let actual = first.local_addr()?;
    let mut sockets = vec![first];
    while sockets.len() < count {
        sockets.push(bind_one(actual)?);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether somebody else already listens on this address. `SO_REUSEPORT` would let us join them silently.
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    address.port() != 0
        && std::net::TcpListener::bind(address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// Accepts until `shutdown`, then lets open requests finish, at most for the configured time.
pub(crate) async fn run(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let per_loop = (shared.config.limits.connections_max / shared.config.threads.max(1)).max(1);
    let places = Arc::new(Semaphore::new(per_loop));
    let mut connections = JoinSet::new();
    loop {
        let place = tokio::select! {
            () = shutdown.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let serving = serve(socket, Arc::clone(&shared), shutdown.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => pause_after(&error).await,
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(shared.config.timeouts.drain, drained).await.is_err() {
        warn!("drain time is over, open requests are cut");
        shared.cutting.store(true, Ordering::Release);
    }
    Ok(())
}

/// Out of file descriptors: closing connections will free some, asking again at once would only spin.
async fn pause_after(error: &io::Error) {
    warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
}

async fn serve(socket: TcpStream, shared: Arc<Shared>, shutdown: CancellationToken) {
    // Without it the last piece of a small answer waits for the client's acknowledgement; failing costs only that.
    let _ = socket.set_nodelay(true);
    let state = ConnState::new(shared.clock.clone());
    let watched = WatchedSocket::new(socket, Arc::clone(&state), shared.config.limits.head_max);
    shared.metrics.connections.inc();
    let handler = service_fn(|request| routes::handle(Arc::clone(&shared), Arc::clone(&state), request));
    let mut builder = http1::Builder::new();
    builder.max_buf_size(shared.config.limits.head_max.max(8192)).header_read_timeout(None).writev(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(watched), handler));
    let mut draining = false;
    loop {
        tokio::select! {
            result = connection.as_mut() => {
                if let Err(error) = result {
                    debug!(%error, "client connection ended");
                }
                break;
            }
            phase = state.expired(&shared.config.timeouts) => {
                debug!(?phase, "client connection ran into its deadline");
                break;
            }
            () = shutdown.cancelled(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    shared.metrics.connections.dec();
}
