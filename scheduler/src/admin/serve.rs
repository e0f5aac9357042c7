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
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
            Some(_) = connections.join_next(), if connections.len() >= CONNECTIONS_MAX => continue,
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn connections_that_never_end_do_not_hold_up_the_shutdown() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Router::new(), shutdown.clone()));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        // All of them are accepted by then.
        for _ in 0..10 * CONNECTIONS_MAX {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        let ended = tokio::time::timeout(DRAIN * 10, serving.join_next()).await;
        assert!(ended.is_ok(), "it waits for a connection to end");
    }
}
