#![cfg(test)]
//! More requests than room: the queue stays in the scheduler, in order, bounded, and says when to come back.

use std::time::Duration;

use aya_tests::{Answer, Farm, aya, chat, sim, streamed, until, with, within};
use futures_util::future::join_all;
use serde_json::{Value, json};

/// One endpoint with room for one request at a time, about 8 ms per token.
async fn narrow(toml: &str) -> Farm {
    Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow().max_sequences(1)).start().await
}

async fn queue_depth(farm: &Farm, expect: f64) {
    until("the queue's depth", async || {
        let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
        if (depth - expect).abs() < 0.5 { Ok(()) } else { Err(depth) }
    })
    .await;
}

/// A request that holds the only place until it is dropped.
async fn occupy(farm: &Farm) -> aya_tests::Live {
    let mut stream = farm.api().begin_chat(&streamed(10_000)).await;
    assert!(stream.event().await.is_some());
    stream
}

fn retry_after(answer: &Answer) -> u32 {
    answer.header("retry-after").expect("Retry-After").parse().unwrap()
}

#[tokio::test]
async fn the_queue_stays_in_the_scheduler_and_not_in_the_engine() {
    let farm = Farm::of(aya!()).engine(sim("e1").slow().max_sequences(4)).start().await;
    let load = join_all((0..24).map(|_| async { farm.api().chat(&chat(25)).await.ok() }));
    let watch = async {
        let mut most = 0;
        loop {
            let state = farm.engine("e1").state().await;
            // The engine's own queue holds a request for at most one step.
            assert!(state["in_flight"].as_u64() <= Some(4), "{state}");
            most = most.max(state["running"].as_u64().unwrap());
            let metrics = farm.scheduler.metrics().await;
            if metrics.with("aya_requests_total", "outcome=\"completed\"") > 23.5 {
                return most;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (answers, most) = tokio::join!(load, watch);
    assert_eq!(most, 4, "the engine was kept busy");
    let queued = answers.iter().filter(|a| a.header("x-aya-queue-ms") != Some("0")).count();
    assert!(queued >= 16, "{queued} waited");
    for answer in &answers {
        let record = farm.record_of(answer).await;
        let told: f64 = answer.header("x-aya-queue-ms").unwrap().parse().unwrap();
        assert!((record["queue_ms"].as_f64().unwrap() - told).abs() <= 1.0, "{record}");
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn those_who_wait_are_served_in_order_and_nobody_overtakes_them() {
    // One thread, so that the order of arrival is known.
    let farm = Farm::of(aya!())
        .scheduler("threads = 1")
        .engine(sim("e1").flag("--time-scale", "2").max_sequences(1))
        .start()
        .await;
    let occupied = occupy(&farm).await;
    let mut load = tokio::task::JoinSet::new();
    for at in 0..40_u64 {
        let api = farm.api();
        load.spawn(async move {
            // The first ones wait behind an occupied endpoint; later ones come while places change hands.
            tokio::time::sleep(Duration::from_millis(at * 5)).await;
            let id = format!("in-order-{at}");
            api.post_with("/v1/chat/completions", &[("x-request-id", &id)], &chat(1)).await.ok()
        });
    }
    until("some to wait", async || {
        let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
        if depth > 9.5 { Ok(()) } else { Err(depth) }
    })
    .await;
    drop(occupied);
    while let Some(answer) = load.join_next().await {
        let _ = answer.unwrap();
    }
    farm.assert_accounted().await;
    let mut records = farm.scheduler.decisions().await;
    // Decision ids are made at arrival and ascend.
    records.sort_by_key(|record| record["decision_id"].to_string());
    let arrived: Vec<_> = records.iter().map(|record| record["request_id"].clone()).collect();
    let state = farm.engine("e1").state().await;
    let served: Vec<_> = state["requests"].as_array().unwrap().iter().map(|r| r["id"].clone()).collect();
    assert_eq!(served, arrived);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let farm = narrow("[queue]\ncapacity = 2").await;
    let occupied = occupy(&farm).await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let api = farm.api();
        waiting.spawn(async move { api.chat(&chat(1)).await });
    }
    queue_depth(&farm, 2.0).await;
    for path in ["/api/v1/fleet", "/api/v1/queues"] {
        let queue = farm.admin().get(path).await.ok().json()["queues"][0].clone();
        assert_eq!(queue["waiting"], 2, "{path}: {queue}");
        assert!(queue["oldest_waited_ms"].is_u64(), "{path}: {queue}");
    }
    let refused = within(Duration::from_secs(1), "a refusal", farm.api().chat(&chat(1))).await;
    assert_eq!(refused.error(), "429 queue_full");
    assert!((1..=120).contains(&retry_after(&refused)));
    assert_eq!(farm.record_of(&refused).await["placement"]["result"], Value::Null);
    drop(occupied);
    while let Some(answer) = waiting.join_next().await {
        let _ = answer.unwrap().ok();
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn who_waited_long_enough_is_told_so_and_never_dispatched() {
    let farm = narrow("[queue]\nwait_max = \"300ms\"").await;
    let occupied = occupy(&farm).await;
    let answer = within(Duration::from_secs(3), "the wait", farm.api().chat(&chat(1))).await;
    assert_eq!(answer.error(), "503 queue_timeout");
    assert!((1..=120).contains(&retry_after(&answer)));
    let waited: u64 = answer.header("x-aya-queue-ms").unwrap().parse().unwrap();
    assert!((300..1500).contains(&waited), "{waited}");
    let record = farm.record_of(&answer).await;
    assert_eq!(record["placement"]["result"], "held_all_full");
    assert_eq!(
        record["candidates"][0]["rejection"],
        json!({"reason": "slots_full", "in_flight": 1, "limit": 1})
    );
    assert_eq!(farm.engine("e1").count("submitted").await, 1);
    drop(occupied);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_clients_deadline_ends_the_wait_but_not_the_answer() {
    let farm = narrow("").await;
    let path = "/v1/chat/completions";
    // 40 tokens take longer than 100 ms: the deadline is for dispatch.
    let within_deadline = farm.api().post_with(path, &[("x-aya-deadline-ms", "100")], &chat(40)).await;
    assert_eq!(within_deadline.status, 200);
    let occupied = occupy(&farm).await;
    for (deadline, expect) in
        [("150", "503 deadline_exceeded"), ("0", "400 -"), ("soon", "400 -"), ("-1", "400 -")]
    {
        let (api, headers, body) = (farm.api(), [("x-aya-deadline-ms", deadline)], chat(1));
        let answer =
            within(Duration::from_secs(2), "the deadline", api.post_with(path, &headers, &body)).await;
        assert_eq!(answer.error(), expect, "{deadline}");
        let said = answer.json()["error"]["message"].to_string();
        assert!(said.contains("x-aya-deadline-ms"), "{said}");
        assert_eq!(said.contains("deadline of 150 ms"), deadline == "150", "{said}");
    }
    assert_eq!(farm.engine("e1").count("submitted").await, 2);
    drop(occupied);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn who_never_came_to_the_head_of_the_queue_is_told_its_wait_too() {
    let farm = narrow("").await;
    let occupied = occupy(&farm).await;
    let api = farm.api();
    let mut head = tokio::task::JoinSet::new();
    head.spawn(async move { api.chat(&chat(1)).await });
    queue_depth(&farm, 1.0).await;
    let headers = [("x-aya-deadline-ms", "200")];
    let answer = farm.api().post_with("/v1/chat/completions", &headers, &chat(1)).await;
    assert_eq!(answer.error(), "503 deadline_exceeded");
    let told: u64 = answer.header("x-aya-queue-ms").unwrap().parse().unwrap();
    assert!((200..1500).contains(&told), "{told}");
    // And why it found no room, as those before it found none.
    let record = farm.record_of(&answer).await;
    assert_eq!(record["candidates"][0]["rejection"]["reason"], "slots_full", "{record}");
    assert_eq!(record["request"]["deadline_ms"], 200.0, "{record}");
    drop(occupied);
    let _ = head.join_next().await.unwrap().unwrap().ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_wait_and_a_first_token_are_counted_once_per_request() {
    let farm = narrow("").await;
    farm.engine("e1").fault(&json!({"503_next": 3})).await;
    for body in [chat(2), streamed(2)] {
        let _ = farm.api().chat(&body).await.ok();
    }
    let metrics = farm.scheduler.metrics().await;
    let counts = ["aya_queue_seconds_count", "aya_ttft_seconds_count"].map(|name| metrics.sum(name));
    assert!(counts.iter().all(|count| (count - 1.0).abs() < 0.5), "{counts:?}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn one_models_queue_does_not_hold_up_another_model() {
    let farm = Farm::of(aya!())
        .engine(sim("busy").slow().max_sequences(1))
        .engine(sim("free").flag("--model", "another"))
        .start()
        .await;
    let occupied = occupy(&farm).await;
    let api = farm.api();
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { api.chat(&chat(1)).await });
    queue_depth(&farm, 1.0).await;
    let other = with(chat(1), &json!({"model": "another"}));
    let answer = within(Duration::from_secs(1), "the other model", farm.api().chat(&other)).await.ok();
    assert_eq!(answer.header("x-aya-endpoint"), Some("free"));
    drop(occupied);
    let _ = waiting.join_next().await.unwrap().unwrap().ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_model_without_a_ready_endpoint_is_waited_for_and_served_when_it_comes() {
    let farm = Farm::of(aya!()).engine(sim("e1").flag("--fault", "unhealthy")).start_unready().await;
    until("the endpoint to be known", async || {
        let all = farm.scheduler.endpoints().await;
        if all.first().is_some_and(|e| e["health"] == "unhealthy") { Ok(()) } else { Err(all) }
    })
    .await;
    let api = farm.api();
    let mut waiting = tokio::task::JoinSet::new();
    waiting.spawn(async move { api.chat(&chat(1)).await });
    queue_depth(&farm, 1.0).await;
    farm.engine("e1").fault(&json!({"unhealthy": false})).await;
    let answer = waiting.join_next().await.unwrap().unwrap().ok();
    assert!(answer.header("x-aya-queue-ms").unwrap().parse::<u64>().unwrap() > 0);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_model_without_a_ready_endpoint_ends_in_503_after_the_configured_wait() {
    let farm = Farm::of(aya!())
        .scheduler("[queue]\nwait_max = \"200ms\"")
        .engine(sim("e1").flag("--fault", "unhealthy"))
        .start_unready()
        .await;
    until("the endpoint to be known", async || {
        let all = farm.scheduler.endpoints().await;
        if all.first().is_some_and(|e| e["health"] == "unhealthy") { Ok(()) } else { Err(all) }
    })
    .await;
    // Those who never head the queue are told the same.
    let all = join_all((0..3).map(|_| async { farm.api().chat(&chat(1)).await }));
    for answer in within(Duration::from_secs(3), "the wait", all).await {
        assert_eq!(answer.error(), "503 no_endpoint_ready");
        assert!((1..=120).contains(&retry_after(&answer)));
    }
    farm.assert_accounted().await;
}
