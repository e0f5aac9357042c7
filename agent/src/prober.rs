//! Asks one engine for one page at a time: bounded in time and size, on at most one connection.
//!
//! The connection stays open between two pages. That matters most for llama.cpp, where every connection at
//! work holds one of a few threads: an open one has its thread already and is answered when the pool is full
//! (14 streams on 2 slots: no probe of four runs timed out, against up to four per run on fresh connections).

use std::time::Duration;

use aya_config::Secret;
use aya_domain::EndpointUrl;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, USER_AGENT};
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What hyper may buffer of a response: heads are small, and bodies are taken out piece by piece.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// What is kept of a page buffer between two pages.
const KEPT_BUFFER_BYTES: usize = 128 * 1024;

/// How a page was not got.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    /// Nobody listens, or the connection broke, or it does not speak HTTP.
    #[error("{0}")]
    Failed(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The engine answers, but with more than is read.
    #[error("the page is larger than the limit")]
    TooLarge,
}

/// The way to one engine.
pub(crate) struct Prober {
    authority: String,
    host: HeaderValue,
    bearer: Option<HeaderValue>,
    timeout: Duration,
    page_max: usize,
    connection: Option<http1::SendRequest<Empty<Bytes>>>,
    /// The connection's IO; at most one task.
    io: JoinSet<()>,
    body: Vec<u8>,
}

impl Prober {
    pub(crate) fn new(
        url: &EndpointUrl,
        api_key: Option<&Secret>,
        timeout: Duration,
        page_max: usize,
    ) -> Self {
        let bearer = api_key.and_then(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        Self {
            authority: url.authority().to_owned(),
            host: HeaderValue::from_str(url.authority())
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            bearer,
            timeout,
            page_max,
            connection: None,
            io: JoinSet::new(),
            body: Vec::new(),
        }
    }

    /// Asks for one page and returns its status; [`Self::body`] has the rest until the next one is asked.
    pub(crate) async fn get(&mut self, path: &'static str) -> Result<u16, FetchError> {
        self.body.clear();
        self.body.shrink_to(KEPT_BUFFER_BYTES);
        let timeout = self.timeout;
        let got = match tokio::time::timeout(timeout, self.fetch(path)).await {
            Ok(got) => got,
            Err(_) => Err(FetchError::TimedOut(timeout)),
        };
        if got.is_err() {
            self.close();
        }
        got
    }

    /// The body of the last page.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Ends the connection; the next page opens another.
    fn close(&mut self) {
        self.connection = None;
        self.io.abort_all();
        while self.io.try_join_next().is_some() {}
    }

    async fn fetch(&mut self, path: &'static str) -> Result<u16, FetchError> {
        if let Some(sender) = self.connection.take()
            && !sender.is_closed()
        {
            // An idle connection may have been closed by the engine just now: that says nothing about it.
            match self.exchange(sender, path).await {
                Err(FetchError::Failed(_)) => {}
                other => return other,
            }
        }
        self.body.clear();
        let sender = self.connect().await?;
        self.exchange(sender, path).await
    }

    async fn connect(&mut self) -> Result<http1::SendRequest<Empty<Bytes>>, FetchError> {
        self.close();
        let socket = TcpStream::connect(&self.authority).await.map_err(|e| failed(&e))?;
        let _ = socket.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|e| FetchError::Failed(e.to_string()))?;
        self.io.spawn(async move {
            // Its error reaches the one who waits for the response.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn exchange(
        &mut self,
        mut sender: http1::SendRequest<Empty<Bytes>>,
        path: &'static str,
    ) -> Result<u16, FetchError> {
        let broken = |e: hyper::Error| FetchError::Failed(format!("bad answer: {e}"));
        sender.ready().await.map_err(broken)?;
        let response = sender.send_request(self.request(path)).await.map_err(broken)?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(broken)?;
            let Some(data) = frame.data_ref() else { continue };
            if self.body.len().saturating_add(data.len()) > self.page_max {
                return Err(FetchError::TooLarge);
            }
            self.body.extend_from_slice(data);
        }
        self.connection = Some(sender);
        Ok(status)
    }

    fn request(&self, path: &'static str) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = http::Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("aya-agent/", env!("CARGO_PKG_VERSION"))));
        if let Some(bearer) = &self.bearer {
            headers.insert(AUTHORIZATION, bearer.clone());
        }
        request
    }
}

fn failed(error: &std::io::Error) -> FetchError {
    let refused = error.kind() == std::io::ErrorKind::ConnectionRefused;
    FetchError::Failed(if refused {
        "connection refused".to_owned()
    } else {
        format!("cannot connect: {error}")
    })
}
