//! The client against a scripted engine on a real socket.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::*;
use crate::splice::SplicedBody;

const HEAD: RequestHead<'static> = RequestHead {
    method: Method::Post,
    path: "/v1/chat/completions",
    host: "engine:1",
    accept_stream: true,
    request_id: Some("r-1"),
    authorization: None,
    traceparent: None,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn config() -> UpstreamConfig {
    UpstreamConfig { head_timeout: Duration::from_secs(5), ..UpstreamConfig::default() }
}

/// What the engine does on one connection, in order; at the end of the script it closes.
#[derive(Clone)]
enum Step {
    /// Read one whole request.
    Request,
    Send(Vec<u8>),
    /// One byte at a time, letting the client run in between.
    Trickle(Vec<u8>),
    /// Let virtual time pass.
    Pause(Duration),
    /// Stay open until the client closes.
    UntilClosed,
}

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// A scripted engine: one script per accepted connection.
struct Engine {
    addr: SocketAddr,
    running: JoinSet<Vec<Vec<u8>>>,
}

impl Engine {
    async fn start(scripts: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(play(stream, script));
            }
            connections.join_all().await.concat()
        });
        Self { addr, running }
    }

    /// Every request that was read, once all scripts have ended.
    async fn requests(mut self) -> Vec<Vec<u8>> {
        self.running.join_next().await.unwrap().unwrap()
    }
}

async fn play(mut stream: TcpStream, script: Vec<Step>) -> Vec<Vec<u8>> {
    stream.set_nodelay(true).unwrap();
    let mut requests = Vec::new();
    for step in script {
        match step {
            Step::Request => requests.push(read_request(&mut stream, true).await),
            Step::Send(bytes) => stream.write_all(&bytes).await.unwrap(),
            Step::Trickle(bytes) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
            Step::Pause(time) => tokio::time::advance(time).await,
            Step::UntilClosed => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                assert_eq!(rest, b"", "the client sent more than its request");
            }
        }
    }
    requests
}

async fn read_request(stream: &mut TcpStream, with_body: bool) -> Vec<u8> {
    let mut request = Vec::new();
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut fields);
        if let Ok(httparse::Status::Complete(length)) = parsed.parse(&request) {
            let of = |f: &&mut httparse::Header<'_>| f.name.eq_ignore_ascii_case("content-length");
            let body: usize = parsed
                .headers
                .iter_mut()
                .find(|f| of(f))
                .map_or(0, |f| std::str::from_utf8(f.value).unwrap().parse().unwrap());
            if !with_body || request.len() >= length + body {
                return request;
            }
        }
        assert_ne!(
            stream.read_buf(&mut request).await.unwrap(),
            0,
            "the client closed in the middle of a request"
        );
    }
}

async fn ask(addr: SocketAddr) -> Result<Response, UpstreamError> {
    let body = SplicedBody::from(Bytes::from_static(b"{}"));
    exchange(addr, &HEAD, &body, &config(), Socket::PooledOrFresh).await
}

async fn ask_all(addr: SocketAddr) -> Result<(u16, Bytes), UpstreamError> {
    let response = ask(addr).await?;
    let body = response.body.collect(1 << 20).await?;
    Ok((response.head.status.as_u16(), body.unwrap()))
}

#[tokio::test]
async fn a_request_arrives_as_written_and_the_socket_serves_the_next_one() {
    let answer = send(OK);
    let engine =
        Engine::start(vec![vec![Step::Request, answer.clone(), Step::Request, answer, Step::UntilClosed]])
            .await;
    let addr = engine.addr;
    for _ in 0..2 {
        assert_eq!(ask_all(addr).await, Ok((200, Bytes::from_static(b"ok"))));
        assert_eq!(idle_sockets(addr), 1);
    }
    close_idle();
    let expect = "POST /v1/chat/completions HTTP/1.1\r\nHost: engine:1\r\nAccept: text/event-stream, application/json\r\n\
        Content-Type: application/json\r\nContent-Length: 2\r\nX-Request-Id: r-1\r\n\r\n{}";
    assert_eq!(engine.requests().await, [expect.as_bytes(), expect.as_bytes()]);
}

#[tokio::test]
async fn a_stream_is_given_out_without_its_framing_piece_by_piece() {
    let engine = Engine::start(vec![vec![
        Step::Request,
        send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
        Step::Trickle(b"6\r\nsecond\r\n1;x\r\n!\r\n0\r\nTrailer: dropped\r\n\r\n".to_vec()),
        Step::UntilClosed,
    ]])
    .await;
    let mut response = ask(engine.addr).await.unwrap();
    assert!(response.head.is_event_stream() && response.head.content_length.is_none());
    assert_eq!(response.body.chunk().await, Ok(Some(Bytes::from_static(b"first"))));
    let mut rest = Vec::new();
    while let Some(data) = response.body.chunk().await.unwrap() {
        assert!(!data.is_empty());
        rest.extend_from_slice(&data);
    }
    assert_eq!(rest, b"second!");
    assert!(response.body.is_end());
    assert_eq!(response.body.chunk().await, Ok(None));
    assert_eq!(idle_sockets(engine.addr), 1);
}

