#![cfg(test)]
//! A2, A4, A6, A9, A10 and I3: what becomes of one request while its engine dies, stalls, lies or asks for a pause.

use std::time::Duration;

use aya_tests::{Farm, PATIENCE, aya, chat, sim, streamed, tapped, until, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";

/// What of the default time to connect is left for everything else.
const CONNECT: Duration = Duration::from_millis(2_050);

#[tokio::test]
async fn a2_an_engine_killed_before_its_answer_costs_one_retry_and_no_error() {
    for (body, id) in [(chat(3), "whole"), (streamed(3), "stream")] {
        let mut farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).start().await;
        for engine in &farm.engines {
            engine.fault(&json!({"stall": true})).await;
        }
        let (api, headers) = (farm.api(), [("x-request-id", id)]);
        let mut asking = Box::pin(api.post_with(PATH, &headers, &body));
        let victim = async {
            until("an engine to have it", async || {
                for engine in &farm.engines {
                    if engine.request_state(id).await.is_some() {
                        return Ok(engine.name.clone());
                    }
                }
                Err("nobody")
            })
            .await
        };
        let victim = tokio::select! {
            answer = &mut asking => panic!("answered by a stalled engine: {answer:?}"),
            victim = victim => victim,
        };
        for engine in farm.engines.iter().filter(|engine| engine.name != victim) {
            engine.fault(&json!({"stall": false})).await;
        }
        let killed = Instant::now();
        farm.engine_mut(&victim).kill();
        let answer = within(PATIENCE, "the answer", asking).await.ok();
        assert!(killed.elapsed() < CONNECT, "{:?}", killed.elapsed());
        let record = farm.record_of(&answer).await;
        let attempts = record["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{record}");
        assert_eq!((&attempts[0]["endpoint"], &attempts[0]["result"]), (&json!(victim), &json!("failed")));
        assert_eq!(
            (&attempts[1]["result"], &record["outcome"]["status"]),
            (&json!("answered"), &json!("completed"))
        );
        farm.assert_accounted().await;
    }
}

#[tokio::test]
async fn a4_silence_in_the_middle_of_a_stream_is_cut_at_the_deadline_give_or_take_a_tenth() {
    const SILENCE: Duration = Duration::from_secs(2);
    let toml = "timeouts.inter_token = \"2s\"\nbreaker.enabled = false\nretry.attempts_max = 1";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    let mut stream = farm.api().begin_chat(&streamed(100_000)).await;
    let id = stream.header("x-request-id").unwrap().to_owned();
    for _ in 0..3 {
        assert!(stream.event().await.is_some());
    }
    farm.engine("e1").fault(&json!({"stall": true})).await;
    let (mut last, mut before, mut told) = (Instant::now(), Instant::now(), String::new());
    while let Some(event) = stream.event().await {
        assert_ne!(event, "[DONE]");
        (before, last, told) = (last, Instant::now(), event);
    }
    let silence = last.duration_since(before);
    assert!((SILENCE * 9 / 10..=SILENCE * 11 / 10).contains(&silence), "{silence:?}");
    assert!(told.contains("stream_truncated"), "{told}");
    assert_eq!(farm.record(&id).await["outcome"]["status"], "truncated");
    farm.engine("e1").fault(&json!({"stall": false})).await;
    farm.assert_accounted().await;
}

/// Comments that keep a connection alive are no tokens: neither for a client of the stream nor for one of the whole answer.
#[tokio::test]
async fn a4_an_engine_that_only_keeps_its_connection_alive_is_silent() {
    let toml = "timeouts.inter_token = \"2s\"\nbreaker.enabled = false\nretry.attempts_max = 1";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1")).start().await;
    farm.engine("e1").fault(&json!({"keep_alive_ms": 200})).await;
    let mut stream = farm.api().begin_chat(&streamed(100_000)).await;
    for _ in 0..3 {
        assert!(stream.event().await.is_some());
    }
    farm.engine("e1").fault(&json!({"stall": true})).await;
    let (stalled, mut told) = (Instant::now(), String::new());
    while let Some(event) = stream.event().await {
        told = event;
    }
    let silence = stalled.elapsed();
    assert!(silence > Duration::from_millis(1_500) && silence < Duration::from_secs(4), "{silence:?}");
    assert!(told.contains("the engine stopped sending tokens"), "{told}");
    farm.engine("e1").fault(&json!({"stall": false})).await;
    farm.assert_accounted().await;
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const TOKEN: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// What a client of a stream gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gets {
    /// All of the engine's stream, as it is.
    Whole,
    /// 200, some of it, an error event and no `[DONE]`.
    Cut,
    /// 502.
    Nothing,
}

