#![cfg(test)]
//! Synthetic generations nobody asked for: they find the engine that says it is well and cannot generate.

use std::time::Duration;

use aya_tests::{Farm, aya, chat, sim, streamed, until};
use serde_json::{Value, json};
use tokio::time::Instant;

fn is_out(endpoint: &Value) -> bool {
    endpoint["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["rule"] == "ejected"))
}

async fn until_out(farm: &Farm, id: &str) {
    until("the ejection", async || {
        let endpoint = farm.scheduler.endpoint(id).await;
        assert_eq!(endpoint["health"], "healthy", "its health page says nothing of it: {endpoint}");
        if is_out(&endpoint) { Ok(()) } else { Err(endpoint) }
    })
    .await;
}

#[tokio::test]
async fn a_new_engine_that_cannot_generate_is_out_before_any_request_comes() {
    let toml = "[probe]\nstartup = true\n[breaker]\nejection = \"300ms\"";
    let broken = sim("b").flag("--fault", "500");
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("a")).engine(broken).start().await;
    until_out(&farm, "b").await;
    let metrics = farm.scheduler.metrics().await;
    assert!(metrics.sum("aya_requests_accepted_total") < 0.5, "a client's request found it");
    assert!(metrics.with("aya_probes_total", "result=\"ok\"") > 0.5, "the good one was not asked");
    for _ in 0..4 {
        let answer =
            farm.api().post_with("/v1/chat/completions", &[("x-aya-policy", "rr")], &chat(1)).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("a"));
    }
    farm.engine("b").fault(&json!({"500_ratio": 0.0})).await;
    until("its return", async || {
        let endpoint = farm.scheduler.endpoint("b").await;
        let held = endpoint["action"] == "drain" || endpoint["action"] == "limit";
        if held { Err(endpoint) } else { Ok(()) }
    })
    .await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn c5_a_shallow_health_is_found_out_within_two_intervals_and_ends_no_ejection() {
    let toml = "[probe]\nperiodic = true\ninterval = \"1s\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("a")).engine(sim("b")).start().await;
    until("both to be asked", async || {
        let ok = farm.scheduler.metrics().await.with("aya_probes_total", "result=\"ok\"");
        if ok > 1.5 { Ok(()) } else { Err(ok) }
    })
    .await;
    farm.engine("b").fault(&json!({"500_ratio": 1.0})).await;
    let broken = Instant::now();
    until_out(&farm, "b").await;
    let took = broken.elapsed();
    println!("C5: /health says 200, generations fail: out after {took:?} with an interval of 1 s");
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(!is_out(&farm.scheduler.endpoint("a").await));
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_engine_that_works_for_somebody_is_not_asked() {
    let toml = "[probe]\nperiodic = true\ninterval = \"1s\"";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow()).start().await;
    let mut stream = farm.api().begin_chat(&streamed(400)).await;
    assert!(stream.event().await.is_some());
    let before = farm.engine("e1").count("submitted").await;
    while let Some(event) = stream.event().await {
        if event == "[DONE]" {
            break;
        }
    }
    let after = farm.engine("e1").count("submitted").await;
    assert!(after <= before + 1, "it was asked {} times while it worked", after - before);
    until("it to be asked again", async || {
        let now = farm.engine("e1").count("submitted").await;
        if now > after { Ok(()) } else { Err(now) }
    })
    .await;
    farm.assert_accounted().await;
}
