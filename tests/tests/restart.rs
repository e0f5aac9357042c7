#![cfg(test)]
//! The scheduler's end: what a stop, an upgrade, a crash may and may not cost.

use std::time::Duration;

use aya_tests::{Farm, Live, Raw, aya, chat, sim, streamed, until, within};
use futures_util::future::join_all;
use serde_json::Value;

/// One engine, about 8 ms per token.
async fn slow_farm(toml: &str) -> Farm {
    Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow()).start().await
}

async fn begun(farm: &Farm, tokens: u32) -> Live {
    let mut stream = farm.api().begin_chat(&streamed(tokens)).await;
    assert!(stream.event().await.is_some());
    stream
}

async fn readiness_falls(farm: &Farm) {
    until("readiness to fall", async || {
        let status = farm.admin().get("/readyz").await.status;
        if status == 503 { Ok(()) } else { Err(status) }
    })
    .await;
}

/// `(status, http status, error)` of every record in this directory, sorted.
fn outcomes(dir: &std::path::Path) -> Vec<(String, Option<u64>, String)> {
    let files = std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let mut ends: Vec<_> = texts
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["outcome"].take())
        // The inputs of decisions stand between the records.
        .filter(|outcome| outcome["status"].is_string())
        .map(|o| (o["status"].to_string(), o["http_status"].as_u64(), o["error"].to_string()))
        .collect();
    ends.sort();
    ends
}

#[tokio::test]
async fn e1_a_stop_refuses_nobody_within_its_grace_and_cuts_no_stream() {
    let mut farm = slow_farm("").await;
    let streams = join_all((0..200).map(|_| begun(&farm, 60))).await;
    let mut kept = Raw::connect(farm.scheduler.api).await;
    farm.scheduler.process.terminate();
    readiness_falls(&farm).await;
    // Who comes now is served and told to come elsewhere; so is who was connected before.
    let late = farm.api().chat(&chat(2)).await.ok();
    assert_eq!(late.header("connection"), Some("close"));
    kept.send(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = kept.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    for events in join_all(streams.into_iter().map(Live::events)).await {
        // The role was read before.
        assert_eq!((events.len(), events.last().map(String::as_str)), (60 + 1, Some("[DONE]")));
    }
    let exit = within(Duration::from_secs(5), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    assert_eq!(farm.engine("e1").count("aborted").await, 0);
}

#[tokio::test]
async fn e1_what_is_not_done_after_the_drain_is_told_so() {
    let records = tempfile::tempdir().unwrap();
    let toml = format!("decisions.dir = {:?}\n[timeouts]\ndrain = \"500ms\"", records.path());
    let mut farm = Farm::of(aya!()).scheduler(&toml).engine(sim("e1").slow().max_sequences(2)).start().await;
    let stream = begun(&farm, 50_000).await;
    let mut asking = tokio::task::JoinSet::new();
    for in_flight in [2, 3] {
        // One whole answer under way, then one that waits for room.
        let api = farm.api();
        asking.spawn(async move { api.chat(&chat(50_000)).await });
        until("the next to be there", async || {
            let metrics = farm.scheduler.metrics().await;
            let open = metrics.sum("aya_requests_in_flight");
            if (open - f64::from(in_flight)).abs() < 0.5 { Ok(()) } else { Err(open) }
        })
        .await;
    }
    farm.scheduler.process.terminate();
    let events = stream.events().await;
    let last: Value = serde_json::from_str(events.last().expect("a last event")).unwrap();
    assert_eq!(last["error"]["code"], "shutting_down", "{last}");
    while let Some(answer) = asking.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.error(), "503 shutting_down");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    let exit = within(Duration::from_secs(4), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
    until("the engine to stop", async || {
        let left = farm.engine("e1").count("in_flight").await;
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
    // Their clients had not gone: the records say who cut them off, and are on disk.
    let end = |status: &str, http| (format!("\"{status}\""), Some(http), "\"shutting_down\"".to_owned());
    let expect = [end("truncated", 200), end("upstream_error", 503), end("upstream_error", 503)];
    assert_eq!(outcomes(records.path()), expect);
}

#[tokio::test]
async fn e1_without_a_grace_the_listener_closes_at_once() {
    let mut farm = slow_farm("timeouts.accept_grace = \"0s\"").await;
    let stream = begun(&farm, 80).await;
    farm.scheduler.process.terminate();
    until("the listener to close", async || {
        match farm.api().try_open("GET", "/v1/models", &[], bytes::Bytes::new()).await {
            Err(_) => Ok(()),
            Ok(live) => Err(live.status),
        }
    })
    .await;
    assert_eq!(farm.admin().get("/readyz").await.status, 503);
    assert_eq!(stream.events().await.last().map(String::as_str), Some("[DONE]"));
    let exit = within(Duration::from_secs(5), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(0), "{}", exit.err);
}

#[tokio::test]
async fn e2_a_second_signal_ends_the_scheduler_at_once() {
    let mut farm = slow_farm("").await;
    let _stream = begun(&farm, 50_000).await;
    farm.scheduler.process.terminate();
    readiness_falls(&farm).await;
    farm.scheduler.process.terminate();
    let exit = within(Duration::from_secs(2), "the end", farm.scheduler.process.ended()).await;
    assert_eq!(exit.code, Some(130), "{}", exit.err);
}
