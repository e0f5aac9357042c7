#![cfg(test)]
//! Engines that do not survive a client that leaves: with the policy `drain` they are read to the end.

use aya_tests::{Farm, aya, chat, sim, streamed, until};
use serde_json::json;

async fn farm(policy: &str) -> Farm {
    let engine = sim("e1").slow().flag("--fault", "dies-on-abort");
    Farm::of(aya!()).engine(engine).agent(&format!("abort = \"{policy}\"\n")).start().await
}

/// The client has just left: the lease is held until the engine is done, and the record says who left.
async fn is_read_to_its_end(farm: &Farm, id: &str) {
    let held = farm.scheduler.endpoint("e1").await["in_flight"].as_u64();
    assert_eq!(farm.engine("e1").request_state(id).await.as_deref(), Some("live"), "too short to tell");
    assert_eq!(held, Some(1), "{id}");
    farm.in_state(id, "finished").await;
    let record = farm.record(id).await;
    assert_eq!(record["outcome"]["status"], "client_cancelled", "{record}");
    until("the lease to end", async || {
        let held = farm.scheduler.endpoint("e1").await["in_flight"].as_u64();
        if held == Some(0) { Ok(()) } else { Err(held) }
    })
    .await;
}

#[tokio::test]
async fn a11_an_engine_that_dies_of_aborts_survives_clients_that_leave() {
    let farm = farm("drain").await;
    let endpoint = farm.scheduler.endpoint("e1").await;
    assert_eq!(endpoint["capabilities"]["abort"], "drain", "{endpoint}");
    let mut stream = farm.send("mid-stream", streamed(120)).join_next().await.unwrap().unwrap();
    for _ in 0..4 {
        assert!(stream.event().await.is_some());
    }
    drop(stream);
    is_read_to_its_end(&farm, "mid-stream").await;
    let record = farm.record("mid-stream").await;
    assert_eq!(record["attempts"][0]["result"], "cancelled", "{record}");

    let whole = farm.send("whole", chat(120));
    farm.in_state("whole", "live").await;
    drop(whole);
    is_read_to_its_end(&farm, "whole").await;

    farm.engine("e1").fault(&json!({"stall": true})).await;
    let first_byte = farm.send("first-byte", streamed(60));
    farm.in_state("first-byte", "live").await;
    drop(first_byte);
    until("the connection to be gone", async || {
        let open = farm.scheduler.metrics().await.sum("aya_client_connections");
        if open < 0.5 { Ok(()) } else { Err(open) }
    })
    .await;
    farm.engine("e1").fault(&json!({"stall": false})).await;
    farm.in_state("first-byte", "finished").await;

    assert_eq!(farm.engine("e1").count("aborted").await, 0);
    let _ = farm.api().chat(&chat(1)).await.ok();
    farm.assert_accounted().await;
}

#[tokio::test]
async fn the_same_engine_dies_where_its_requests_are_cancelled() {
    let mut farm = farm("cancel").await;
    let mut stream = farm.send("mid-stream", streamed(500)).join_next().await.unwrap().unwrap();
    assert!(stream.event().await.is_some());
    drop(stream);
    until("the engine to die", async || {
        if farm.engine_mut("e1").process.is_running() { Err("alive") } else { Ok(()) }
    })
    .await;
    farm.scheduler.assert_accounted().await;
}

#[tokio::test]
async fn a_scheduler_that_stops_waits_for_what_it_reads_to_the_end() {
    let mut farm = farm("drain").await;
    let mut stream = farm.send("mid-stream", streamed(200)).join_next().await.unwrap().unwrap();
    assert!(stream.event().await.is_some());
    drop(stream);
    farm.in_state("mid-stream", "live").await;
    farm.scheduler.process.terminate();
    farm.in_state("mid-stream", "finished").await;
    assert!(farm.engine_mut("e1").process.is_running());
}
