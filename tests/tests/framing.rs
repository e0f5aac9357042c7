#![cfg(test)]
//! F1 and F2: every way to write one HTTP/1 request so that two parsers read two, as data. The engine behind stands at
//! a recording line: it sees no request or exactly one that a strict reader takes.

use std::time::Duration;

use aya_tests::{Farm, Raw, Tap, aya, chat, raw_exchange, streamed, tapped, with};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";
const HOST: &str = "Host: a\r\n";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Bytes of one connection, and what has to become of them.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// The statuses of the answers in order.
    answers: &'static [u16],
}

/// Bodies and framing that the cases are made of.
struct Parts {
    body: String,
    length: String,
    /// The body in chunks of one size, with the last one.
    chunks: String,
}

impl Parts {
    fn new() -> Self {
        let body = chat(1).to_string();
        let length = format!("Content-Length: {}\r\n", body.len());
        let chunks: String = body.as_bytes().chunks(7).map(chunk).collect();
        Self { chunks: format!("{chunks}0\r\n\r\n"), body, length }
    }

    /// A request with these fields and what follows the head.
    fn post(&self, fields: &str, rest: &str) -> Vec<u8> {
        format!("POST {PATH} HTTP/1.1\r\n{fields}\r\n{rest}").into_bytes()
    }

    /// The decent body and its length behind these fields.
    fn with_length(&self, fields: &str) -> Vec<u8> {
        self.post(&format!("{fields}{}", self.length), &self.body)
    }
}

fn chunk(bytes: &[u8]) -> String {
    format!("{:x}\r\n{}\r\n", bytes.len(), std::str::from_utf8(bytes).unwrap())
}

const fn case(name: &'static str, bytes: Vec<u8>, answers: &'static [u16]) -> Case {
    Case { name, bytes, answers }
}

/// Two lengths, or a length and chunks: whoever believes the other one finds another request.
fn lengths(p: &Parts) -> Vec<Case> {
    let Parts { body, length, chunks } = p;
    let smuggled = format!("0\r\n\r\n{}", String::from_utf8(p.with_length(HOST)).unwrap());
    let raw = |value: &str| p.post(&format!("{HOST}Content-Length: {value}\r\n"), body);
    vec![
        case("a length and chunks", p.post(&format!("{HOST}{length}{CHUNKED}"), chunks), &[400]),
        case("chunks and a length", p.post(&format!("{HOST}{CHUNKED}{length}"), chunks), &[400]),
        case(
            "chunks and a short length",
            p.post(&format!("{HOST}Content-Length: 4\r\n{CHUNKED}"), &smuggled),
            &[400],
        ),
        case(
            "a length of 0 and chunks",
            p.post(&format!("{HOST}Content-Length: 0\r\n{CHUNKED}"), chunks),
            &[400],
        ),
        case("two lengths", p.post(&format!("{HOST}{length}Content-Length: 3\r\n"), body), &[400]),
        case("the same length twice", p.post(&format!("{HOST}{length}{length}"), body), &[400]),
        case("a list of lengths", raw("5, 5"), &[400]),
        case("a list of two lengths", raw("5, 6"), &[400]),
        case("a signed length", raw("+5"), &[400]),
        case("a negative length", raw("-1"), &[400]),
        case("a hexadecimal length", raw("0x5"), &[400]),
        case("a length of words", raw("five"), &[400]),
        case("an empty length", raw(""), &[400]),
        case("a length beyond 64 bits", raw("18446744073709551616"), &[400]),
        case("a body without a length", p.post(HOST, body), &[400, 400]),
    ]
}

