//! The admin listener's accept loop: like the clients', with deadlines and an owner for every connection.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// A head has to arrive, and an idle connection to ask again, within this time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Open connections; further ones wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 256;
/// How long open answers may take after shutdown.
const DRAIN: Duration = Duration::from_secs(1);

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                let service = TowerToHyperService::new(router.clone());
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(socket), service);
                connections.spawn(async move {
                    if let Err(error) = connection.await {
                        debug!(%error, "admin connection ended");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // Whoever still reads a page after that is cut off with the process.
    let _ = tokio::time::timeout(DRAIN, drained).await;
}