/// A name, the head, the body, and what the client gets.
type Oddity = (&'static str, String, String, Gets);

fn oddities() -> Vec<Oddity> {
    let mut all = odd_heads();
    all.extend(odd_bodies());
    all
}

fn head(fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n")
}

fn odd_heads() -> Vec<Oddity> {
    use Gets::{Nothing, Whole};
    let close = "content-type: text/event-stream\r\nconnection: close\r\n";
    let with = |fields: &str| head(&format!("{close}{fields}"));
    let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: y\r\n\r\n";
    let heads = [
        ("interim answers", format!("{interim}{STREAM}"), Whole),
        ("fields nobody asked for", with("set-cookie: a=b\r\nx-aya-endpoint: evil\r\n"), Whole),
        ("a line end in a field", with("x: a\nset-cookie: a=b\r\n"), Whole),
        (
            "a switch of protocols",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n".to_owned(),
            Nothing,
        ),
        ("endless interim answers", "HTTP/1.1 100 Continue\r\n\r\n".repeat(100), Nothing),
        ("an endless head", head(&"x: y\r\n".repeat(30_000)), Nothing),
        ("200 fields", with(&"x: y\r\n".repeat(200)), Nothing),
        (
            "another content type",
            head("content-type: application/octet-stream\r\nconnection: close\r\n"),
            Nothing,
        ),
        ("two content types", with("content-type: text/html\r\n"), Nothing),
        ("a compressed stream", with("content-encoding: gzip\r\n"), Nothing),
        ("a length and chunks", with("transfer-encoding: chunked\r\ncontent-length: 5\r\n"), Nothing),
    ];
    heads.map(|(name, head, gets)| (name, head, [TOKEN, FINISH, DONE].concat(), gets)).into()
}

fn odd_bodies() -> Vec<Oddity> {
    use Gets::{Cut, Nothing, Whole};
    let good = [TOKEN, FINISH, DONE].concat();
    let chunked = head("content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n");
    let plain = |name, body: String, gets| (name, STREAM.to_owned(), body, gets);
    vec![
        plain("a decent stream", good.clone(), Whole),
        plain("two [DONE]", format!("{good}{DONE}"), Whole),
        plain("an event behind [DONE]", format!("{good}{TOKEN}"), Whole),
        plain("CRLF", good.replace('\n', "\r\n"), Whole),
        plain("CR", good.replace('\n', "\r"), Whole),
        plain("mixed line ends", format!("{}{FINISH}{DONE}", TOKEN.replace('\n', "\r\n")), Whole),
        plain("a byte order mark and comments", format!("\u{feff}: hello\n\n{good}: bye\n\n"), Whole),
        plain("an endless line", format!("data: {}", "x".repeat(64 << 20)), Nothing),
        plain("an endless line behind a token", format!("{TOKEN}data: {}", "x".repeat(2 << 20)), Cut),
        plain(
            "an error behind a token",
            format!("{TOKEN}data: {{\"error\":{{\"message\":\"x\"}}}}\n\n{DONE}"),
            Cut,
        ),
        plain("an aborted finish", format!("{TOKEN}{}{DONE}", FINISH.replace("stop", "abort")), Cut),
        ("a bad chunk", chunked.clone(), format!("zz\r\n{good}"), Nothing),
        ("an empty chunked body", chunked.clone(), "0\r\n\r\n".to_owned(), Nothing),
        ("a chunk that breaks off", chunked, format!("{:x}\r\n{TOKEN}", TOKEN.len() + 9), Cut),
    ]
}

#[tokio::test]
async fn a6_whatever_an_engine_sends_a_client_gets_a_whole_answer_a_marked_cut_or_502() {
    const MEMORY_MORE_MAX: u64 = 16 * 1024 * 1024;
    tapped(async {
        let mut wrong = Vec::new();
        for (name, head, body, gets) in oddities() {
            // A farm for each: a failed endpoint is left alone for a while.
            let (farm, tap) = Farm::behind_a_tap(aya!(), "[retry]\nattempts_max = 1").await;
            tap.answer_with(&format!("{head}{body}"));
            let before = farm.scheduler.process.peak_memory_bytes();
            let answer = farm.api().chat(&streamed(3)).await;
            let text = answer.text();
            let ends_in_error = text.contains("\"error\":{") && !text.contains("[DONE]");
            let (right, outcome) = match gets {
                Gets::Whole => (answer.status == 200 && text == body, "completed"),
                Gets::Cut => (answer.status == 200 && text.starts_with(TOKEN) && ends_in_error, "truncated"),
                Gets::Nothing => {
                    (answer.status == 502 && answer.error() == "502 upstream_error", "upstream_error")
                }
            };
            let shown: String = text.chars().take(300).collect();
            let record = farm.record_of(&answer).await;
            let grown = farm.scheduler.process.peak_memory_bytes() - before;
            if !right || record["outcome"]["status"] != outcome || grown > MEMORY_MORE_MAX {
                wrong.push(format!("{name}: {} {grown} bytes of memory, {shown:?}", answer.status));
            }
            assert!(answer.header("set-cookie").is_none(), "{name}: a field of the engine's came through");
            assert_ne!(answer.header("x-aya-endpoint"), Some("evil"), "{name}");
            farm.assert_accounted().await;
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    })
    .await;
}

#[tokio::test]
async fn a6_a_redirect_is_never_followed() {
    tapped(async {
        let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (farm, tap) = Farm::behind_a_tap(aya!(), "[retry]\nattempts_max = 1").await;
        for status in
            ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"]
        {
            let to = elsewhere.local_addr().unwrap();
            tap.answer_with(&format!(
                "HTTP/1.1 {status}\r\nlocation: http://{to}/latest\r\ncontent-length: 0\r\n\r\n"
            ));
            let answer = farm.api().chat(&chat(1)).await;
            assert!(
                [502, 503].contains(&answer.status) && answer.header("location").is_none(),
                "{}",
                answer.text()
            );
        }
        let followed = tokio::time::timeout(Duration::from_millis(100), elsewhere.accept()).await;
        assert!(followed.is_err(), "it was followed");
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn a9_an_engine_that_asks_for_seven_seconds_gets_them_and_the_client_is_told() {
    tapped(async {
        for (status, asked, told, pause_ms) in
            [("503 Service Unavailable", "7", "7", 7_000), ("429 Too Many Requests", "500", "120", 30_000)]
        {
            let (farm, tap) = Farm::behind_a_tap(aya!(), "[queue]\nwait_max = \"0s\"").await;
            tap.answer_with(&format!(
                "HTTP/1.1 {status}\r\nretry-after: {asked}\r\ncontent-length: 2\r\n\r\n{{}}"
            ));
            let answer = farm.api().chat(&chat(1)).await;
            assert_eq!(answer.error(), "503 engine_overloaded");
            assert_eq!(answer.header("retry-after"), Some(told));
            let cooling = farm.scheduler.endpoint("e1").await["cooling_ms"].as_u64().unwrap();
            assert!((pause_ms - 2_000..=pause_ms).contains(&cooling), "{cooling} ms of {pause_ms}");
            for _ in 0..3 {
                let answer = farm.api().chat(&chat(1)).await;
                let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                assert!(answer.status == 503 && (1..=120).contains(&after), "{}", answer.text());
            }
            assert_eq!(tap.requests().len(), 1, "it was asked again within its pause");
            farm.assert_accounted().await;
        }
    })
    .await;
}

/// README: an id is a name and no key; whoever sends it twice gets two answers.
#[tokio::test]
async fn a10_a_request_sent_again_with_its_id_is_a_second_request() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let (api, headers) = (farm.api(), [("x-request-id", "same"), ("idempotency-key", "same")]);
    let body = chat(20);
    let both = join_all((0..2).map(|_| api.post_with(PATH, &headers, &body))).await;
    let mut decisions = Vec::new();
    for answer in both {
        let answer = answer.ok();
        assert_eq!(answer.header("x-request-id"), Some("same"));
        decisions.push(answer.header("x-aya-decision-id").unwrap().to_owned());
    }
    assert_ne!(decisions[0], decisions[1], "each has a decision of its own");
    for id in &decisions {
        let record = farm.record(id).await;
        assert_eq!(
            (&record["request_id"], &record["outcome"]["status"]),
            (&json!("same"), &json!("completed"))
        );
    }
    assert_eq!(farm.engine("e1").count("finished").await, 2, "a documented duplicate: both were generated");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn i3_what_is_in_flight_is_what_the_engine_itself_counts() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let mut open = Vec::new();
    for expect in [3, 7, 2, 0_u64] {
        open.truncate(usize::try_from(expect).unwrap());
        while open.len() < usize::try_from(expect).unwrap() {
            open.push(farm.api().begin_chat(&streamed(5_000)).await);
        }
        until("both to count the same", async || {
            let ledger = farm.scheduler.endpoint("e1").await["in_flight"].clone();
            let metric = farm.scheduler.metrics().await.sum("aya_endpoint_inflight");
            let own: Value = farm.engine("e1").count("in_flight").await.into();
            let seen = (ledger, metric.round().to_string(), own);
            let same = seen.0 == json!(expect) && seen.1 == expect.to_string() && seen.2 == json!(expect);
            if same { Ok(()) } else { Err(seen) }
        })
        .await;
    }
    farm.assert_accounted().await;
}
