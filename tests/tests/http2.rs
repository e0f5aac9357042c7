#![cfg(test)]
//! HTTP/2 by prior knowledge on the clients' port, with a client that speaks it frame by frame (F3).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use aya_tests::{CANARY, Farm, Raw, aya, chat, sim, streamed, until};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// One connection; dropped, it closes.
struct H2 {
    addr: SocketAddr,
    send: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
}

impl H2 {
    async fn to(farm: &Farm) -> Self {
        let addr = farm.scheduler.api;
        let (send, connection) = client::handshake(TcpStream::connect(addr).await.unwrap()).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { addr, send, driver }
    }

    /// Sends a request and waits for the answer's head.
    async fn ask(&self, path: &str, id: &str, body: Option<Value>) -> Response<RecvStream> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header("x-request-id", id)
            .body(())
            .unwrap();
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, mut out) = send.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            out.send_data(body.to_string().into(), true).unwrap();
        }
        response.await.unwrap()
    }
}

async fn text(response: Response<RecvStream>) -> String {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend_from_slice(&data);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn whole_answers_streams_and_lists_come_side_by_side_on_one_connection() {
    let farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).start().await;
    let h2 = H2::to(&farm).await;
    let (stream, whole, models, unknown) = tokio::join!(
        h2.ask("/v1/chat/completions", "h2-stream", Some(streamed(40))),
        h2.ask("/v1/chat/completions", "h2-whole", Some(chat(20))),
        h2.ask("/v1/models", "h2-models", None),
        h2.ask("/sleep", "h2-unknown", None),
    );
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    assert_eq!(stream.headers()["x-request-id"], "h2-stream");
    assert!(stream.headers().contains_key("x-aya-endpoint"), "{:?}", stream.headers());
    let events = text(stream).await;
    assert!(events.ends_with("data: [DONE]\n\n"), "{events}");
    assert_eq!(whole.status(), StatusCode::OK);
    assert!(whole.headers().contains_key("date") && whole.headers().contains_key("content-length"));
    let whole: Value = serde_json::from_str(&text(whole).await).unwrap();
    assert_eq!(whole["usage"]["completion_tokens"], 20, "{whole}");
    assert!(text(models).await.contains("llama-3.1-8b"));
    drop(h2);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_stream_that_is_reset_stops_the_engine_and_leaves_its_neighbours_alone() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let h2 = H2::to(&farm).await;
    let neighbour = h2.ask("/v1/chat/completions", "h2-neighbour", Some(streamed(100))).await;
    let mut leaving = h2.ask("/v1/chat/completions", "h2-leaving", Some(streamed(5_000))).await.into_body();
    assert!(leaving.data().await.unwrap().is_ok());
    let left_at = Instant::now();
    drop(leaving);
    until("the engine to stop", async || {
        let state = farm.engine("e1").request_state("h2-leaving").await;
        if state.as_deref() == Some("aborted") { Ok(()) } else { Err(state) }
    })
    .await;
    assert!(left_at.elapsed() < Duration::from_millis(300), "{:?}", left_at.elapsed());
    assert_eq!(farm.record("h2-leaving").await["outcome"]["status"], "client_cancelled");
    assert!(text(neighbour).await.ends_with("data: [DONE]\n\n"));
    drop(h2);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_request_that_waits_is_given_up_with_its_stream_and_with_its_connection() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow().flag("--fault", "stall")).start().await;
    let h2 = H2::to(&farm).await;
    for id in ["h2-reset", "h2-gone"] {
        let request = Request::post(format!("http://{}/v1/chat/completions", h2.addr))
            .header("x-request-id", id)
            .body(())
            .unwrap();
        let mut send = h2.send.clone().ready().await.unwrap();
        let (response, mut out) = send.send_request(request, false).unwrap();
        out.send_data(streamed(50).to_string().into(), true).unwrap();
        until("the engine to have it", async || {
            let state = farm.engine("e1").request_state(id).await;
            if state.as_deref() == Some("live") { Ok(()) } else { Err(state) }
        })
        .await;
        if id == "h2-reset" {
            out.send_reset(Reason::CANCEL);
            let ended = farm.record(id).await;
            assert_eq!(ended["outcome"]["status"], "client_cancelled", "{ended}");
        }
        drop(response);
    }
    drop(h2);
    assert_eq!(farm.record("h2-gone").await["outcome"]["status"], "client_cancelled");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_given_up_after_the_write_stall() {
    let config = "[timeouts]\nwrite_stall = \"500ms\"\n";
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).scheduler(config).start().await;
    let addr = farm.scheduler.api;
    let socket = TcpStream::connect(addr).await.unwrap();
    let mut builder = client::Builder::new();
    let (send, connection) = builder.initial_window_size(300).handshake::<_, Bytes>(socket).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let h2 = H2 { addr, send, driver };
    let stuck = h2.ask("/v1/chat/completions", "h2-stuck", Some(streamed(5_000))).await;
    let record = farm.record("h2-stuck").await;
    assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
    drop(stuck);
    let other = h2.ask("/v1/models", "h2-other", None).await;
    assert_eq!(other.status(), StatusCode::OK);
    drop(h2);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn bodies_and_heads_have_the_limits_of_http_1() {
    let config = "[limits]\nbody_max = \"64KiB\"\n";
    let farm = Farm::of(aya!()).engine(sim("e1")).scheduler(config).start().await;
    let h2 = H2::to(&farm).await;
    let mut large = chat(5);
    large["messages"][0]["content"] = "x".repeat(100_000).into();
    let answer = h2.ask("/v1/chat/completions", "h2-large", Some(large)).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer = h2.ask("/v1/chat/completions", "h2-json", Some(Value::from("no object"))).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let request = Request::get(format!("http://{}/v1/models", h2.addr)).header("host", "elsewhere").body(());
    let mut send = h2.send.clone().ready().await.unwrap();
    let (response, _) = send.send_request(request.unwrap(), true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
    drop(h2);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn at_shutdown_a_client_is_told_to_go_and_its_streams_end() {
    let config = "[timeouts]\naccept_grace = \"100ms\"\n";
    let mut farm = Farm::of(aya!()).engine(sim("e1").slow()).scheduler(config).start().await;
    let mut h2 = H2::to(&farm).await;
    let mut stream = h2.ask("/v1/chat/completions", "h2-last", Some(streamed(100))).await.into_body();
    assert!(stream.data().await.unwrap().is_ok());
    farm.scheduler.process.terminate();
    let mut rest = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        rest.extend_from_slice(&data);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(rest.ends_with("data: [DONE]\n\n"), "{rest}");
    assert!(h2.send.clone().ready().await.is_err(), "new requests are still taken");
    h2.driver.join_next().await.unwrap().unwrap().unwrap();
    assert!(farm.scheduler.process.ended().await.code == Some(0));
}

/// What a client gets that sends this behind the preface, until the connection is closed.
async fn flooded(farm: &Farm, frames: &[u8], times: usize) {
    let mut raw = Raw::connect(farm.scheduler.api).await;
    raw.send(PREFACE).await;
    raw.send(SETTINGS).await;
    let flood = frames.repeat(1_000);
    for _ in 0..times.div_ceil(1_000) {
        raw.send(&flood).await;
    }
    let (_, closed) = raw.read_for(Duration::from_secs(1)).await;
    assert!(closed, "the connection is still open");
}

#[tokio::test]
async fn f3_floods_of_frames_end_their_connection_within_a_second_and_honest_clients_notice_nothing() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let honest = H2::to(&farm).await;
    let stream = honest.ask("/v1/chat/completions", "h2-honest", Some(streamed(200))).await;
    let before = farm.scheduler.process.peak_memory_bytes();
    let ping: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    flooded(&farm, ping, 20_000).await;
    flooded(&farm, SETTINGS, 20_000).await;
    let priority: &[u8] = &[0, 0, 5, 2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 16];
    flooded(&farm, priority, 20_000).await;
    let empty_continuation: &[u8] = &[0, 0, 0, 9, 0, 0, 0, 0, 1];
    let open_head: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 0, 1];
    flooded(&farm, &[open_head, &empty_continuation.repeat(50)].concat(), 1_000).await;
    let garbage: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    flooded(&farm, garbage, 1_000).await;
    assert!(text(stream).await.ends_with("data: [DONE]\n\n"));
    let grown = farm.scheduler.process.peak_memory_bytes().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
    drop(honest);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f3_a_rapid_reset_is_answered_with_enhance_your_calm() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let mut h2 = H2::to(&farm).await;
    let mut sent = 0;
    let end = loop {
        let ready = poll_fn(|cx| h2.send.poll_ready(cx)).await;
        let request = Request::post(format!("http://{}/v1/chat/completions", h2.addr)).body(()).unwrap();
        let asked = ready.and_then(|()| h2.send.send_request(request, false));
        let Ok((_, mut out)) = asked else { break h2.driver.join_next().await.unwrap().unwrap() };
        out.send_reset(Reason::CANCEL);
        sent += 1;
        assert!(sent < 20_000, "nothing stops it");
        tokio::task::yield_now().await;
    };
    assert_eq!(end.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert!(!farm.scheduler.process.log().contains(CANARY));
    drop(h2);
    farm.assert_accounted().await;
}
