#![cfg(test)]
//! Engines, agents and the scheduler die, hang and lie under load: nothing that had not begun is lost.

use std::time::Duration;

use aya_tests::{Answer, Farm, FarmPlan, Live, PATIENCE, aya, chat, sim, streamed, tapped, until, within};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";

fn two() -> FarmPlan {
    Farm::of(aya!()).engine(sim("e1").slow()).engine(sim("e2").slow())
}

/// Waits until both engines have work.
async fn both_are_busy(farm: &Farm) {
    until("work on both engines", async || {
        let (a, b) = (farm.engine("e1").count("running").await, farm.engine("e2").count("running").await);
        if a > 2 && b > 2 { Ok(()) } else { Err((a, b)) }
    })
    .await;
}

/// A stream that was cut tells so and does not claim to be done.
fn is_cut(events: &[String]) -> bool {
    let last: Value = events.last().and_then(|e| serde_json::from_str(e).ok()).unwrap_or_default();
    last["error"]["code"] == "stream_truncated" && !events.iter().any(|event| event == "[DONE]")
}

fn is_complete(events: &[String]) -> bool {
    events.last().is_some_and(|event| event == "[DONE]") && !events.iter().any(|e| e.contains("\"error\":{"))
}

#[tokio::test]
async fn a2_killing_an_engine_loses_no_answer_of_a_client_that_does_not_stream() {
    let mut farm = two().start().await;
    let api = farm.api();
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..30 {
        load.spawn(async move { api.chat(&chat(30)).await });
    }
    both_are_busy(&farm).await;
    farm.engine_mut("e1").kill();
    while let Some(answer) = load.join_next().await {
        let answer = answer.unwrap().ok();
        assert_eq!(answer.json()["usage"]["completion_tokens"], 30);
        assert_eq!(answer.header("x-aya-endpoint"), Some("e2"));
    }
    let metrics = farm.scheduler.metrics().await;
    assert!(metrics.sum("aya_retries_total") > 2.5);
    assert!(metrics.with("aya_requests_total", "outcome=\"completed\"") > 29.5);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a3_killing_an_engine_cuts_only_the_streams_that_had_begun_on_it() {
    let mut farm = two().start().await;
    let api = farm.api();
    let mut begun: Vec<Live> = Vec::new();
    for _ in 0..10 {
        begun.push(api.begin_chat(&streamed(300)).await);
    }
    let on_victim = begun.iter().filter(|stream| stream.header("x-aya-endpoint") == Some("e1")).count();
    assert!(on_victim > 2, "{on_victim} streams began on the victim");
    // These have not had a byte yet when it dies.
    let mut later = tokio::task::JoinSet::new();
    for _ in 0..10 {
        later.spawn(async move { api.begin_chat(&streamed(20)).await.events().await });
    }
    farm.engine_mut("e1").kill();
    let mut cut = 0;
    for stream in begun {
        let victim = stream.header("x-aya-endpoint") == Some("e1");
        let events = stream.events().await;
        assert!(if victim { is_cut(&events) } else { is_complete(&events) }, "{victim} {events:?}");
        cut += usize::from(victim);
    }
    while let Some(events) = later.join_next().await {
        let events = events.unwrap();
        // A few may have had their first byte in the instant of its death.
        assert!(is_complete(&events) || is_cut(&events), "{events:?}");
        cut += usize::from(is_cut(&events));
    }
    let truncated = farm.scheduler.metrics().await.with("aya_requests_total", "outcome=\"truncated\"");
    assert_eq!(truncated.round().to_string(), cut.to_string());
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_killed_engine_serves_again_when_it_is_back() {
    let mut farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let _ = farm.api().chat(&chat(1)).await.ok();
    farm.engine_mut("e1").kill();
    let api = farm.api();
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { api.chat(&chat(1)).await });
    until("the agent to see it", async || {
        let endpoint = farm.scheduler.endpoint("e1").await;
        if endpoint["health"] == "unhealthy" { Ok(()) } else { Err(endpoint) }
    })
    .await;
    farm.engine_mut("e1").restart().await;
    let answer = waiting.join_next().await.unwrap().unwrap().ok();
    assert_eq!(answer.header("x-aya-endpoint"), Some("e1"), "one that came meanwhile waited for it");
    farm.assert_accounted().await;
}

async fn freshness(farm: &Farm, expect: &str) {
    until(&format!("freshness {expect}"), async || {
        let fleet = farm.scheduler.fleet().await;
        let seen = (fleet["nodes"][0]["freshness"].clone(), fleet["endpoints"][0]["freshness"].clone());
        if seen == (json!(expect), json!(expect)) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn without_its_agent_an_endpoint_is_doubted_but_still_served() {
    let toml = "[telemetry]\nsuspect_after = \"1500ms\"";
    let mut farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow()).start().await;
    let api = farm.api();
    let long = api.begin_chat(&streamed(200)).await;
    farm.agents[0].process.kill();
    for expect in ["stale", "suspect"] {
        freshness(&farm, expect).await;
        let answer = api.chat(&chat(2)).await.ok();
        assert_eq!(answer.header("x-aya-queue-ms"), Some("0"));
        let candidate = &farm.record_of(&answer).await["candidates"][0];
        assert_eq!((&candidate["freshness"], &candidate["verdict"]), (&json!(expect), &json!("scored")));
    }
    let node = farm.scheduler.fleet().await["nodes"][0].clone();
    assert_eq!((&node["connected"], &node["phase"]), (&json!(false), &json!("serving")));
    assert!(is_complete(&long.events().await), "the stream of before went on");
    farm.agents[0].restart();
    freshness(&farm, "fresh").await;
    let _ = api.chat(&chat(2)).await.ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_killed_scheduler_serves_again_within_five_seconds_of_its_return() {
    let mut farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let api = farm.api();
    let mut stream = api.begin_chat(&streamed(5_000)).await;
    assert!(stream.event().await.is_some());
    farm.scheduler.process.kill();
    drop(stream);
    until("the engine to stop what nobody hears", async || {
        let live = farm.engine("e1").count("in_flight").await;
        if live == 0 { Ok(()) } else { Err(live) }
    })
    .await;
    farm.scheduler.restart().await;
    let back = Instant::now();
    // It comes before the agent has called again, and is held until then.
    let answer = within(Duration::from_secs(5), "the first answer", api.chat(&chat(1))).await.ok();
    assert_eq!(answer.header("x-aya-endpoint"), Some("e1"));
    freshness(&farm, "fresh").await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    assert_eq!(farm.scheduler.endpoint("e1").await["foreign_running"], 0);
    farm.assert_accounted().await;
}

/// What a client of a farm with one broken engine and one good one sees.
async fn beside_a_good_one(faults: &Value, reasons: &[&str]) {
    let farm = Farm::of(aya!()).engine(sim("bad")).engine(sim("good")).start().await;
    farm.engine("bad").fault(faults).await;
    let mut failed = 0;
    for at in 0..4 {
        let body = if at % 2 == 0 { streamed(8) } else { chat(8) };
        let id = format!("request-{at}");
        let headers = [("x-request-id", &*id), ("x-aya-policy", "rr")];
        let answer = farm.api().post_with(PATH, &headers, &body).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("good"), "{faults}");
        let record = farm.record(&id).await;
        let attempts = record["attempts"].as_array().unwrap();
        assert_eq!(attempts.last().unwrap()["result"], "answered");
        for attempt in &attempts[..attempts.len() - 1] {
            assert_eq!((&attempt["endpoint"], &attempt["result"]), (&json!("bad"), &json!("failed")));
            let told = attempt["reason"].as_str().unwrap();
            assert!(reasons.contains(&told), "{faults}: {told:?}");
            failed += 1;
        }
    }
    assert!(failed > 0, "{faults}: the bad one was never tried");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_503_is_retried_elsewhere() {
    beside_a_good_one(&json!({"503_ratio": 1.0}), &["status 503"]).await;
}

#[tokio::test]
async fn an_error_event_before_the_first_token_is_retried_elsewhere() {
    // Clients that do not stream get a plain 503 from this engine.
    beside_a_good_one(&json!({"error_in_stream_ratio": 1.0}), &["error event: overloaded", "status 503"])
        .await;
}

#[tokio::test]
async fn a5_an_engine_that_does_not_begin_is_given_up_in_favour_of_another() {
    let toml = "[timeouts]\nttft = \"300ms\"\ntotal = \"2s\"\n[queue]\nwait_max = \"1s\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("bad")).engine(sim("good")).start().await;
    farm.engine("bad").fault(&json!({"stall": true})).await;
    for _ in 0..3 {
        let headers = [("x-aya-policy", "rr")];
        let answer = farm.api().post_with(PATH, &headers, &streamed(3)).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("good"));
    }
    let retries = farm.scheduler.metrics().await.sum("aya_retries_total");
    assert!(retries > 0.5, "the bad one was never tried");
    farm.assert_accounted().await;
}

/// A farm of one engine that is wrong all the time.
async fn alone(faults: &Value, timeouts: &str) -> Farm {
    let toml = format!("[retry]\nattempts_max = 1\n[timeouts]\n{timeouts}");
    let farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).start().await;
    farm.engine("e1").fault(faults).await;
    farm
}

async fn outcome(farm: &Farm, answer: &Answer, status: &str) {
    let record = farm.record_of(answer).await;
    assert_eq!(record["outcome"]["status"], status, "{record}");
    assert_eq!(record["attempts"][0]["result"], "failed", "{record}");
    farm.assert_accounted().await;
}

/// Whoever is pushed back is told at once.
const NO_WAIT: &str = "[queue]\nwait_max = \"0s\"";

#[tokio::test]
async fn a_request_that_is_pushed_back_waits_for_room_and_needs_no_attempts_for_it() {
    let farm = alone(&json!({"503_next": 2}), "").await;
    let answer = farm.api().chat(&chat(2)).await.ok();
    let record = farm.record_of(&answer).await;
    assert_eq!(record["attempts"].as_array().map(Vec::len), Some(3), "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_overloaded_farm_answers_503_with_a_time_to_come_back() {
    for body in [chat(5), streamed(5)] {
        let farm = alone(&json!({"503_ratio": 1.0}), NO_WAIT).await;
        let answer = farm.api().chat(&body).await;
        assert_eq!(answer.error(), "503 engine_overloaded");
        assert!((1..=120).contains(&answer.header("retry-after").unwrap().parse::<u32>().unwrap()));
        outcome(&farm, &answer, "upstream_error").await;
    }
}

#[tokio::test]
async fn an_error_event_instead_of_a_first_token_becomes_a_status() {
    let farm = alone(&json!({"error_in_stream_ratio": 1.0}), NO_WAIT).await;
    let answer = farm.api().chat(&streamed(5)).await;
    assert_eq!(answer.error(), "503 engine_overloaded");
    outcome(&farm, &answer, "upstream_error").await;
}

#[tokio::test]
async fn a3_a_stream_that_dies_after_some_tokens_ends_with_an_error_event() {
    let farm = alone(&json!({"die_mid_stream": 5}), "").await;
    let stream = farm.api().begin_chat(&streamed(50)).await;
    let id = stream.header("x-request-id").unwrap().to_owned();
    let events = stream.events().await;
    assert!(is_cut(&events), "{events:?}");
    // The role, five tokens, the error.
    assert_eq!(events.len(), 7, "{events:?}");
    let record = farm.record(&id).await;
    assert_eq!(record["outcome"]["status"], "truncated");
    assert_eq!(record["outcome"]["completion_tokens"], 5);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_an_error_and_not_half_an_answer() {
    let farm = alone(&json!({"die_mid_stream": 5}), "").await;
    let answer = farm.api().chat(&chat(50)).await;
    assert_eq!(answer.error(), "502 upstream_error");
    outcome(&farm, &answer, "upstream_error").await;
}

#[tokio::test]
async fn a5_an_engine_that_never_begins_ends_in_504() {
    for body in [chat(5), streamed(5)] {
        let farm = alone(
            &json!({"stall": true}),
            "ttft = \"200ms\"\ntotal = \"400ms\"\n[queue]\nwait_max = \"100ms\"",
        )
        .await;
        let answer = within(Duration::from_secs(3), "the answer", farm.api().chat(&body)).await;
        assert_eq!(answer.error(), "504 upstream_timeout");
        farm.engine("e1").fault(&json!({"stall": false})).await;
        outcome(&farm, &answer, "upstream_error").await;
    }
}

/// Two engines that take requests and never answer.
async fn silent(timeouts: &str) -> Farm {
    let toml = format!("[retry]\nattempts_max = 3\n[timeouts]\n{timeouts}\n[queue]\nwait_max = \"50ms\"");
    let farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1")).engine(sim("e2")).start().await;
    for engine in &farm.engines {
        engine.fault(&json!({"stall": true})).await;
    }
    farm
}

/// The attempts of a request that ends in this error, and the endpoints that are left alone because of it.
async fn given_up(farm: &Farm, deadline_ms: &str, body: &Value, error: &str) -> (usize, usize) {
    let headers = [("x-aya-deadline-ms", deadline_ms)];
    let api = farm.api();
    let sent = api.post_with("/v1/chat/completions", &headers, body);
    let answer = within(Duration::from_secs(3), "the answer", sent).await;
    assert_eq!(answer.error(), error);
    let cooling = farm.scheduler.endpoints().await.iter().filter(|e| !e["cooling_ms"].is_null()).count();
    let record = farm.record_of(&answer).await;
    let attempts = record["attempts"].as_array().unwrap().len();
    for engine in &farm.engines {
        engine.fault(&json!({"stall": false})).await;
    }
    farm.assert_accounted().await;
    (attempts, cooling)
}

#[tokio::test]
async fn a_request_whose_time_is_over_goes_nowhere_else_and_blames_no_endpoint() {
    for body in [chat(5), streamed(5)] {
        let farm = silent("ttft = \"300ms\"\ntotal = \"300ms\"").await;
        // The request has used some of its total time when it is sent, so that this ends before the wait for a token.
        assert_eq!(given_up(&farm, "60000", &body, "504 upstream_timeout").await, (1, 0), "{body}");
    }
}

#[tokio::test]
async fn after_the_clients_deadline_a_failed_request_goes_nowhere_else() {
    let farm = silent("ttft = \"300ms\"").await;
    // What ended it was the deadline, not the engine's silence before.
    assert_eq!(given_up(&farm, "100", &streamed(5), "503 deadline_exceeded").await, (1, 1));
}

#[tokio::test]
async fn an_engine_that_stops_in_the_middle_is_cut_off_after_the_silence_allowed() {
    let farm = alone(&json!({}), "inter_token = \"300ms\"").await;
    let mut stream = farm.api().begin_chat(&streamed(100_000)).await;
    let id = stream.header("x-request-id").unwrap().to_owned();
    for _ in 0..3 {
        assert!(stream.event().await.is_some());
    }
    farm.engine("e1").fault(&json!({"stall": true})).await;
    let stalled = Instant::now();
    let events = within(PATIENCE, "the cut", stream.events()).await;
    assert!(is_cut(&events), "{:?}", events.last());
    let took = stalled.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_millis(1200)).contains(&took), "{took:?}");
    assert_eq!(farm.record(&id).await["outcome"]["status"], "truncated");
    farm.engine("e1").fault(&json!({"stall": false})).await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_engine_that_does_not_hang_up_after_its_answer_keeps_nobody_waiting() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    tapped(async {
        let (farm, tap) =
            Farm::behind_a_tap(aya!(), "timeouts.inter_token = \"1h\"\ntimeouts.total = \"2h\"").await;
        tap.answer_and_stay(ANSWER);
        let answer = within(PATIENCE, "the end", farm.api().chat(&streamed(3))).await;
        assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
        assert_eq!(farm.record_of(&answer).await["outcome"]["status"], "completed");
        farm.assert_accounted().await;
    })
    .await;
}

/// Found by the storm below: two endpoints had failed it, the third was down, and it waited for the third.
#[tokio::test]
async fn a_request_that_failed_everywhere_does_not_hold_up_the_queue() {
    let mut farm = Farm::of(aya!()).engine(sim("e1")).engine(sim("e2")).engine(sim("down")).start().await;
    farm.engine_mut("down").kill();
    until("the agent to see it", async || {
        let endpoint = farm.scheduler.endpoint("down").await;
        if endpoint["health"] == "unhealthy" { Ok(()) } else { Err(endpoint) }
    })
    .await;
    farm.engine("e1").fault(&json!({"503_next": 1})).await;
    farm.engine("e2").fault(&json!({"503_next": 1})).await;
    let answers = join_all((0..6).map(|_| async { farm.api().chat(&chat(2)).await.ok() }));
    let _ = within(Duration::from_secs(5), "six requests", answers).await;
    farm.assert_accounted().await;
}

/// What an engine must not send, and what the client of a stream and of a whole answer gets: `whole` is complete.
const MISBEHAVIOUR: [(&str, &str, &str); 12] = [
    ("200 with HTML", "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>", "502"),
    ("204", "HTTP/1.1 204 No Content\r\n\r\n", "502"),
    (
        "a redirect",
        "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n",
        "502",
    ),
    ("nothing", "", "502"),
    ("no HTTP", "hello\r\n\r\n", "502"),
    ("an end within the head", "HTTP/1.1 200 OK\r\ncontent-ty", "502"),
    ("two lengths", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}", "502"),
    (
        "an empty stream",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n",
        "502",
    ),
    (
        "only DONE",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: [DONE]\n\n",
        "502",
    ),
    (
        "an end without a finish",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n",
        "cut",
    ),
    (
        "DONE without a finish",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\ndata: [DONE]\n\n",
        "cut",
    ),
    (
        "a finish without DONE",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\n",
        "whole",
    ),
];

#[tokio::test]
async fn a6_success_is_a_finish_reason_and_nothing_else_that_an_engine_says() {
    tapped(async {
        for (name, bytes, expect) in MISBEHAVIOUR {
            // A farm for each: a failed endpoint is left alone for a while.
            let (farm, tap) = Farm::behind_a_tap(aya!(), "[retry]\nattempts_max = 1").await;
            tap.answer_with(bytes);
            let answer = farm.api().chat(&streamed(3)).await;
            let events: Vec<String> = answer
                .text()
                .split_terminator("\n\n")
                .map(|event| event.trim_start_matches("data: ").to_owned())
                .collect();
            let (right, status) = match expect {
                "cut" => (answer.status == 200 && is_cut(&events), "truncated"),
                "whole" => (answer.status == 200 && events.len() == 1, "completed"),
                _ => (answer.error() == "502 upstream_error", "upstream_error"),
            };
            assert!(right, "{name}: {} {}", answer.status, answer.text());
            assert_eq!(farm.record_of(&answer).await["outcome"]["status"], status, "{name}");
            farm.assert_accounted().await;
        }
    })
    .await;
}

/// Found by the storm below: an engine that dies of a request looks like one that closed an idle connection.
#[tokio::test]
async fn a_request_that_is_sent_again_on_a_new_connection_has_both_in_its_record() {
    tapped(async {
        let (farm, tap) = Farm::behind_a_tap(aya!(), "threads = 1\nretry.attempts_max = 1").await;
        let _ = farm.api().chat(&chat(1)).await.ok();
        tap.answer_with("");
        let answer = farm.api().chat(&chat(1)).await;
        assert_eq!(answer.error(), "502 upstream_error");
        let record = farm.record_of(&answer).await;
        let reasons: Vec<_> = record["attempts"].as_array().unwrap().iter().map(|a| &a["reason"]).collect();
        assert_eq!(reasons, ["stale_socket", "closed_before_head"]);
        assert_eq!(tap.requests().concat().matches("POST /v1/").count(), 3);
        farm.assert_accounted().await;
    })
    .await;
}

#[tokio::test]
async fn every_request_of_a_storm_of_faults_is_accounted_for() {
    let mut farm = Farm::of(aya!())
        .engine(sim("e1").flag("--fault", "503=0.3"))
        .engine(sim("e2").flag("--fault", "error-in-stream=0.2"))
        .engine(sim("e3").flag("--time-scale", "2"))
        .start()
        .await;
    farm.engine("e2").fault(&json!({"die_mid_stream": 6, "die_next": 10})).await;
    let api = farm.api();
    let mut load = tokio::task::JoinSet::new();
    for at in 0..120_u64 {
        load.spawn(async move {
            tokio::time::sleep(Duration::from_millis(at * 4)).await;
            let body = if at % 3 == 0 { chat(12) } else { streamed(12) };
            let live = api.begin_chat(&body).await;
            if at % 10 == 9 {
                return None; // Leaves at once.
            }
            Some(live.whole().await)
        });
    }
    tokio::time::sleep(Duration::from_millis(250)).await;
    farm.engine_mut("e3").kill();
    while let Some(ended) = load.join_next().await {
        if let Some(answer) = ended.unwrap() {
            let whole = answer.status != 200
                || !answer.text().contains("\"error\":{")
                || !answer.text().contains("[DONE]");
            assert!([200, 502, 503].contains(&answer.status) && whole, "{} {}", answer.status, answer.text());
        }
    }
    farm.engine_mut("e3").restart().await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn many_clients_leave_no_trace_on_the_ledger() {
    let farm = two().start().await;
    let before = farm.scheduler.process.open_files();
    let leaving = (0..20_u64).map(|at| {
        let api = farm.api();
        async move {
            let stream = api.begin_chat(&streamed(2_000)).await;
            tokio::time::sleep(Duration::from_millis(at)).await;
            drop(stream);
        }
    });
    join_all(leaving).await;
    for endpoint in farm.scheduler.endpoints().await {
        assert!(endpoint["in_flight"].is_u64(), "{endpoint}");
    }
    farm.assert_accounted().await;
    let after = farm.scheduler.process.open_files();
    assert!(after <= before + 2, "{before} files were open, then {after}");
    let aborted = farm.engine("e1").count("aborted").await + farm.engine("e2").count("aborted").await;
    assert_eq!(aborted, 20);
}
