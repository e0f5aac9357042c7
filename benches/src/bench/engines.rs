//! Mock engines: one process, several ports, fixed answers, and enough of vLLM's other pages for an agent.
//!
//! They cost as little as a hyper server can, so that what is measured is the proxy in front of them.
//! `GET /_set?n=100&ms=10` changes how many chunks a stream has and how far apart they are.

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, Sleep, sleep_until};

/// The model that every mock engine serves.
pub(crate) const MODEL: &str = "mock-model";

/// The answers' usage, the same for all.
const USAGE: &str = r#""usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17}"#;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen.
    #[arg(long, value_delimiter = ',', required = true)]
    ports: Vec<u16>,
}

/// What all ports share.
#[derive(Debug)]
struct Answers {
    chunks: Cell<u32>,
    interval: Cell<Duration>,
    whole: Bytes,
    chunk: Bytes,
    last: Bytes,
}

/// One port.
#[derive(Debug)]
struct Engine {
    answers: Rc<Answers>,
    running: Cell<u32>,
    served: Cell<u64>,
}

/// Serves until it is killed.
pub(crate) async fn run(options: Options) -> Result<()> {
    let answers = Rc::new(Answers::new());
    let local = LocalSet::new();
    let mut accepting = JoinSet::new();
    for port in options.ports {
        let listener =
            TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("port {port}"))?;
        let engine =
            Rc::new(Engine { answers: Rc::clone(&answers), running: Cell::new(0), served: Cell::new(0) });
        accepting.spawn_local_on(accept(listener, engine), &local);
    }
    local.run_until(async { while accepting.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn accept(listener: TcpListener, engine: Rc<Engine>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((socket, _)) = listener.accept().await {
            connections.spawn_local(connection(socket, Rc::clone(&engine)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(socket: TcpStream, engine: Rc<Engine>) {
    // Without it the last chunk waits for an acknowledgement, which the measurement would show.
    let _ = socket.set_nodelay(true);
    let service = service_fn(move |request| answer(Rc::clone(&engine), request));
    // A client that breaks off is how measurements end.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

impl Answers {
    fn new() -> Self {
        let head = |object: &str| {
            format!(r#"{{"id":"chatcmpl-mock","object":"{object}","created":1700000000,"model":"{MODEL}","#)
        };
        let (whole, chunk) = (head("chat.completion"), head("chat.completion.chunk"));
        let message = r#""message":{"role":"assistant","content":"Hello from the mock."}"#;
        let delta = |delta: &str, finish: &str, rest: &str| {
            format!(
                "data: {chunk}\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]{rest}}}\n\n"
            )
        };
        let last = delta("{}", "\"stop\"", &format!(",{USAGE}"));
        Self {
            chunks: Cell::new(100),
            interval: Cell::new(Duration::ZERO),
            whole: format!(r#"{whole}"choices":[{{"index":0,{message},"finish_reason":"stop"}}],{USAGE}}}"#)
                .into(),
            chunk: delta(r#"{"content":" token"}"#, "null", "").into(),
            last: format!("{last}data: [DONE]\n\n").into(),
        }
    }

    fn set(&self, query: Option<&str>) {
        for (key, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
            match (key, value.parse()) {
                ("n", Ok(n)) => self.chunks.set(n),
                ("ms", Ok(ms)) => self.interval.set(Duration::from_millis(u64::from(ms))),
                _ => {}
            }
        }
    }
}

async fn answer(engine: Rc<Engine>, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; version=0.0.4";
    if request.method() == Method::POST {
        return Ok(completion(engine, request.into_body()).await);
    }
    Ok(match request.uri().path() {
        "/health" => whole(TEXT, "OK"),
        "/version" => whole(JSON, r#"{"version":"0.11.0"}"#),
        "/v1/models" => whole(
            JSON,
            format!(
                r#"{{"object":"list","data":[{{"id":"{MODEL}","object":"model","max_model_len":131072}}]}}"#
            ),
        ),
        "/metrics" => whole(TEXT, engine.metrics()),
        "/_set" => {
            engine.answers.set(request.uri().query());
            whole(TEXT, "set\n")
        }
        _ => {
            let mut response = whole(JSON, r#"{"error":{"message":"not found"}}"#);
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    })
}

async fn completion(engine: Rc<Engine>, body: Incoming) -> Response<Answer> {
    let running = Running::new(&engine);
    let Ok(body) = body.collect().await else {
        let mut response = whole("application/json", "{}");
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let answers = &engine.answers;
    if memchr::memmem::find(&body.to_bytes(), br#""stream":true"#).is_none() {
        return whole("application/json", answers.whole.clone());
    }
    let events = Events {
        left: answers.chunks.get().max(1),
        step: answers.interval.get(),
        due: Instant::now(),
        timer: None,
        chunk: answers.chunk.clone(),
        last: answers.last.clone(),
        _running: running,
    };
    let mut response = Response::new(Answer::Stream(Box::new(events)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn whole(content_type: &'static str, body: impl Into<Bytes>) -> Response<Answer> {
    let mut response = Response::new(Answer::Whole(Full::new(body.into())));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

impl Engine {
    fn metrics(&self) -> String {
        let (running, served) = (f64::from(self.running.get()), self.served.get());
        let mut text = String::with_capacity(1024);
        for (name, kind, value) in [
            ("vllm:num_requests_running", "gauge", running),
            ("vllm:num_requests_waiting", "gauge", 0.0),
            ("vllm:kv_cache_usage_perc", "gauge", (running / 1024.0).min(1.0)),
        ] {
            // Writing to a String cannot fail.
            let _ =
                writeln!(text, "# TYPE {name} {kind}\n{name}{{engine=\"0\",model_name=\"{MODEL}\"}} {value}");
        }
        let _ = writeln!(
            text,
            "# TYPE vllm:request_success_total counter\nvllm:request_success_total{{engine=\"0\",model_name=\"{MODEL}\"}} {served}"
        );
        text
    }
}

/// Counts a request as running for as long as it is answered.
#[derive(Debug)]
struct Running(Rc<Engine>);

impl Running {
    fn new(engine: &Rc<Engine>) -> Self {
        engine.running.set(engine.running.get() + 1);
        engine.served.set(engine.served.get() + 1);
        Self(Rc::clone(engine))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.set(self.0.running.get() - 1);
    }
}

#[derive(Debug)]
enum Answer {
    Whole(Full<Bytes>),
    Stream(Box<Events>),
}

/// A stream of events: the first leaves at once, the k-th is due k intervals later, so nothing drifts.
#[derive(Debug)]
struct Events {
    left: u32,
    step: Duration,
    due: Instant,
    timer: Option<Pin<Box<Sleep>>>,
    chunk: Bytes,
    last: Bytes,
    _running: Running,
}

impl Events {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(timer) = self.timer.as_mut() {
            ready!(timer.as_mut().poll(cx));
        }
        if !self.step.is_zero() {
            self.due += self.step;
            match self.timer.as_mut() {
                Some(timer) => timer.as_mut().reset(self.due),
                None => self.timer = Some(Box::pin(sleep_until(self.due))),
            }
        }
        self.left -= 1;
        Poll::Ready(Some(if self.left == 0 { self.last.clone() } else { self.chunk.clone() }))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Stream(events) => events.poll_next(cx).map(|next| next.map(|chunk| Ok(Frame::data(chunk)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(events) => events.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}