#[tokio::test]
async fn an_answer_that_trickles_in_is_the_same_answer() {
    let trickle = |text: &str| Step::Trickle(text.as_bytes().to_vec());
    let engine = Engine::start(vec![
        vec![Step::Request, trickle(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}")), Step::UntilClosed],
        vec![Step::Request, trickle("HTTP/1.0 200 OK\r\n\r\nuntil the end")],
        vec![Step::Request, trickle("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end")],
        vec![Step::Request, send("HTTP/1.1 204 No Content\r\n\r\n"), Step::UntilClosed],
    ])
    .await;
    assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"ok"))));
    close_idle();
    for _ in 0..2 {
        assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"until the end"))));
        assert_eq!(idle_sockets(engine.addr), 0, "a close-delimited answer ends its connection");
    }
    assert_eq!(ask_all(engine.addr).await, Ok((204, Bytes::new())));
    assert_eq!(idle_sockets(engine.addr), 1);
}

#[tokio::test]
async fn an_engine_that_dies_is_told_apart_by_where_it_died() {
    use UpstreamError::{BadHead, BodyTruncated, ClosedBeforeHead};
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (sent, expect) in [
        ("", ClosedBeforeHead { reused: false }),
        ("HTTP/1.1 200", BadHead { what: "it ends early" }),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", BodyTruncated),
        (&format!("{chunked}4\r\nhalf\r\n"), BodyTruncated),
        (
            &format!("{chunked}zz\r\n"),
            UpstreamError::BodyFraming { what: "a chunk size that is not hexadecimal" },
        ),
        (
            &format!("{chunked}{:x}0\r\n", u64::MAX),
            UpstreamError::BodyFraming { what: "a chunk size that overflows" },
        ),
    ] {
        let engine = Engine::start(vec![vec![Step::Request, send(sent)]]).await;
        assert_eq!(ask_all(engine.addr).await, Err(expect), "{sent:?}");
        assert_eq!(idle_sockets(engine.addr), 0, "{sent:?}");
        assert!(expect.retryable_before_first_byte() && !expect.is_stale_socket(), "{sent:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let addr = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(addr).await.unwrap_err();
    assert_eq!(error, UpstreamError::Connect { kind: std::io::ErrorKind::ConnectionRefused });
}

#[tokio::test]
async fn a_pooled_socket_that_dies_under_a_request_is_reported_as_stale() {
    let engine = Engine::start(vec![
        vec![Step::Request, send(OK), Step::Request],
        vec![Step::Request, send(OK), Step::UntilClosed],
    ])
    .await;
    ask_all(engine.addr).await.unwrap();
    let error = ask(engine.addr).await.unwrap_err();
    assert_eq!(error, UpstreamError::ClosedBeforeHead { reused: true });
    assert!(error.is_stale_socket());
    let body = SplicedBody::from(Bytes::from_static(b"{}"));
    let fresh = exchange(engine.addr, &HEAD, &body, &config(), Socket::Fresh).await.unwrap();
    assert_eq!(fresh.head.status.as_u16(), 200);
}

#[tokio::test]
async fn an_idle_socket_that_was_closed_or_that_talks_is_not_used_again() {
    for unasked in ["", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"] {
        let engine = Engine::start(vec![
            vec![Step::Request, send(OK), send(unasked)],
            vec![Step::Request, send(OK), Step::UntilClosed],
        ])
        .await;
        ask_all(engine.addr).await.unwrap();
        // The first script has ended and its socket is closed as soon as the runtime has nothing else to do.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"ok"))), "{unasked:?}");
        close_idle();
        assert_eq!(engine.requests().await.len(), 2, "{unasked:?}");
    }
}

#[tokio::test]
async fn an_engine_that_sends_more_than_its_answer_loses_the_connection() {
    let engine =
        Engine::start(vec![vec![Step::Request, send(&format!("{OK}{OK}")), Step::UntilClosed]]).await;
    assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"ok"))));
    assert_eq!(idle_sockets(engine.addr), 0);
}

