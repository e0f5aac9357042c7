//! The client-facing listener: one socket per core on the same port, one accept loop each.
//!
//! Every connection is a task of its loop's set, so shutdown knows whom to wait for. At the connection limit
//! the loop stops accepting and new clients wait in the kernel's backlog; nobody is refused half-way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::http::serve::serve;
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
                let open = OpenConnection::count(&shared);
                let serving = serve(socket, Arc::clone(&shared), shutdown.clone());
                connections.spawn(async move {
                    serving.await;
                    drop((place, open));
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

/// A connection in the gauge, for as long as its task lives: also when that panics.
struct OpenConnection(Arc<Shared>);

impl OpenConnection {
    fn count(shared: &Arc<Shared>) -> Self {
        shared.metrics.connections.inc();
        Self(Arc::clone(shared))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.metrics.connections.dec();
    }
}
