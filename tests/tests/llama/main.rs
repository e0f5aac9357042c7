#![cfg(test)]
//! Real llama.cpp servers and OpenAI's own client, through the shipped program: what the simulated engine cannot show.

mod server;

use std::time::Duration;

use aya_tests::{Farm, Process, until, with};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::server::{MODEL, Real, SCRIPTS, Server, chat, farm_of, healthy, streamed, try_chat};

/// From the disconnect until the server's slots are idle.
const PROMPTLY: Duration = Duration::from_millis(200);

/// Folder, and servers with so many slots each.
async fn servers(real: &Real, slots: &[u32]) -> (tempfile::TempDir, Vec<Server>) {
    let dir = tempfile::tempdir().unwrap();
    let mut servers = Vec::new();
    for (at, slots) in slots.iter().enumerate() {
        servers.push(real.server(dir.path(), &format!("llama{at}"), *slots).await);
    }
    (dir, servers)
}

/// The same with a model that takes its time.
async fn slow_servers(real: &Real, slots: &[u32]) -> (tempfile::TempDir, Vec<Server>) {
    let models = tempfile::tempdir().unwrap();
    // The servers have the file open when its folder goes.
    servers(&real.clone().slow(models.path()), slots).await
}

#[tokio::test]
async fn openai_client_finds_what_it_expects() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = servers(&real, &[4]).await;
    let farm = farm_of(&[&servers[0]], "").await;
    let args =
        [format!("{SCRIPTS}/openai_check.py"), format!("http://{}/v1", farm.scheduler.api), MODEL.to_owned()];
    let mut check = Process::start(&real.python, farm.dir.path(), "openai", &args);
    let exit = check.ended().await;
    assert_eq!(exit.code, Some(0), "{}{}", exit.out, exit.err);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn chat_and_streams_pass_with_the_servers_own_usage() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = servers(&real, &[4]).await;
    let farm = farm_of(&[&servers[0]], "").await;
    let listed = farm.api().get("/v1/models").await.ok().json();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["max_model_len"]),
        (&json!(MODEL), &json!(2048))
    );

    let answer = farm.api().chat(&chat(8)).await.ok();
    assert_eq!(answer.json()["usage"]["completion_tokens"], 8);
    let record = farm.record_of(&answer).await;
    assert_eq!(record["outcome"]["completion_tokens"], 8, "{record}");

    let live = farm.api().begin_chat(&streamed(8)).await;
    let id = live.header("x-request-id").unwrap().to_owned();
    let mut events = live.events().await;
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    let usage: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(8)));
    let record = farm.record(&id).await;
    assert_eq!(record["outcome"]["prompt_tokens"], usage["usage"]["prompt_tokens"], "{record}");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn the_model_check_is_ours_and_the_context_check_is_told_as_openai_does() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = servers(&real, &[1]).await;
    let farm = farm_of(&[&servers[0]], "").await;
    let unknown = with(chat(1), &json!({"model": "gpt-none"}));
    let direct = servers[0].client().chat(&unknown).await;
    assert_eq!(direct.status, 200, "llama.cpp serves any name: {}", direct.text());
    assert_eq!(farm.api().chat(&unknown).await.error(), "404 model_not_found");

    let long = json!([{"role": "user", "content": "hello ".repeat(2_100)}]);
    for body in [chat(4), streamed(4)] {
        let answer = farm.api().chat(&with(body, &json!({"messages": long}))).await;
        assert_eq!(answer.error(), "400 context_length_exceeded");
        assert_eq!(farm.record_of(&answer).await["outcome"]["status"], "client_error");
    }
    let _ = farm.api().chat(&chat(1)).await.ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_slot_whether_it_streams_or_not() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = slow_servers(&real, &[1]).await;
    let (farm, server) = (farm_of(&[&servers[0]], "").await, &servers[0]);
    for (what, body) in [("streaming", streamed(1_900)), ("whole", chat(1_900))] {
        let mut client = JoinSet::new();
        let api = farm.api();
        client.spawn(async move { api.begin_chat(&body).await.events().await });
        server.wait_busy(1).await;
        let left_at = Instant::now();
        drop(client);
        server.wait_busy(0).await;
        let took = left_at.elapsed();
        assert!(took < PROMPTLY, "{what}: the slot was busy for {took:?}");
    }
    cancelled(&farm, 2).await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_never_reaches_the_server() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = slow_servers(&real, &[1]).await;
    let (farm, server) = (farm_of(&[&servers[0]], "").await, &servers[0]);
    let mut first = farm.api().begin_chat(&streamed(1_900)).await;
    assert!(first.event().await.is_some());
    let mut waiting = JoinSet::new();
    waiting.spawn(try_chat(farm.api(), chat(1_900)));
    queue(&farm, 1.0).await;
    drop(waiting);
    queue(&farm, 0.0).await;
    drop(first);
    server.wait_busy(0).await;
    cancelled(&farm, 2).await;
    let records = farm.scheduler.decisions().await;
    let untried = records.iter().filter(|record| record["attempts"] == json!([])).count();
    assert_eq!(untried, 1, "{records:?}");
    farm.assert_accounted().await;
}