#[tokio::test]
async fn an_engine_that_sends_too_much_later_loses_the_connection_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (seen, has_seen) = tokio::sync::oneshot::channel();
    let engine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, true).await;
        stream.write_all(&OK.as_bytes()[..OK.len() - 1]).await.unwrap();
        has_seen.await.unwrap();
        stream.write_all(b"k and more").await.unwrap();
        stream
    };
    let client = async {
        let mut body = ask(addr).await.unwrap().body;
        assert_eq!(body.chunk().await, Ok(Some(Bytes::from_static(b"o"))));
        seen.send(()).unwrap();
        assert_eq!(body.chunk().await, Ok(Some(Bytes::from_static(b"k"))));
        assert_eq!(body.chunk().await, Ok(None));
    };
    let (_stream, ()) = tokio::join!(engine, client);
    assert_eq!(idle_sockets(addr), 0);
}

#[tokio::test]
async fn a_socket_whose_engine_announced_its_close_is_not_kept() {
    let closing = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let engine = Engine::start(vec![vec![Step::Request, send(closing), Step::UntilClosed]]).await;
    assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"ok"))));
    assert_eq!(idle_sockets(engine.addr), 0);
}

#[tokio::test]
async fn dropping_an_unfinished_answer_closes_the_socket() {
    let started = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    let engine = Engine::start(vec![vec![Step::Request, send(started), Step::UntilClosed]]).await;
    let response = ask(engine.addr).await.unwrap();
    drop(response);
    assert_eq!(idle_sockets(engine.addr), 0);
    assert_eq!(engine.requests().await.len(), 1, "the engine saw the close");
}

#[tokio::test]
async fn dropping_an_exchange_that_waits_closes_the_socket() {
    let engine = Engine::start(vec![vec![Step::Request, Step::UntilClosed]]).await;
    let waited = tokio::time::timeout(Duration::from_millis(50), ask(engine.addr)).await;
    assert!(waited.is_err());
    assert_eq!(engine.requests().await.len(), 1, "the engine saw the close");
}

#[tokio::test]
async fn the_write_side_stays_open_while_an_answer_is_awaited() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let engine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, true).await;
        let half_close = tokio::time::timeout(Duration::from_millis(50), stream.read_u8()).await;
        assert!(half_close.is_err(), "the client closed its side");
        stream.write_all(OK.as_bytes()).await.unwrap();
        stream
    };
    let (_stream, answer) = tokio::join!(engine, ask_all(addr));
    assert_eq!(answer, Ok((200, Bytes::from_static(b"ok"))));
}

#[tokio::test]
async fn a_large_body_arrives_whole_in_many_writes() {
    // More than a socket takes at once, and different at every place.
    let content: String = (0..2_000_000).map(|i| format!("{i} ")).collect();
    let text = Bytes::from(format!(r#"{{"stream":false,"messages":["{content}"],"model":"a"}}"#));
    let view = crate::scan::scan(&text, crate::scan::ScanLimits::DEFAULT).unwrap();
    let edits = crate::splice::Edits { stream: Some(true), include_usage: true, model: Some("b") };
    let body = crate::splice::splice(&text, &view, edits);
    let engine = Engine::start(vec![vec![Step::Request, send(OK), Step::UntilClosed]]).await;
    let response = exchange(engine.addr, &HEAD, &body, &config(), Socket::PooledOrFresh).await.unwrap();
    assert_eq!(response.head.status.as_u16(), 200);
    assert_eq!(idle_sockets(engine.addr), 1);
    close_idle();
    let request = engine.requests().await.remove(0);
    assert!(request.ends_with(&body.to_vec()));
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_is_given_out() {
    let refusal = "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let engine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, false).await;
        stream.write_all(refusal.as_bytes()).await.unwrap();
        stream
    };
    // More than both sockets' buffers hold.
    let body = SplicedBody::from(Bytes::from(vec![b' '; 64 << 20]));
    let config = config();
    let client = exchange(addr, &HEAD, &body, &config, Socket::PooledOrFresh);
    let (_stream, response) = tokio::join!(engine, client);
    let response = response.unwrap();
    assert_eq!(response.head.status.as_u16(), 413);
    assert_eq!(response.body.collect(10).await, Ok(Some(Bytes::from_static(b"no"))));
    assert_eq!(idle_sockets(addr), 0, "half a request is on this socket");
}

#[tokio::test]
async fn an_answer_followed_by_a_reset_is_still_given_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let engine = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream, false).await;
        // Closing with unread bytes resets the connection, so the client's writing fails.
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
    };
    let body = SplicedBody::from(Bytes::from(vec![b' '; 64 << 20]));
    let config = config();
    let ((), response) = tokio::join!(engine, exchange(addr, &HEAD, &body, &config, Socket::Fresh));
    let response = response.unwrap();
    assert_eq!(response.head.status.as_u16(), 413);
    assert_eq!(response.body.collect(10).await, Ok(Some(Bytes::from_static(b"no"))));
}

