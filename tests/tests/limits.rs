#![cfg(test)]
//! Memory and file descriptors that run short: less is given, in steps, and nothing that was promised is broken.

use std::time::Duration;

use aya_tests::{Answer, Client, Farm, Raw, aya, chat, sim, streamed, until, with, within};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What the scheduler may hold; an idle one holds less than half of it.
const MAX_MIB: u64 = 160;
/// What one waiting request holds.
const BODY: usize = 4 * 1024 * 1024;

async fn level(farm: &Farm) -> f64 {
    farm.scheduler.metrics().await.sum("aya_pressure_level")
}

async fn level_is(farm: &Farm, expect: f64) {
    until("the level of pressure", async || {
        let level = level(farm).await;
        if (level - expect).abs() < 0.5 { Ok(()) } else { Err(level) }
    })
    .await;
}

/// A request that holds its body while it waits.
async fn big(api: Client) -> Answer {
    let body = with(chat(1), &json!({"padding": "x".repeat(BODY)}));
    api.chat(&body).await
}

#[tokio::test]
async fn b4_memory_is_given_back_in_steps_and_the_scheduler_never_goes_beyond_its_limit() {
    let toml = format!("memory.max = \"{MAX_MIB}MiB\"\nmemory.short_idle = \"200ms\"");
    let farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1").slow().max_sequences(1)).start().await;
    let mut occupied = farm.api().begin_chat(&streamed(50_000)).await;
    assert!(occupied.event().await.is_some());
    let mut idle = Raw::connect(farm.scheduler.api).await;
    idle.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(idle.read_until("]}").await.starts_with("HTTP/1.1 200"));
    let (mut waiting, mut levels) = (JoinSet::new(), Vec::new());
    let refused = loop {
        let now = level(&farm).await;
        if levels.last() != Some(&now.to_string()) {
            levels.push(now.to_string());
        }
        if now > 2.5 {
            break farm.api().chat(&chat(1)).await;
        }
        assert!(waiting.len() < 100, "{levels:?}: no pressure");
        let depth = farm.scheduler.metrics().await.sum("aya_queue_depth");
        waiting.spawn(big(farm.api()));
        until("it to wait", async || {
            let now = farm.scheduler.metrics().await.sum("aya_queue_depth");
            if now > depth + 0.5 { Ok(()) } else { Err(now) }
        })
        .await;
        // Longer than memory is looked at.
        tokio::time::sleep(Duration::from_millis(150)).await;
    };
    assert_eq!(levels, ["0", "1", "2", "3"], "{} requests", waiting.len());
    assert_eq!(refused.error(), "503 memory_pressure");
    assert_eq!(refused.header("retry-after"), Some("5"));
    assert_eq!(farm.record_of(&refused).await["outcome"]["status"], "refused");
    // Who was connected and idle has been closed; who asks for less is answered, and closed.
    assert!(within(Duration::from_secs(2), "the idle connection's end", idle.read_to_end()).await.is_empty());
    let models = farm.api().get("/v1/models").await.ok();
    assert_eq!(models.header("connection"), Some("close"));
    assert_eq!(farm.admin().get("/healthz").await.json()["reason"], "new requests are refused");
    let events = farm.admin().get("/api/v1/events").await.json()["events"].clone();
    let steps = events.as_array().unwrap().iter().filter(|event| event["kind"] == "pressure").count();
    assert!(steps >= 3, "{events}");
    // The stream goes on; when those who wait leave, everything is as before.
    assert!(occupied.event().await.is_some());
    waiting.shutdown().await;
    level_is(&farm, 0.0).await;
    drop(occupied);
    assert_eq!(farm.api().chat(&chat(1)).await.ok().header("connection"), None);
    let peak = farm.scheduler.process.peak_memory_bytes();
    assert!(peak < MAX_MIB * 1024 * 1024, "{} MiB", peak / 1024 / 1024);
    farm.assert_accounted().await;
}

#[tokio::test]
async fn b5_with_few_descriptors_connections_wait_and_streams_and_operators_do_not() {
    let farm = Farm::of(aya!()).scheduler_shell("ulimit -n 256").engine(sim("e1").slow()).start().await;
    assert!(
        farm.scheduler.process.log().contains("bounds the connections"),
        "{}",
        farm.scheduler.process.log()
    );
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = farm.api().begin_chat(&streamed(500)).await;
        assert!(stream.event().await.is_some());
        streams.push(stream);
    }
    let mut idle = Vec::new();
    for _ in 0..1_000 {
        idle.push(
            within(Duration::from_secs(5), "a connection", TcpStream::connect(farm.scheduler.api))
                .await
                .unwrap(),
        );
    }
    until("every place to be taken", async || {
        let metrics = farm.scheduler.metrics().await;
        let open = metrics.sum("aya_client_connections");
        let level = metrics.sum("aya_pressure_level");
        if open > 75.0 && level > 0.5 { Ok(()) } else { Err((open, level)) }
    })
    .await;
    assert!(farm.scheduler.process.open_files() < 256);
    // Streams flow, operators are answered, and the idle ones are closed after a short while, so that others come.
    for stream in &mut streams {
        assert!(within(Duration::from_secs(2), "a token", stream.event()).await.is_some());
    }
    assert_eq!(farm.admin().get("/readyz").await.status, 200);
    let closed = until("idle connections to be closed", async || {
        let mut closed = 0;
        for socket in &idle {
            closed += usize::from(matches!(socket.try_read(&mut [0]), Ok(0)));
        }
        if closed > 100 { Ok(closed) } else { Err(closed) }
    })
    .await;
    println!("B5: {closed} idle connections were closed for others");
    drop(idle);
    let answer = within(Duration::from_secs(10), "an answer", farm.api().chat(&chat(1))).await.ok();
    drop(answer);
    for stream in streams {
        assert_eq!(stream.events().await.last().map(String::as_str), Some("[DONE]"));
    }
    let errors = farm.scheduler.metrics().await.sum("aya_accept_errors_total");
    assert!(errors < 0.5, "{errors} accepts failed: the connections were not bounded in time");
    level_is(&farm, 0.0).await;
    farm.assert_accounted().await;
}
