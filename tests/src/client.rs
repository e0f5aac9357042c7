//! A client with one connection per request, so that dropping it is what a disconnect is.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::wait::within;

/// No request of a test takes longer.
const LONGEST: Duration = Duration::from_secs(30);

/// Asks one listener.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    pub addr: SocketAddr,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer that is still coming in; dropping it closes the connection.
#[derive(Debug)]
pub struct Live {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    unread: BytesMut,
    /// Polls the connection; ends with this value.
    _connection: JoinSet<()>,
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

impl Client {
    /// Sends a request and waits for the answer's head.
    ///
    /// # Panics
    /// If the connection breaks before, or nothing comes for a long time.
    pub async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Live {
        self.try_open(method, path, headers, body).await.unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// The same, where a broken connection is an answer too.
    ///
    /// # Errors
    /// A refused or broken connection.
    pub async fn try_open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<Live, String> {
        within(LONGEST, path, async {
            let socket = TcpStream::connect(self.addr).await.map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(socket)).await.map_err(|e| e.to_string())?;
            let mut task = JoinSet::new();
            task.spawn(async move {
                // Its end is seen by whoever reads the body.
                let _ = connection.await;
            });
            let mut request =
                Request::builder().method(method).uri(path).header("host", self.addr.to_string());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(body)).unwrap();
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let (parts, body) = response.into_parts();
            Ok(Live {
                status: parts.status.as_u16(),
                headers: parts.headers,
                body,
                unread: BytesMut::new(),
                _connection: task,
            })
        })
        .await
    }

    /// `GET`, to its end.
    pub async fn get(&self, path: &str) -> Answer {
        self.open("GET", path, &[], Bytes::new()).await.whole().await
    }

    /// `POST`, to its end.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    /// `POST` with headers, to its end.
    pub async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.open("POST", path, headers, body.to_string().into()).await.whole().await
    }

    /// `POST`, to the answer's head.
    pub async fn begin(&self, path: &str, body: &Value) -> Live {
        self.open("POST", path, &[], body.to_string().into()).await
    }

    /// A chat request, to its end.
    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    /// A chat request, to the answer's head.
    pub async fn begin_chat(&self, body: &Value) -> Live {
        self.begin("/v1/chat/completions", body).await
    }
}

impl Live {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            let frame = within(LONGEST, "the next chunk", self.body.frame()).await?;
            if let Ok(data) = frame.unwrap().into_data() {
                return Some(data);
            }
        }
    }

    /// The next event's data; `None` at the end.
    pub async fn event(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\n\n") {
                let event = self.unread.split_to(end + 2);
                let event = std::str::from_utf8(&event).unwrap().trim_end().to_owned();
                return Some(event.strip_prefix("data: ").map_or(event.clone(), str::to_owned));
            }
            let chunk = self.chunk().await?;
            self.unread.extend_from_slice(&chunk);
        }
    }

    /// Every remaining event's data.
    pub async fn events(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(event) = self.event().await {
            all.push(event);
        }
        all
    }

    /// The rest of it.
    pub async fn whole(mut self) -> Answer {
        let mut body = self.unread.split();
        while let Some(chunk) = self.chunk().await {
            body.extend_from_slice(&chunk);
        }
        Answer { status: self.status, headers: self.headers, body: body.freeze() }
    }
}

impl Answer {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        text(&self.headers, name)
    }

    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The answer itself if its status is 200.
    ///
    /// # Panics
    /// If it is another one.
    #[must_use]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{:?}", self.body);
        self
    }

    /// `status code`, such as `404 model_not_found`; of an error in OpenAI's shape.
    ///
    /// # Panics
    /// If the body has another shape.
    #[must_use]
    pub fn error(&self) -> String {
        let json = self.json();
        let error = json.get("error").and_then(Value::as_object).expect("an error object");
        for field in ["message", "type"] {
            assert!(error.get(field).is_some_and(Value::is_string), "{field} in {json}");
        }
        assert!(error.contains_key("param") && error.contains_key("code"), "{json}");
        format!("{} {}", self.status, error.get("code").and_then(Value::as_str).unwrap_or("-"))
    }
}
