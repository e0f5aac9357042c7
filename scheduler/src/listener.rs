//! The client-facing listener: one socket per core on the same port, one accept loop each.
//!
//! Every connection is a task of its loop's set, so the end knows whom to wait for. At the connection limit
//! the loop stops accepting and new clients wait in the kernel's backlog; nobody is refused half-way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tracing::warn;

use crate::http::attention;
use crate::http::serve::serve;
use crate::pipeline::carried;
use crate::shared::Shared;
use crate::stopping::GOODBYE_MAX;

/// Connections the kernel keeps for us while we are busy.
const BACKLOG: i32 = 4096;
/// What the kernel keeps for a client that does not read, in bytes (it takes twice of it with its own bookkeeping). Left
/// to itself it keeps 2.5 MB, the whole of a long answer: then no engine ever notices a slow reader.
const SEND_BUFFER_BYTES: usize = 128 * 1024;
/// After a failed accept. Out of file descriptors: closing connections will free some, asking at once would only spin.
const PAUSE: Duration = Duration::from_millis(20);

/// Of failed accepts, one in so many is logged: at one every 20 ms a line in ten seconds.
const LOGGED_EVERY: u64 = 500;

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
    // Inherited by every connection.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether somebody else already listens on this address. `SO_REUSEPORT` would let us join them silently.
pub(crate) fn is_taken(address: SocketAddr) -> bool {
    address.port() != 0
        && std::net::TcpListener::bind(address).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

/// Accepts as long as the scheduler's step allows, then lets open requests finish, at most until it cuts them off.
pub(crate) async fn run(listener: std::net::TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let per_loop = (shared.config.limits.connections_max / shared.config.threads.max(1)).max(1);
    let places = Arc::new(Semaphore::new(per_loop));
    let mut calls = shared.stopping.calls();
    let mut open = Connections { shared: Arc::clone(&shared), tasks: JoinSet::new() };
    while shared.stopping.accepts() {
        tokio::select! {
            // The sender lives in `shared`.
            _ = calls.changed() => attention::call_all(),
            accepted = next(&listener, &places) => match accepted {
                Ok((socket, place)) => open.serve(socket, Some(place)),
                Err(error) => pause_after(&shared, &error).await,
            },
        }
        while open.tasks.try_join_next().is_some() {}
    }
    // Closing a listener resets those who are connected and not yet accepted, unless another process accepts them.
    let listener = listener.into_std()?;
    while !shared.stopping.is_handed_over() {
        let Ok((socket, _)) = listener.accept() else { break };
        socket.set_nonblocking(true)?;
        open.serve(TcpStream::from_std(socket)?, None);
    }
    drop(listener);
    open.finish(calls).await;
    Ok(())
}

/// The next connection, when there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (socket, _) = listener.accept().await?;
    Ok((socket, place))
}

async fn pause_after(shared: &Shared, error: &io::Error) {
    // The gauge counts all of them; the log would be full of it.
    if shared.metrics.accept_errors.get().is_multiple_of(LOGGED_EVERY) {
        warn!(%error, "a connection could not be accepted");
    }
    shared.metrics.accept_errors.inc();
    tokio::time::sleep(PAUSE).await;
}

/// The open connections of one loop.
struct Connections {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Connections {
    fn serve(&mut self, socket: TcpStream, place: Option<OwnedSemaphorePermit>) {
        let open = OpenConnection::count(&self.shared);
        let serving = serve(socket, Arc::clone(&self.shared));
        self.tasks.spawn(async move {
            serving.await;
            drop((place, open));
        });
    }

    /// Waits until all have ended, or have had their time to say goodbye.
    async fn finish(mut self, mut calls: tokio::sync::watch::Receiver<()>) {
        loop {
            attention::call_all();
            if self.shared.stopping.is_cutting() {
                break;
            }
            let ended = async {
                while self.tasks.join_next().await.is_some() {}
                carried::all_ended().await;
            };
            tokio::select! {
                () = ended => return,
                _ = calls.changed() => {}
            }
        }
        warn!(open = self.tasks.len(), "the time to drain is over, open requests are cut off");
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // Whoever does not read our last words goes without them.
        let _ = tokio::time::timeout(GOODBYE_MAX, ended).await;
    }
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
