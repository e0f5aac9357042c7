#![cfg(test)]
//! Engines that fail fast, hold requests for ever, push back or lie: what their requests tell decides.

use std::time::Duration;

use aya_tests::{Farm, aya, chat, sim, streamed, until, within};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";

fn four(toml: &str) -> aya_tests::FarmPlan {
    let farm = Farm::of(aya!()).scheduler(toml);
    ["a", "b", "c", "d"].into_iter().fold(farm, |farm, name| farm.engine(sim(name)))
}

fn rules(endpoint: &Value) -> Vec<String> {
    let all = endpoint["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().map(|c| c["rule"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn is_under(farm: &Farm, id: &str, rule: &str) {
    until("a condition", async || {
        let endpoint = farm.scheduler.endpoint(id).await;
        if rules(&endpoint).iter().any(|r| r == rule) { Ok(()) } else { Err(endpoint) }
    })
    .await;
}

async fn is_free(farm: &Farm, id: &str) {
    until("no condition", async || {
        let endpoint = farm.scheduler.endpoint(id).await;
        let held = ["ejected", "wedged", "half_open"];
        if rules(&endpoint).iter().any(|r| held.contains(&r.as_str())) { Err(endpoint) } else { Ok(()) }
    })
    .await;
}

async fn placements(farm: &Farm, id: &str) -> f64 {
    farm.scheduler.metrics().await.with("aya_endpoint_placements_total", &format!("endpoint=\"{id}\""))
}

/// So many streams at once, again and again; every one must be answered.
async fn load(farm: &Farm, clients: usize, rounds: usize, policy: &'static str) {
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let api = farm.api();
        all.spawn(async move {
            for _ in 0..rounds {
                let answer = api.post_with(PATH, &[("x-aya-policy", policy)], &streamed(3)).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn c1_a_black_hole_gets_five_requests_at_most_and_clients_see_nothing() {
    for policy in ["aya", "lc", "rr"] {
        let farm = four("").start().await;
        load(&farm, 2, 4, policy).await;
        let before = placements(&farm, "c").await;
        farm.engine("c").fault(&json!({"500_ratio": 1.0})).await;
        let mut sent = 0;
        // As long as it takes until it is out: its pauses let it be tried now and then.
        within(Duration::from_secs(20), "the ejection", async {
            while !rules(&farm.scheduler.endpoint("c").await).contains(&"ejected".to_owned()) {
                load(&farm, 4, 4, policy).await;
                sent += 16;
            }
        })
        .await;
        load(&farm, 4, 50, policy).await;
        let got = placements(&farm, "c").await - before;
        assert!((3.0..=5.0).contains(&got), "{policy}: {got} of {sent} until it was ejected");
        farm.assert_accounted().await;
    }
}

#[tokio::test]
async fn an_ejected_endpoint_comes_back_through_a_probe_and_slowly() {
    let toml = "[breaker]\nejection = \"300ms\"\nslow_start = \"2s\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("a")).engine(sim("b")).start().await;
    farm.engine("b").fault(&json!({"500_ratio": 1.0})).await;
    within(Duration::from_secs(20), "the ejection", async {
        while farm.scheduler.metrics().await.with("aya_breaker_events_total", "event=\"ejected\"") < 0.5 {
            load(&farm, 2, 4, "rr").await;
        }
    })
    .await;
    let finished = farm.engine("b").count("finished").await;
    farm.engine("b").fault(&json!({"500_ratio": 0.0})).await;
    // It generates before any client's request comes: nobody but the probe asks it.
    until("a generation", async || {
        let now = farm.engine("b").count("finished").await;
        if now > finished { Ok(()) } else { Err(now) }
    })
    .await;
    is_free(&farm, "b").await;
    let metrics = farm.scheduler.metrics().await;
    assert!(metrics.with("aya_probes_total", "result=\"ok\"") > 0.5, "no probe");
    let endpoint = farm.scheduler.endpoint("b").await;
    assert!(rules(&endpoint).contains(&"slow_start".to_owned()), "{endpoint}");
    assert!(endpoint["speed_ratio"].as_f64().is_some_and(|speed| speed < 1.0), "{endpoint}");
    until("its full share", async || {
        let endpoint = farm.scheduler.endpoint("b").await;
        if rules(&endpoint).is_empty() { Ok(()) } else { Err(endpoint) }
    })
    .await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_wedged_engine_is_out_within_five_seconds_and_back_with_its_first_token() {
    let farm = Farm::of(aya!()).engine(sim("a")).engine(sim("b")).start().await;
    load(&farm, 4, 4, "rr").await;
    farm.engine("b").fault(&json!({"stall": true})).await;
    let stuck = Instant::now();
    // Its health endpoint goes on saying 200, and requests go on coming.
    let mut held = JoinSet::new();
    for _ in 0..4 {
        let api = farm.api();
        held.spawn(async move { api.post_with(PATH, &[("x-aya-policy", "rr")], &streamed(3)).await });
    }
    is_under(&farm, "b", "wedged").await;
    let took = stuck.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(farm.scheduler.endpoint("b").await["health"], "healthy");
    let before = placements(&farm, "b").await;
    let answer = farm.api().post_with(PATH, &[("x-aya-policy", "rr")], &streamed(3)).await.ok();
    load(&farm, 4, 4, "rr").await;
    assert!(placements(&farm, "b").await - before < 0.5, "it still got requests");
    let record = farm.record_of(&answer).await;
    assert!(record["candidates"].to_string().contains("\"reason\":\"wedged\""), "{record}");
    farm.engine("b").fault(&json!({"stall": false})).await;
    is_free(&farm, "b").await;
    while let Some(answer) = held.join_next().await {
        let _ = answer.unwrap().ok();
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_wedged_engine_without_requests_comes_back_through_a_probe() {
    let toml = "[timeouts]\nttft = \"3500ms\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("a")).engine(sim("b")).start().await;
    load(&farm, 4, 4, "rr").await;
    farm.engine("b").fault(&json!({"stall": true})).await;
    load(&farm, 2, 2, "rr").await;
    let events = farm.scheduler.metrics().await.with("aya_breaker_events_total", "event=\"wedged\"");
    assert!(events > 0.5, "not wedged");
    farm.engine("b").fault(&json!({"stall": false})).await;
    is_free(&farm, "b").await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_push_back_is_no_failure() {
    // While the other pauses, this one answers: slowly, or there are more records than one page holds.
    let farm = Farm::of(aya!()).engine(sim("a").slow()).engine(sim("b")).start().await;
    farm.engine("b").fault(&json!({"503_ratio": 1.0})).await;
    within(Duration::from_secs(30), "push-backs", async {
        while farm.scheduler.metrics().await.with("aya_endpoint_failures_total", "endpoint=\"b\"") < 3.5 {
            load(&farm, 2, 2, "rr").await;
        }
    })
    .await;
    assert_eq!(rules(&farm.scheduler.endpoint("b").await), Vec::<String>::new());
    farm.assert_accounted().await;
}

#[tokio::test]
async fn c8_an_engine_that_claims_to_be_idle_while_it_is_slow_is_found_out_within_ten_requests() {
    let farm = Farm::of(aya!())
        .engine(sim("a").slow())
        .engine(sim("b").slow())
        .engine(sim("liar").slow())
        .start()
        .await;
    load(&farm, 6, 3, "rr").await;
    farm.engine("liar").fault(&json!({"slow": 20.0, "lie": true})).await;
    let before = placements(&farm, "liar").await;
    let mut sent = 0;
    within(Duration::from_secs(30), "the evidence", async {
        while rules(&farm.scheduler.endpoint("liar").await).is_empty() {
            let _ = farm.api().post_with(PATH, &[("x-aya-policy", "rr")], &streamed(2)).await.ok();
            sent += 1;
        }
    })
    .await;
    let got = placements(&farm, "liar").await - before;
    assert!(got <= 10.5, "{got} of {sent}");
    let endpoint = farm.scheduler.endpoint("liar").await;
    assert_eq!(endpoint["running"], 0, "{endpoint}");
    assert_eq!(rules(&endpoint), ["slower_than_peers"]);
    // One after the other: nothing but the evidence tells the three apart.
    let before = placements(&farm, "liar").await;
    for _ in 0..12 {
        let _ = farm.api().chat(&chat(2)).await.ok();
    }
    assert!(placements(&farm, "liar").await - before < 2.5, "it still gets its share");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn c3_where_every_endpoint_fails_clients_are_told_and_the_farm_recovers() {
    let toml = "[breaker]\nejection = \"500ms\"\n[queue]\nwait_max = \"200ms\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("a")).engine(sim("b")).start().await;
    for engine in &farm.engines {
        engine.fault(&json!({"500_ratio": 1.0})).await;
    }
    for _ in 0..8 {
        let answer = within(Duration::from_secs(3), "an answer", farm.api().chat(&chat(2))).await;
        assert!([502, 503].contains(&answer.status), "{}", answer.text());
    }
    let out =
        farm.scheduler.endpoints().await.iter().filter(|e| rules(e).contains(&"ejected".to_owned())).count();
    assert!(out <= 1, "the last one went too");
    for engine in &farm.engines {
        engine.fault(&json!({"500_ratio": 0.0})).await;
    }
    until("an answer", async || {
        let answer = farm.api().chat(&chat(2)).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    farm.assert_accounted().await;
}
