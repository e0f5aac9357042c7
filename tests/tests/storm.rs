#![cfg(test)]
//! More than the farm can serve, or a farm that serves nothing for a while: requests must not multiply, nothing may grow,
//! and the end of it must be no second storm.

use std::time::Duration;

use aya_tests::{Farm, aya, chat, is_slow_run, sim, until};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ENGINES: usize = 4;
const SEATS: u32 = 8;
const SLICE: Duration = Duration::from_millis(100);

/// About 80 requests per second fit; half of them come, or a third where they have to fit into one page of records.
fn gap() -> Duration {
    Duration::from_millis(if is_slow_run() { 40 } else { 25 })
}

/// Thirty seconds in a slow run, else six.
fn storm_length() -> Duration {
    Duration::from_secs(if is_slow_run() { 30 } else { 6 })
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
        let (mut asking, mut ticks) = (JoinSet::new(), tokio::time::interval(gap()));
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
    // A wave is what the engines have no room for: those who waited are let in as places come free, and a place comes
    // free after 80 ms, ten tokens of 8 ms, which is once within a slice.
    let room = 2 * (ENGINES as u64) * u64::from(SEATS);
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

/// Milliseconds below which 99 of 100 lie.
fn p99(mut took: Vec<f64>) -> f64 {
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).copied().expect("some")
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b1_a_minute_at_ten_times_the_capacity_costs_neither_goodput_nor_memory() {
    if !is_slow_run() {
        eprintln!("SKIPPED: takes a minute; run with RUN_SLOW_TESTS=1 (admission.rs has the short one)");
        return;
    }
    const LENGTH: Duration = Duration::from_secs(60);
    let toml = "decisions.ring = 500\n[queue]\ncapacity = 12";
    let farm = Farm::of(aya!()).scheduler(toml).engine(sim("e1").slow().max_sequences(4)).start().await;
    let (api, body) = (farm.api(), chat(30));
    let ask = move |body: Value| async move {
        let began = Instant::now();
        let answer = api.chat(&body).await;
        (answer, began.elapsed().as_secs_f64() * 1e3)
    };
    let crowd = async |length: Duration, gap: Duration| {
        let (mut asking, mut ticks, began) = (JoinSet::new(), tokio::time::interval(gap), Instant::now());
        while began.elapsed() < length {
            ticks.tick().await;
            asking.spawn(ask(body.clone()));
        }
        asking.join_all().await
    };
    // Four places and as many clients: what the farm can do, and how long that takes undisturbed.
    let (began, mut clients) = (Instant::now(), JoinSet::new());
    for _ in 0..4 {
        let (ask, body) = (ask, body.clone());
        clients.spawn(async move {
            let mut took = Vec::new();
            for _ in 0..8 {
                took.push(ask(body.clone()).await.1);
            }
            took
        });
    }
    let normal: Vec<f64> = clients.join_all().await.into_iter().flatten().collect();
    let capacity = normal.len() as f64 / began.elapsed().as_secs_f64();
    let gap = Duration::from_secs_f64(0.1 / capacity);
    let _ = crowd(Duration::from_secs(5), gap).await;
    let before = farm.scheduler.process.memory_bytes();
    let began = Instant::now();
    let all = crowd(LENGTH, gap).await;
    let elapsed = began.elapsed().as_secs_f64();
    let grown = farm.scheduler.process.memory_bytes().saturating_sub(before);
    let served = all.iter().filter(|(answer, _)| answer.status == 200).count();
    let refused: Vec<f64> =
        all.iter().filter(|(answer, _)| answer.status == 429).map(|(_, took)| *took).collect();
    assert_eq!(served + refused.len(), all.len(), "served or told to come back, nothing else");
    assert!(all.iter().all(|(answer, _)| answer.status == 200 || answer.header("retry-after").is_some()));
    let (goodput, refusal) = (served as f64 / elapsed, p99(refused.clone()));
    let mut after = Vec::new();
    for _ in 0..20 {
        after.push(ask(body.clone()).await.1);
    }
    let (usual, after) = (p99(normal), p99(after));
    println!(
        "B1 for {LENGTH:?}: capacity {capacity:.1}/s, offered {:.0}/s, served {goodput:.1}/s, {} refused within {refusal:.1} ms \
         (p99), memory +{} KiB; p99 {usual:.0} ms before, {after:.0} ms right after",
        all.len() as f64 / elapsed,
        refused.len(),
        grown / 1024,
    );
    assert!(goodput >= 0.9 * capacity, "{goodput} of {capacity} per second");
    assert!(refusal < 20.0, "refusals took {refusal} ms (p99)");
    assert!(grown < 8 * 1024 * 1024, "{grown} bytes more");
    assert!(after < 2.0 * usual, "{after} ms after it, {usual} before");
}