/// Transfer codings that one parser takes for chunked and the next for none.
fn codings(p: &Parts) -> Vec<Case> {
    let coded = |coding: &str| p.post(&format!("{HOST}Transfer-Encoding: {coding}\r\n"), &p.chunks);
    let old = format!("POST {PATH} HTTP/1.0\r\n{HOST}{CHUNKED}\r\n{}", p.chunks);
    vec![
        case("chunked twice", p.post(&format!("{HOST}{CHUNKED}{CHUNKED}"), &p.chunks), &[400]),
        case("chunked, chunked", coded("chunked, chunked"), &[400]),
        case(
            "identity",
            p.post(&format!("{HOST}Transfer-Encoding: identity\r\n{}", p.length), &p.body),
            &[400],
        ),
        case("chunked, identity", coded("chunked, identity"), &[400]),
        case("gzip, chunked", coded("gzip, chunked"), &[400]),
        case("xchunked", coded("xchunked"), &[400]),
        case("a vertical tab before it", coded("\u{b}chunked"), &[400]),
        case("quotes around it", coded("\"chunked\""), &[400]),
        case("a parameter behind it", coded("chunked;q=1"), &[400]),
        case("a coding of its own", coded("cow"), &[400]),
        case("an empty coding", coded(""), &[400]),
        case("chunks in HTTP/1.0", old.into_bytes(), &[400]),
        case("a coding in capitals", coded("CHUNKED").replace_close(), &[200]),
        case("chunks", p.post(&format!("{HOST}Connection: close\r\n{CHUNKED}"), &p.chunks), &[200]),
    ]
}

trait ReplaceClose {
    fn replace_close(self) -> Vec<u8>;
}

impl ReplaceClose for Vec<u8> {
    /// The same request, after which the connection closes.
    fn replace_close(self) -> Vec<u8> {
        let text = String::from_utf8(self).unwrap();
        text.replacen(HOST, "Host: a\r\nConnection: close\r\n", 1).into_bytes()
    }
}

