//! The agent's own listener for operators: health, metrics, version, what discovery found. Nothing here changes anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aya_observe::metrics::MetricError;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::discovery::Board;
use crate::metrics::Metrics;
use crate::view::View;

/// Connections at a time; more wait in the kernel's backlog.
const CONNECTIONS_MAX: usize = 16;
/// From accept to the end of the request's head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives no longer than this, whatever it does.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 16 * 1024;

/// The page about the engines that were found.
const DISCOVERY: &str = "/api/v1/discovery";

/// What the pages tell of.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) discovery: Board,
    pub(crate) views: watch::Receiver<Arc<View>>,
    /// Between two readings of a GPU.
    pub(crate) gpu_period: Duration,
}

impl Told {
    fn metrics(&self) -> Result<String, MetricError> {
        let view = Arc::clone(&self.views.borrow());
        self.metrics.render(&view, self.gpu_period, self.discovery.clock.now())
    }
}

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, told: Told, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        if let Some((socket, place)) = accepted {
            let told = told.clone();
            connections.spawn(async move {
                if tokio::time::timeout(CONNECTION_TIMEOUT, converse(socket, told)).await.is_err() {
                    debug!("an admin connection outstayed its time");
                }
                drop(place);
            });
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, place)),
        Err(error) => {
            // Out of file descriptors: asking again at once would only spin.
            debug!(%error, "an admin connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn converse(socket: TcpStream, told: Told) {
    let handler = service_fn(move |request| {
        let response = answer(&request, &told);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(socket), handler)
        .await;
    if let Err(error) = served {
        debug!(%error, "an admin connection ended early");
    }
}

fn answer(request: &Request<Incoming>, told: &Told) -> Response<Full<Bytes>> {
    let known = ["/healthz", "/metrics", "/version", DISCOVERY].contains(&request.uri().path());
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "use GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "text/plain", "ok\n".to_owned()),
        "/version" => {
            let body = concat!("{\"version\":\"", env!("CARGO_PKG_VERSION"), "\"}\n");
            text(StatusCode::OK, "application/json", body.to_owned())
        }
        "/metrics" => match told.metrics() {
            Ok(body) => text(StatusCode::OK, aya_observe::metrics::CONTENT_TYPE, body),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        DISCOVERY => text(StatusCode::OK, "application/json", format!("{}\n", told.discovery.json())),
        _ => {
            let known = "try /healthz, /metrics, /version or /api/v1/discovery\n";
            text(StatusCode::NOT_FOUND, "text/plain", known.to_owned())
        }
    }
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
