#![cfg(test)]
//! A client that leaves: the engine stops at once, whatever phase the request was in.

use std::time::Duration;

use aya_tests::{CANARY, Farm, aya, chat, sim, streamed, until, with};
use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

/// From the disconnect until the engine has stopped.
const PROMPTLY: Duration = Duration::from_millis(200);

const PATH: &str = "/v1/chat/completions";

async fn aborted_promptly(farm: &Farm, id: &str, left_at: Instant) {
    farm.in_state(id, "aborted").await;
    let took = left_at.elapsed();
    assert!(took < PROMPTLY, "the engine was told after {took:?}");
    let record = farm.record(id).await;
    assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
    assert_eq!(record["attempts"][0]["result"], "cancelled", "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a1_leaving_in_the_middle_of_a_stream_stops_the_engine() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let mut stream = farm.send("mid-stream", streamed(5_000)).join_next().await.unwrap().unwrap();
    for _ in 0..4 {
        assert!(stream.event().await.is_some());
    }
    farm.in_state("mid-stream", "live").await;
    let left_at = Instant::now();
    drop(stream);
    aborted_promptly(&farm, "mid-stream", left_at).await;
    let record = farm.record("mid-stream").await;
    assert!(record["outcome"]["completion_tokens"].as_u64() >= Some(2), "{record}");
}

#[tokio::test]
async fn a1_leaving_before_the_first_byte_of_a_stream_stops_the_engine() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow().flag("--fault", "stall")).start().await;
    let request = farm.send("first-byte", streamed(50));
    farm.in_state("first-byte", "live").await;
    let left_at = Instant::now();
    drop(request);
    aborted_promptly(&farm, "first-byte", left_at).await;
}

#[tokio::test]
async fn a1_leaving_while_a_whole_answer_is_made_stops_the_engine() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let request = farm.send("whole", chat(5_000));
    farm.in_state("whole", "live").await;
    let left_at = Instant::now();
    drop(request);
    aborted_promptly(&farm, "whole", left_at).await;
}

#[tokio::test]
async fn a1_who_leaves_the_queue_is_never_dispatched() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow().max_sequences(1)).start().await;
    let mut first = farm.send("occupies", streamed(5_000)).join_next().await.unwrap().unwrap();
    assert!(first.event().await.is_some());
    let depth = async |expect: f64| {
        until("the queue's depth", async || {
            let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
            if (depth - expect).abs() < 0.5 { Ok(()) } else { Err(depth) }
        })
        .await;
    };
    for body in [streamed(1), chat(1)] {
        let id = if body["stream"] == true { "queued-stream" } else { "queued-whole" };
        let request = farm.send(id, body);
        depth(1.0).await;
        let left_at = Instant::now();
        drop(request);
        depth(0.0).await;
        assert!(left_at.elapsed() < PROMPTLY, "the place was kept for {:?}", left_at.elapsed());
        let record = farm.record(id).await;
        assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
        assert_eq!(record["attempts"], json!([]), "{record}");
        let held = record.pointer("/candidates/0/rejection/reason");
        assert!(held.is_some_and(|reason| reason == "slots_full"), "why it waited is kept: {record}");
    }
    drop(first);
    let _ = farm.api().chat(&chat(1)).await.ok();
    assert_eq!(farm.engine("e1").request_state("queued-stream").await, None);
    assert_eq!(farm.engine("e1").request_state("queued-whole").await, None);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_got_everything_and_hangs_up_has_completed() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let mut stream = farm.send("complete", streamed(3)).join_next().await.unwrap().unwrap();
    while stream.event().await.unwrap() != "[DONE]" {}
    drop(stream);
    assert_eq!(farm.record("complete").await["outcome"]["status"], "completed");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_is_accounted_for() {
    let farm = Farm::of(aya!()).engine(sim("e1")).start().await;
    let mut raw = aya_tests::Raw::connect(farm.scheduler.api).await;
    let head =
        format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nx-request-id: half\r\nContent-Length: 1000\r\n\r\n");
    raw.send(format!("{head}{{\"model\": \"{CANARY}").as_bytes()).await;
    until("the request to be accepted", async || {
        let open = farm.scheduler.metrics().await.sum("aya_requests_in_flight");
        if open > 0.5 { Ok(()) } else { Err(open) }
    })
    .await;
    drop(raw);
    let record = farm.record("half").await;
    let status = record["outcome"]["status"].as_str().unwrap().to_owned();
    assert!(["client_cancelled", "client_error"].contains(&&*status), "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn leaving_one_stream_leaves_the_others_alone() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow()).start().await;
    let body = with(streamed(40), &json!({"seed": 3}));
    let mut staying = Vec::new();
    let mut leaving = Vec::new();
    for _ in 0..8 {
        staying.push(farm.api().begin_chat(&body).await);
        leaving.push(farm.api().open("POST", PATH, &[], Bytes::from(body.to_string())).await);
    }
    drop(leaving);
    for stream in staying {
        let events = stream.events().await;
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        // The role, 40 tokens, the end.
        assert_eq!(events.len(), 42);
    }
    farm.assert_accounted().await;
}