/// Chunks whose end two parsers put at two places.
fn chunk_sizes(p: &Parts) -> Vec<Case> {
    let fields = format!("{HOST}{CHUNKED}");
    let sent = |rest: &str| p.post(&fields, rest);
    let (size, body) = (format!("{:x}", p.body.len()), &p.body);
    let whole = chunk(body.as_bytes());
    vec![
        case("a chunk size that overflows", sent(&format!("fffffffffffffffff\r\n{body}")), &[400]),
        case("a chunk size of 2^64", sent(&format!("10000000000000000\r\n{body}")), &[400]),
        case("a chunk size that is none", sent(&format!("zz\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("an empty chunk size", sent(&format!("\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a signed chunk size", sent(&format!("+{size}\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a chunk size with a prefix", sent(&format!("0x{size}\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a space before the chunk size", sent(&format!(" {size}\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a space behind the chunk size", sent(&format!("{size} \r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a line feed behind the chunk size", sent(&format!("{size}\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a line feed in an extension", sent(&format!("{size};a\nb\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("an endless extension", sent(&format!("{size};{}", "x".repeat(70_000))), &[400]),
        case("a chunk longer than its size", sent(&format!("1\r\n{body}\r\n0\r\n\r\n")), &[400]),
        case("a line feed behind a chunk", sent(&format!("{size}\r\n{body}\n0\r\n\r\n")), &[400]),
        case("a line feed in the trailers", sent(&format!("{whole}0\r\nX: 1\n\r\n\r\n")), &[400]),
        case("endless trailers", sent(&format!("{whole}0\r\n{}", "X: y\r\n".repeat(9_000))), &[400]),
        case(
            "trailers that say another length",
            sent(&format!("{whole}0\r\nContent-Length: 3\r\nHost: b\r\n\r\n")).replace_close(),
            &[200],
        ),
        case("an extension", sent(&format!("{size};a=b\r\n{body}\r\n0\r\n\r\n")).replace_close(), &[200]),
    ]
}

/// Lines that one parser folds, trims or splits and the next does not.
fn lines(p: &Parts) -> Vec<Case> {
    let (length, body) = (&p.length, &p.body);
    let bare = format!("POST {PATH} HTTP/1.1\nHost: a\n{}\n{body}", length.replace('\r', ""));
    let mixed = format!("POST {PATH} HTTP/1.1\r\nHost: a\r\n{length}\n{body}");
    vec![
        case("a space before the colon", p.with_length("Host : a\r\n"), &[400]),
        case("a tab before the colon", p.with_length("Host: a\r\nX\t: b\r\n"), &[400]),
        case("a folded line", p.with_length("Host: a\r\nX-A: b\r\n c\r\n"), &[400]),
        case("a folded first field", p.with_length(" Host: a\r\n"), &[400]),
        case("a bare CR", p.with_length("Host: a\r\nX-A: b\rc\r\n"), &[400]),
        case("a bare CR before a field", p.with_length("Host: a\r\nX: y\rContent-Length: 3\r\n"), &[400]),
        case("a NUL", p.with_length("Host: a\r\nX-A: b\0c\r\n"), &[400]),
        case("bare line feeds", bare.into_bytes(), &[400]),
        case("a bare line feed at the end", mixed.into_bytes(), &[400]),
        case("a field without a colon", p.with_length("Host: a\r\nX-A\r\n"), &[400]),
        case("a field without a name", p.with_length("Host: a\r\n: b\r\n"), &[400]),
        case("a name of other letters", p.with_length("Host: a\r\nX(A): b\r\n"), &[400]),
        case(
            "an underscore for a dash",
            p.with_length("Host: a\r\nContent_Length: 3\r\nConnection: close\r\n"),
            &[200],
        ),
        case("two spaces in the first line", raw_line("POST  /v1/chat/completions HTTP/1.1", p), &[400]),
        case("a tab in the first line", raw_line("POST\t/v1/chat/completions HTTP/1.1", p), &[400]),
        case("a fourth word in the first line", raw_line("POST /v1/chat/completions x HTTP/1.1", p), &[400]),
        case("another version", raw_line("POST /v1/chat/completions HTTP/1.2", p), &[400]),
        case("no version", b"GET /v1/models\r\n\r\n".to_vec(), &[400]),
        case("too many empty lines before it", [b"\r\n".repeat(6), p.with_length(HOST)].concat(), &[400]),
        case(
            "empty lines before it",
            [b"\r\n\r\n".to_vec(), p.with_length(HOST)].concat().replace_close(),
            &[200],
        ),
    ]
}

fn raw_line(line: &str, p: &Parts) -> Vec<u8> {
    format!("{line}\r\n{HOST}{}\r\n{}", p.length, p.body).into_bytes()
}

/// Who and what is asked for: hosts, targets, methods, other protocols.
fn targets(p: &Parts) -> Vec<Case> {
    let line = |line: &str| raw_line(line, p);
    let bare = |text: &str| text.as_bytes().to_vec();
    let upgrade = |protocol: &str| {
        let more = if protocol == "h2c" { "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n" } else { "" };
        p.with_length(&format!(
            "{HOST}Connection: close, upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n{more}"
        ))
    };
    vec![
        case("no Host", p.with_length(""), &[400]),
        case("two Hosts", p.with_length("Host: a\r\nHost: b\r\n"), &[400]),
        case("the same Host twice", p.with_length("Host: a\r\nHost: a\r\n"), &[400]),
        case("another host in the target", line("POST http://b/v1/chat/completions HTTP/1.1"), &[400]),
        case("a user in the target", line("POST http://a@a/v1/chat/completions HTTP/1.1"), &[400]),
        case(
            "the same host in the target",
            line("POST http://a/v1/chat/completions HTTP/1.1").replace_close(),
            &[200],
        ),
        case(
            "HTTP/1.0 without Host",
            format!("POST {PATH} HTTP/1.0\r\n{}\r\n{}", p.length, p.body).into(),
            &[200],
        ),
        case("a target of `*`", bare("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), &[404]),
        case("a way up", line("POST /v1/../v1/chat/completions HTTP/1.1"), &[404]),
        case("a way up, encoded", line("POST /v1/%2e%2e%2f%00 HTTP/1.1"), &[404]),
        case(
            "a way up below a model",
            bare("GET /v1/models/../../metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
            &[404],
        ),
        case("an engine's own path", line("POST /v1/load_lora_adapter HTTP/1.1"), &[404]),
        case("a fragment", line("POST /v1/chat/completions#x HTTP/1.1"), &[400]),
        case("CONNECT", bare("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"), &[405]),
        case("TRACE", bare("TRACE /v1/chat/completions HTTP/1.1\r\nHost: a\r\n\r\n"), &[405]),
        case("a method of its own", line("BREW /v1/chat/completions HTTP/1.1"), &[405]),
        case("a websocket", upgrade("websocket"), &[501]),
        case("HTTP/2 and a websocket", upgrade("h2c, websocket"), &[501]),
        // Only offered, and declined in silence, as RFC 9110 section 7.8 lets a server do; the field goes nowhere.
        case("an offer of HTTP/2", upgrade("h2c"), &[200]),
        case("TLS", [vec![0x16, 3, 1, 0, 0xa5, 1, 0, 0, 0xa1, 3, 3], vec![b'\n'; 40]].concat(), &[400]),
        case("a compressed body", p.with_length(&format!("{HOST}Content-Encoding: gzip\r\n")), &[415]),
        case("an expectation of its own", p.with_length(&format!("{HOST}Expect: 200-maybe\r\n")), &[417]),
    ]
}

/// More than any request needs.
fn sizes(p: &Parts) -> Vec<Case> {
    let get =
        |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\n{HOST}{fields}\r\n").into_bytes();
    let field = |size: usize| format!("X-A: {}\r\n", "b".repeat(size));
    vec![
        case("150 fields", get("/v1/models", &"X-A: b\r\n".repeat(150)), &[431]),
        case("a field of 100 KB", get("/v1/models", &field(100_000)), &[431]),
        case("a field of 500 KB", get("/v1/models", &field(500_000)), &[431]),
        case("a field just above 32 KiB", get("/v1/models", &field(33_000)), &[431]),
        case("a target of 70 KB", get(&format!("/{}", "b".repeat(70_000)), ""), &[414]),
        case("a name of 40 KB", get("/v1/models", &format!("{}: b\r\n", "x".repeat(40_000))), &[431]),
        case(
            "a field of 30 KB",
            p.with_length(&format!("{HOST}Connection: close\r\n{}", field(30_000))),
            &[200],
        ),
    ]
}

/// Several requests on one connection: each is one, in order, and a bad one ends it.
fn pipelines(p: &Parts) -> Vec<Case> {
    let one = p.with_length(HOST);
    let last = p.with_length("Host: a\r\nConnection: close\r\n");
    let bad = p.post(&format!("{HOST}{}{CHUNKED}", p.length), &p.chunks);
    let models = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let chunked = p.post(&format!("{HOST}{CHUNKED}"), &p.chunks);
    vec![
        case("two at once", [&*one, &last].concat(), &[200, 200]),
        case("chunked ones at once", [&*chunked, &chunked, &last].concat(), &[200, 200, 200]),
        case("a bad one behind a decent one", [&*models, &bad, &one].concat(), &[200, 400]),
        case("a bad one behind an inference", [&*one, &bad, &one].concat(), &[200, 400]),
        case("garbage behind a body", [&*one, b"garbage\r\n\r\n"].concat(), &[200, 400]),
    ]
}

fn statuses(answers: &str) -> Vec<u16> {
    let told = answers.split("HTTP/1.1 ").skip(1);
    told.map(|answer| answer.get(..3).unwrap_or_default().parse().unwrap_or(0)).collect()
}

#[tokio::test]
async fn f1_f2_no_request_is_read_in_two_ways_and_engines_see_one_or_none() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "").await;
        let p = Parts::new();
        let all =
            [lengths(&p), codings(&p), chunk_sizes(&p), lines(&p), targets(&p), sizes(&p), pipelines(&p)];
        let cases: Vec<Case> = all.into_iter().flatten().collect();
        assert!(cases.len() >= 40);
        let (mut expected, mut wrong) = (0, Vec::new());
        for Case { name, bytes, answers } in cases {
            let mut raw = Raw::connect(farm.scheduler.api).await;
            raw.send(&bytes).await;
            let (text, closed) = raw.read_for(Duration::from_secs(3)).await;
            if !closed || statuses(&text) != answers {
                let open = if closed { "" } else { ", and stays open" };
                wrong.push(format!("{name}: {:?} instead of {answers:?}{open}", statuses(&text)));
            }
            expected += text.matches("\"completion_tokens\":1").count();
            assert_eq!(tap.heard().len(), expected, "{name}: another number of requests came to the engine");
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        only_what_was_asked(&tap, &p.body);
        farm.assert_accounted().await;
    })
    .await;
}

/// Whatever the client's framing was, the engine got the same request.
fn only_what_was_asked(tap: &Tap, body: &str) {
    let asked: Value = serde_json::from_str(body).unwrap();
    for heard in tap.heard() {
        let got: Value = serde_json::from_slice(&heard.body).unwrap();
        assert_eq!((&got["model"], &got["messages"]), (&asked["model"], &asked["messages"]));
        assert_eq!(heard.path, PATH);
    }
}

#[tokio::test]
async fn f1_requests_of_one_connection_are_answered_one_after_the_other() {
    let farm = Farm::of(aya!()).engine(aya_tests::sim("e1")).start().await;
    let p = Parts::new();
    let mut raw = Raw::connect(farm.scheduler.api).await;
    for _ in 0..3 {
        raw.send(&p.post(&format!("{HOST}{CHUNKED}"), &p.chunks)).await;
        let (answer, closed) = raw.read_for(Duration::from_millis(200)).await;
        assert!(!closed && statuses(&answer) == [200], "{answer}");
    }
    drop(raw);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn f7_nothing_that_a_client_says_about_itself_or_the_connection_reaches_an_engine() {
    const KEY: &str = "sk-canary-5f0c2e";
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "").await;
        let api = farm.api();
        let headers = [
            ("authorization", "Bearer sk-canary-5f0c2e"),
            ("x-api-key", KEY),
            ("cookie", "session=sk-canary-5f0c2e"),
            ("connection", "close, x-tenant, authorization, content-length"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("trailer", "x-t"),
            ("proxy-authorization", "Basic eDp5"),
            ("proxy-connection", "keep-alive"),
            ("x-tenant", "somebody"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-gateway-destination-endpoint", "169.254.169.254:80"),
            ("x-original-url", "/sleep"),
            ("x-http-method-override", "DELETE"),
            ("x-sim-fault", "500"),
            ("x-aya-priority", "critical"),
            ("x-request-id", "mine-1"),
        ];
        for body in [chat(1), streamed(2)] {
            let answer = api.post_with(PATH, &headers, &body).await.ok();
            assert_eq!(answer.header("x-request-id"), Some("mine-1"));
            for reflected in ["x-tenant", "x-forwarded-for", "set-cookie", "server", "keep-alive"] {
                assert!(answer.header(reflected).is_none(), "{reflected}");
            }
        }
        let heard = tap.heard();
        assert_eq!(heard.len(), 2);
        for request in heard {
            assert_eq!(
                (request.field("authorization"), request.field("x-request-id")),
                (None, Some("mine-1"))
            );
            let told = format!("{:?}", request.fields);
            assert!(!told.contains(KEY) && !told.contains("somebody"), "{told}");
        }
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn f7_a_clients_key_reaches_an_engine_only_if_that_is_configured() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "upstream.forward_authorization = true").await;
        let headers = [("authorization", "Bearer sk-canary-5f0c2e")];
        let _ = farm.api().post_with(PATH, &headers, &chat(1)).await.ok();
        assert_eq!(tap.heard()[0].field("authorization"), Some("Bearer sk-canary-5f0c2e"));
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn f8_no_line_end_of_a_client_begins_a_line_of_ours() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "").await;
        let p = Parts::new();
        for id in ["a b", "a;b", "a/b", "\u{e4}", "<script>", "%0d%0aX-Injected: 1", &"x".repeat(129), ""] {
            let fields = format!("{HOST}Connection: close\r\nx-request-id: {id}\r\n");
            let answer = raw_exchange(farm.scheduler.api, &p.with_length(&fields)).await;
            assert_eq!(statuses(&answer), [200], "{id:?}: {answer}");
            let given = answer.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap();
            assert!(given.len() == 36 && given != id, "{id:?} was kept or cut: {given:?}");
        }
        // Of two ids an engine sees one.
        let twice = format!("{HOST}Connection: close\r\nx-request-id: one\r\nx-request-id: two\r\n");
        let answer = raw_exchange(farm.scheduler.api, &p.with_length(&twice)).await;
        assert_eq!(statuses(&answer), [200], "{answer}");
        let fields = json!({"user": "a\r\nx-injected: 1", "metadata": {"a": "\r\n\r\nHTTP/1.1 200 OK"}});
        let answer = farm.api().chat(&with(chat(1), &fields)).await.ok();
        assert!(answer.headers.keys().all(|name| name != "x-injected"));
        let odd = json!({"model": "a\r\nx-injected: 1\r\n\r\n"});
        let answer = farm.api().chat(&with(chat(1), &odd)).await;
        assert!([400, 404].contains(&answer.status) && answer.header("x-injected").is_none());
        assert!(!answer.text().contains('\r'), "{}", answer.text());
        for heard in tap.heard() {
            let id = heard.field("x-request-id").unwrap();
            assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{id}");
        }
        farm.assert_accounted().await;
    })
    .await;
}