async fn cancelled(farm: &Farm, expect: usize) {
    until("the cancelled records", async || {
        let records = farm.scheduler.decisions().await;
        let count = records.iter().filter(|r| r["outcome"]["status"] == "client_cancelled").count();
        if count == expect { Ok(()) } else { Err(records) }
    })
    .await;
}

async fn queue(farm: &Farm, expect: f64) {
    until("the depth of the queue", async || {
        let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
        if (depth - expect).abs() < 0.5 { Ok(()) } else { Err(depth) }
    })
    .await;
}

#[tokio::test]
async fn overload_waits_in_aya_and_the_servers_stay_answerable() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = slow_servers(&real, &[2, 2]).await;
    let farm = farm_of(&[&servers[0], &servers[1]], "").await;
    let mut clients = JoinSet::new();
    // Eight times the slots, and more than the servers' HTTP threads.
    for at in 0..32 {
        clients.spawn(try_chat(farm.api(), if at % 2 == 0 { chat(120) } else { streamed(120) }));
    }
    let mut deepest: f64 = 0.0;
    while !clients.is_empty() {
        for server in &servers {
            assert!(server.answers_health().await);
            let deferred = server.deferred().await;
            assert!(deferred.abs() < 0.5, "{deferred} requests wait in {}", server.name);
        }
        deepest = deepest.max(farm.scheduler.metrics().await.sum("aya_queue_depth"));
        while let Some(answer) = clients.try_join_next() {
            let answer = answer.unwrap().unwrap().ok();
            assert!(answer.text().contains("\"completion_tokens\":120"), "{}", answer.text());
        }
    }
    assert!(deepest >= 20.0, "at most {deepest} requests waited in Aya");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn a_server_killed_under_load_costs_nothing_that_had_not_begun() {
    let Some(real) = Real::given() else { return };
    let (_dir, mut servers) = slow_servers(&real, &[4, 4]).await;
    let farm = farm_of(&[&servers[0], &servers[1]], "").await;
    let mut whole = JoinSet::new();
    let mut streams = JoinSet::new();
    for _ in 0..12 {
        whole.spawn(try_chat(farm.api(), chat(200)));
        streams.spawn(try_chat(farm.api(), streamed(200)));
    }
    servers[1].wait_busy(4).await;
    servers[1].kill();
    while let Some(answer) = whole.join_next().await {
        let answer = answer.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["usage"]["completion_tokens"], 200);
    }
    let mut cut = 0.0;
    while let Some(answer) = streams.join_next().await {
        let answer = answer.unwrap().unwrap().ok();
        let text = answer.text();
        if text.contains("stream_truncated") {
            assert!(!text.contains("[DONE]"), "{text}");
            assert!(text.contains("\"content\""), "a stream without a byte was not retried: {text}");
            cut += 1.0;
        } else {
            assert!(text.contains("\"completion_tokens\":200") && text.ends_with("[DONE]\n\n"), "{text}");
        }
    }
    // Its four slots can have been sending to no more clients than that.
    assert!(cut <= 4.0, "{cut} streams were cut");
    let metrics = farm.scheduler.metrics().await;
    let truncated = metrics.with("aya_requests_total", "outcome=\"truncated\"");
    assert!((truncated - cut).abs() < 0.5, "{truncated} counted, {cut} seen");
    farm.assert_accounted().await;
}

