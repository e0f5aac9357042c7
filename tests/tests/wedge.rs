#![cfg(test)]
//! Engines that hold requests and do nothing, where little is known of them: no profile, no token yet, no streams.

use std::time::Duration;

use aya_tests::{Agent, Engine, Farm, MODEL, Process, aya, chat, sim, streamed, until, with};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const PATH: &str = "/v1/chat/completions";

/// Simulated engines that the agent takes for vLLM: their load is told, and what a step costs is not. There are no GPUs
/// either, so their profile is the one for unknown hardware.
async fn unknown(names: &[&str]) -> (Farm, Process) {
    let mut farm = Farm::of(aya!()).start().await;
    let mut toml = format!(
        "node_id = \"n1\"\nschedulers = [\"http://{}\"]\nadmin_listen = \"127.0.0.1:0\"\ngpu.source = \"none\"\n",
        farm.scheduler.grpc
    );
    for name in names {
        let engine = Engine::start(aya!(), farm.dir.path(), sim(name).slow()).await;
        toml += &format!("[[engine]]\nkind = \"vllm\"\nname = \"{name}\"\nurl = \"{}\"\n", engine.url());
        farm.engines.push(engine);
    }
    let config = farm.dir.path().join("n1.toml");
    std::fs::write(&config, toml).unwrap();
    let args = ["agent", "--config", &config.display().to_string()].map(str::to_owned);
    let agent = Process::start(aya!(), farm.dir.path(), "n1", &args);
    until("every endpoint to be ready", async || {
        let ready = farm.scheduler.endpoints().await.into_iter().filter(|e| e["health"] == "healthy");
        let ready = ready.count();
        if ready == names.len() { Ok(()) } else { Err(ready) }
    })
    .await;
    (farm, agent)
}

async fn is_wedged(farm: &Farm, id: &str) -> bool {
    let endpoint = farm.scheduler.endpoint(id).await;
    let conditions = endpoint["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["rule"] == "wedged")
}

async fn until_wedged(farm: &Farm, id: &str) {
    until("the wedge", async || if is_wedged(farm, id).await { Ok(()) } else { Err("in") }).await;
}

fn send(farm: &Farm, all: &mut JoinSet<u16>, body: Value) {
    let api = farm.api();
    all.spawn(async move { api.post_with(PATH, &[("x-aya-policy", "rr")], &body).await.status });
}

/// About 500 tokens.
fn usual_prompt() -> Value {
    json!({"messages": [{"role": "user", "content": "tell me more of it, ".repeat(100)}]})
}

#[tokio::test]
async fn an_engine_of_unknown_profile_that_never_gave_a_token_is_out_within_five_seconds() {
    let (farm, _agent) = unknown(&["a", "b"]).await;
    farm.engine("b").fault(&json!({"stall": true})).await;
    let mut held = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..2 {
        send(&farm, &mut held, with(streamed(3), &usual_prompt()));
    }
    until_wedged(&farm, "b").await;
    let took = begun.elapsed();
    println!("wedged from its first request on, profile unknown: found after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let endpoint = farm.scheduler.endpoint("b").await;
    assert_eq!(endpoint["profile"], "prior:unknown", "{endpoint}");
    farm.engine("b").fault(&json!({"stall": false})).await;
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    farm.assert_accounted().await;
}

#[tokio::test]
async fn an_engine_that_serves_whole_answers_only_is_judged_by_its_own_counts() {
    let (farm, _agent) = unknown(&["a", "b"]).await;
    // 8 ms per token: five seconds of silence during which the engine works.
    let mut working = JoinSet::new();
    for _ in 0..4 {
        send(&farm, &mut working, chat(600));
    }
    while let Some(status) = working.join_next().await {
        assert_eq!(status.unwrap(), 200);
        for id in ["a", "b"] {
            assert!(!is_wedged(&farm, id).await, "{id} works");
        }
    }
    let events = farm.scheduler.metrics().await.with("aya_breaker_events_total", "event=\"wedged\"");
    assert!(events < 0.5, "it was found wedged while it worked");
    farm.engine("b").fault(&json!({"stall": true})).await;
    let begun = Instant::now();
    let mut held = JoinSet::new();
    for _ in 0..4 {
        send(&farm, &mut held, chat(3));
    }
    until_wedged(&farm, "b").await;
    let took = begun.elapsed();
    println!("wedged with whole answers only: found after {took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(!is_wedged(&farm, "a").await);
    farm.engine("b").fault(&json!({"stall": false})).await;
    while let Some(status) = held.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    farm.assert_accounted().await;
}

/// An engine that does not listen yet has not said what it serves.
#[tokio::test]
async fn a_model_whose_only_engine_is_not_up_yet_is_no_404() {
    let mut farm = Farm::of(aya!()).start().await;
    let late = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let schedulers = [format!("http://{}", farm.scheduler.grpc)];
    let engines = [("late".to_owned(), format!("http://{late}"))];
    farm.agents.push(Agent::start(aya!(), farm.dir.path(), "n1", &schedulers, &engines, ""));
    until("the endpoint to be known", async || {
        let known = farm.scheduler.endpoints().await.len();
        if known == 1 { Ok(()) } else { Err(known) }
    })
    .await;
    let answer = farm.api().chat(&chat(1)).await;
    assert_eq!(answer.error(), "503 model_loading");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert!(answer.text().contains("late (not up yet)"), "{}", answer.text());
    assert_eq!(farm.record_of(&answer).await["outcome"]["status"], "refused");
    let engine = Engine::start_at(aya!(), farm.dir.path(), sim("late"), late).await;
    farm.engines.push(engine);
    until("an answer", async || {
        let answer = farm.api().chat(&chat(1)).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.error()) }
    })
    .await;
    let unknown = farm.api().chat(&with(chat(1), &json!({"model": "nobody"}))).await;
    assert_eq!(unknown.status, 404, "{}", unknown.text());
    farm.assert_accounted().await;
}

/// An engine that never tells its models makes typing errors retryable only while it may be starting.
#[tokio::test]
async fn a_typing_error_is_told_as_one_once_a_silent_engine_has_had_its_time() {
    let mut farm =
        Farm::of(aya!()).scheduler("[placement]\nstarting_grace = \"7s\"").engine(sim("e1")).start().await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let schedulers = [format!("http://{}", farm.scheduler.grpc)];
    let engines = [("late".to_owned(), format!("http://{nobody}"))];
    farm.agents.push(Agent::start(aya!(), farm.dir.path(), "n2", &schedulers, &engines, ""));
    let typo = with(chat(1), &json!({"model": "mdel"}));
    let mut seen = Vec::new();
    until("a refusal for good", async || {
        let answer = farm.api().chat(&typo).await;
        assert!(answer.text().contains(&format!("known: {MODEL}")), "{}", answer.text());
        let error = answer.error();
        if seen.last() != Some(&error) {
            seen.push(error.clone());
        }
        let known = farm.scheduler.endpoints().await.len();
        if known == 2 && error == "404 model_not_found" { Ok(()) } else { Err((known, error)) }
    })
    .await;
    assert_eq!(farm.api().chat(&chat(1)).await.status, 200);
    assert!(seen.contains(&"503 model_loading".to_owned()), "{seen:?}");
    farm.assert_accounted().await;
}