#[tokio::test(start_paused = true)]
async fn the_total_time_bounds_every_phase_and_who_watches_hears_of_the_silence_once() {
    for (sent, total_s, phase, heard_at) in [
        ("", 4, Phase::Head, Some(2)),
        ("", 1, Phase::Head, Some(1)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 100, Phase::Body, None),
    ] {
        let engine = Engine::start(vec![vec![Step::Request, send(sent), Step::UntilClosed]]).await;
        let begin = tokio::time::Instant::now();
        let mut heard = Vec::new();
        let mut then = || heard.push(begin.elapsed().as_secs());
        let quiet = Quiet { after: Duration::from_secs(2), then: &mut then };
        let config = UpstreamConfig { total_timeout: Duration::from_secs(total_s), ..config() };
        let body = SplicedBody::from(Bytes::from_static(b"{}"));
        let answer = exchange_watched(engine.addr, &HEAD, &body, &config, Socket::Fresh, Some(quiet)).await;
        let ended = match answer {
            Ok(response) => response.body.collect(100).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(ended, UpstreamError::Timeout { phase }, "{sent:?}");
        assert_eq!((begin.elapsed().as_secs(), heard), (total_s, heard_at.into_iter().collect()), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_engine_meets_the_deadline_of_the_phase() {
    for (sent, phase, seconds) in [
        ("", Phase::Head, 5),
        ("HTTP/1.1 200 OK\r\nContent-Len", Phase::Head, 5),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Phase::Body, 120),
    ] {
        let engine = Engine::start(vec![vec![Step::Request, send(sent), Step::UntilClosed]]).await;
        let begin = tokio::time::Instant::now();
        assert_eq!(ask_all(engine.addr).await, Err(UpstreamError::Timeout { phase }), "{sent:?}");
        assert_eq!(begin.elapsed().as_secs(), seconds, "{sent:?}");
        assert_eq!(engine.requests().await.len(), 1, "{sent:?}: the engine saw the close");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_stream_lives_as_long_as_it_is_never_silent_for_too_long() {
    let slowly = [
        Step::Request,
        send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        Step::Pause(Duration::from_secs(100)),
        send("1\r\na\r\n"),
        Step::Pause(Duration::from_secs(100)),
        send("1\r\nb\r\n"),
        Step::Pause(Duration::from_secs(100)),
        send("0\r\n\r\n"),
        Step::UntilClosed,
    ];
    let engine = Engine::start(vec![slowly.to_vec()]).await;
    assert_eq!(ask_all(engine.addr).await, Ok((200, Bytes::from_static(b"ab"))));
}

#[tokio::test(start_paused = true)]
async fn where_the_reader_counts_progress_bytes_alone_end_no_silence() {
    let with_a_byte = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n";
    for (progresses, seconds) in [(false, 120), (true, 220)] {
        let engine = Engine::start(vec![vec![Step::Request, send(with_a_byte), Step::UntilClosed]]).await;
        let mut body = ask(engine.addr).await.unwrap().body;
        let begin = tokio::time::Instant::now();
        body.count_progress_only();
        tokio::time::advance(Duration::from_secs(100)).await;
        assert_eq!(body.chunk().await, Ok(Some(Bytes::from_static(b"a"))));
        if progresses {
            body.progressed();
        }
        assert_eq!(body.chunk().await, Err(UpstreamError::Timeout { phase: Phase::Body }));
        assert_eq!(begin.elapsed().as_secs(), seconds, "{progresses}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_socket_is_not_kept_longer_than_engines_keep_theirs() {
    let once = vec![Step::Request, send(OK), Step::UntilClosed];
    let engine = Engine::start(vec![once.clone(), once]).await;
    ask_all(engine.addr).await.unwrap();
    tokio::time::advance(Duration::from_secs(4)).await;
    ask_all(engine.addr).await.unwrap();
    assert_eq!(idle_sockets(engine.addr), 1, "the old one was dropped, the new one kept");
}

#[tokio::test]
async fn no_more_idle_sockets_are_kept_than_allowed() {
    let once = vec![Step::Request, send(OK), Step::UntilClosed];
    let engine = Engine::start(vec![once; 3]).await;
    let few = UpstreamConfig { idle_max: 2, ..config() };
    let body = SplicedBody::empty();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(exchange(engine.addr, &HEAD, &body, &few, Socket::Fresh).await.unwrap());
    }
    for response in open {
        response.body.collect(10).await.unwrap();
    }
    assert_eq!(idle_sockets(engine.addr), 2);
}

#[tokio::test]
async fn a_body_larger_than_the_callers_limit_is_given_up() {
    let engine = Engine::start(vec![vec![
        Step::Request,
        send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n123"),
        Step::UntilClosed,
    ]])
    .await;
    let response = ask(engine.addr).await.unwrap();
    assert_eq!(response.body.collect(2).await, Ok(None));
    assert_eq!(engine.requests().await.len(), 1, "the engine saw the close");
}