#[tokio::test]
async fn requests_wait_for_a_server_that_restarts() {
    let Some(real) = Real::given() else { return };
    let (_dir, mut servers) = servers(&real, &[2]).await;
    let farm = farm_of(&[&servers[0]], "").await;
    let _ = farm.api().chat(&chat(2)).await.ok();
    servers[0].kill();
    let mut clients = JoinSet::new();
    for body in [chat(4), streamed(4), chat(4)] {
        clients.spawn(try_chat(farm.api(), body));
    }
    until("the farm to notice", async || {
        let healthy = healthy(&farm).await;
        if healthy == 0 { Ok(()) } else { Err(healthy) }
    })
    .await;
    clients.spawn(try_chat(farm.api(), chat(4)));
    assert!(clients.try_join_next().is_none(), "a request ended without a server");
    servers[0].start().await;
    while let Some(answer) = clients.join_next().await {
        let answer = answer.unwrap().unwrap().ok();
        assert!(answer.text().contains("\"finish_reason\":\"length\""), "{}", answer.text());
    }
    farm.assert_accounted().await;
}

/// It goes on with a final message of the assistant, and with a prompt; killed by `kill -9`, in the middle of words.
#[tokio::test]
async fn an_answer_of_a_killed_server_goes_on_from_the_other_one() {
    let Some(real) = Real::given() else { return };
    let prompt = json!({"model": MODEL, "prompt": "hello", "max_tokens": 600, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true}});
    for (path, body) in [("/v1/chat/completions", streamed(600)), ("/v1/completions", prompt)] {
        let (_dir, mut servers) = slow_servers(&real, &[1, 1]).await;
        let farm = farm_of(&[&servers[0], &servers[1]], "[retry]\ncontinue_models = [\"*\"]").await;
        let mut live = farm.api().begin(path, &body).await;
        let id = live.header("x-request-id").unwrap().to_owned();
        let victim = live.header("x-aya-endpoint").unwrap().to_owned();
        for _ in 0..20 {
            assert!(live.event().await.is_some());
        }
        servers.iter_mut().find(|server| server.name == victim).unwrap().kill();
        let mut events = live.events().await;
        assert_eq!(events.pop().as_deref(), Some("[DONE]"));
        let usage: Value = serde_json::from_str(&events.pop().unwrap()).unwrap();
        assert_eq!(usage["usage"]["completion_tokens"], 600, "{usage}");
        let record = farm.record(&id).await;
        assert_eq!(record["outcome"]["status"], "completed", "{record}");
        assert_eq!(record["outcome"]["completion_tokens"], 600, "{record}");
        assert_eq!(record["attempts"].as_array().map(Vec::len), Some(2), "{record}");
        let before = record.pointer("/attempts/1/continues_after_tokens").and_then(Value::as_u64);
        assert!(before.is_some_and(|tokens| (15..600).contains(&tokens)), "{record}");
        println!("{path}: killed after {} tokens: {}", before.unwrap(), usage["usage"]);
        farm.assert_accounted().await;
    }
}

/// Two choices of one prompt, of which llama.cpp counts each for itself.
#[tokio::test]
async fn several_choices_are_counted_together() {
    let Some(real) = Real::given() else { return };
    let (_dir, servers) = servers(&real, &[4]).await;
    let farm = farm_of(&[&servers[0]], "").await;
    let one = farm.api().chat(&chat(6)).await.ok().json();
    let answer = farm.api().chat(&with(chat(6), &json!({"n": 2}))).await.ok();
    let usage = &answer.json()["usage"];
    assert_eq!(usage["completion_tokens"], 12, "{usage}");
    assert_eq!(usage["prompt_tokens"], one["usage"]["prompt_tokens"], "{usage}");
    let record = farm.record_of(&answer).await;
    assert_eq!(record["outcome"]["completion_tokens"], 12, "{record}");
    let stream = farm.api().begin_chat(&with(streamed(6), &json!({"n": 2}))).await;
    let id = stream.header("x-request-id").unwrap().to_owned();
    let _ = stream.events().await;
    let record = farm.record(&id).await;
    assert_eq!(record["outcome"]["completion_tokens"], 12, "{record}");
    assert_eq!(record["outcome"]["prompt_tokens"], one["usage"]["prompt_tokens"], "{record}");
    farm.assert_accounted().await;
}
