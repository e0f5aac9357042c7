#![cfg(test)]
//! Every endpoint refuses for a while: requests must not multiply, and the end of it must be no second storm.

use std::time::Duration;

use aya_tests::{Farm, aya, chat, sim, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ENGINES: usize = 4;
const SEATS: u32 = 8;
/// About 80 requests per second fit; half of them come.
const GAP: Duration = Duration::from_millis(25);
const SLICE: Duration = Duration::from_millis(100);

/// Thirty seconds in a slow run, else six.
#[expect(clippy::disallowed_methods, reason = "a setting of a test run, not of the program")]
fn storm_length() -> Duration {
    let slow = std::env::var("RUN_SLOW_TESTS").is_ok_and(|value| value == "1");
    Duration::from_secs(if slow { 30 } else { 6 })
}

async fn submitted(farm: &Farm) -> u64 {
    let mut sum = 0;
    for engine in &farm.engines {
        sum += engine.count("submitted").await;
    }
    sum
}

async fn faults(farm: &Farm, faults: &Value) {
    for engine in &farm.engines {
        engine.fault(faults).await;
    }
}

/// Requests in each slice of time that reached an engine, for this long.
async fn arrivals(farm: &Farm, length: Duration) -> Vec<u64> {
    let (mut before, until, mut slices) = (submitted(farm).await, Instant::now() + length, Vec::new());
    let mut ticks = tokio::time::interval(SLICE);
    ticks.tick().await;
    while Instant::now() < until {
        ticks.tick().await;
        let now = submitted(farm).await;
        slices.push(now - before);
        before = now;
    }
    slices
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
async fn storm(on: Value, off: Value) {
    let mut plan = Farm::of(aya!()).scheduler("queue.wait_max = \"2s\"\n[breaker]\nejection = \"1s\"");
    for at in 1..=ENGINES {
        plan = plan.engine(sim(&format!("e{at}")).slow().max_sequences(SEATS));
    }
    let farm = plan.start().await;
    let (api, length) = (farm.api(), storm_length());
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let mut load = JoinSet::new();
    load.spawn(async move {
        let (mut asking, mut ticks) = (JoinSet::new(), tokio::time::interval(GAP));
        while stopped.try_recv().is_err() {
            ticks.tick().await;
            asking.spawn(async move { api.chat(&chat(10)).await.status });
        }
        asking.join_all().await
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = async || {
        let metrics = farm.scheduler.metrics().await;
        (metrics.sum("aya_requests_accepted_total"), metrics.sum("aya_endpoint_placements_total"))
    };
    let before = sent().await;
    faults(&farm, &on).await;
    tokio::time::sleep(length).await;
    let after = sent().await;
    let (requests, attempts) = (after.0 - before.0, after.1 - before.1);
    faults(&farm, &off).await;
    let slices = arrivals(&farm, Duration::from_secs(5)).await;
    stop.send(()).unwrap();
    let statuses = load.join_next().await.unwrap().unwrap();
    let (most, sum) = (slices.iter().max().copied().unwrap(), slices.iter().sum::<u64>());
    let mean = sum as f64 / slices.len() as f64;
    println!(
        "B6 {on}: {requests} requests, {attempts} attempts in {length:?}; afterwards {mean:.1} per {SLICE:?}, at most \
         {most}; {} of {} answered",
        statuses.iter().filter(|status| **status == 200).count(),
        statuses.len(),
    );
    // The least that a farm may try, whatever comes: each endpoint once per second, and thrice a second as they begin.
    let least = ENGINES as f64 * (length.as_secs_f64() + 3.0);
    assert!(attempts <= 1.2 * requests + least, "{attempts} attempts for {requests} requests");
    // A wave is what the engines have no room for: those who waited are let in as places come free.
    let room = (ENGINES as u64) * u64::from(SEATS);
    assert!(most as f64 <= (2.0 * mean).max(room as f64), "{slices:?}");
    until("the farm to serve everybody again", async || {
        let answer = farm.api().chat(&chat(1)).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    farm.assert_accounted().await;
}

#[tokio::test]
async fn b6_while_every_engine_is_full_requests_do_not_multiply() {
    storm(json!({"503_ratio": 1.0}), json!({"503_ratio": 0.0})).await;
}

#[tokio::test]
async fn b6_while_every_engine_fails_requests_do_not_multiply() {
    storm(json!({"500_ratio": 1.0}), json!({"500_ratio": 0.0})).await;
}
