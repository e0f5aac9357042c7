#![cfg(test)]
//! A driver played by the fake NVML, read by a real agent, told to a real scheduler: events at once, hangs that hold
//! up nobody.

#![expect(
    clippy::disallowed_methods,
    reason = "what is measured here is the time that passes for an operator"
)]

use std::time::{Duration, Instant};

use aya_tests::{Engine, Farm, GpuHost, aya, sim, until};
use serde_json::{Value, json};

async fn gpus(farm: &Farm) -> Vec<Value> {
    let fleet = farm.scheduler.fleet().await;
    fleet.pointer("/nodes/0/gpus").and_then(Value::as_array).cloned().unwrap_or_default()
}

async fn until_gpu(farm: &Farm, what: &str, at: usize, is_so: impl Fn(&Value) -> bool) -> Value {
    until(what, async || {
        let gpus = gpus(farm).await;
        gpus.get(at).filter(|gpu| is_so(gpu)).cloned().ok_or(gpus)
    })
    .await
}

#[tokio::test]
async fn an_xid_is_at_the_scheduler_within_100_ms_of_the_drivers_event() {
    let farm = Farm::of(aya!()).start().await;
    let quiet = json!({"gpus": [{}, {}]});
    let host = GpuHost::start(aya!(), &farm, &[], &quiet);
    until_gpu(&farm, "a GPU that is listened to", 1, |gpu| gpu["xids"] == 0).await;
    let mut slowest = Duration::ZERO;
    for (count, code) in (1..).zip([13, 31, 43, 94, 45]) {
        let begun = Instant::now();
        host.play(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 1, "data": code}]}));
        until_gpu(&farm, "the XID", 1, |gpu| gpu["last_xid"] == code).await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(until_gpu(&farm, "its count", 1, |_| true).await["xids"], count);
    }
    println!("from the driver's event to the scheduler's API: {slowest:?} at the slowest of 5");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}: readings alone come once a second");
    assert!(farm.scheduler.process.log().contains("gpu GPU-"), "an operator reads of it");
    assert!(farm.scheduler.process.log().contains("XID 94"));
    drop(host.agent);
}

#[tokio::test]
async fn a_hang_of_the_driver_delays_no_report_of_an_engine() {
    let farm = Farm::of(aya!()).start().await;
    let engine = Engine::start(aya!(), farm.dir.path(), sim("e1")).await;
    let quiet = json!({"gpus": [{}, {}]});
    let host = GpuHost::start(aya!(), &farm, &[&engine], &quiet);
    until_gpu(&farm, "both GPUs", 1, |gpu| gpu["age_ms"].is_number()).await;
    let hang = json!({"gpus": [{}, {}], "hangs": [{"function": "*", "from_ms": 0, "for_ms": 4000}]});
    host.play(&hang);
    let (begun, mut oldest, mut stalled) = (Instant::now(), 0, false);
    while begun.elapsed() < Duration::from_millis(3_800) {
        let fleet = farm.scheduler.fleet().await;
        let age = fleet.pointer("/endpoints/0/age_ms").and_then(Value::as_u64).unwrap();
        oldest = oldest.max(age);
        let reason = fleet.pointer("/nodes/0/health_reason").and_then(Value::as_str);
        stalled |= reason.is_some_and(|reason| reason.starts_with("nvml stalled"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("during a hang of 4 s the oldest reading of an engine was {oldest} ms old");
    assert!(stalled, "the hang is told while it lasts");
    // Two periods of 250 ms: one until the reading is repeated, one for its report to be late. The rest is the
    // machine's, which runs other tests.
    assert!(oldest < 1_500, "{oldest} ms");
    until("the end of the hang", async || {
        let fleet = farm.scheduler.fleet().await;
        let node = fleet.pointer("/nodes/0/health").cloned().unwrap_or_default();
        if node == "healthy" { Ok(()) } else { Err(node) }
    })
    .await;
    drop(host.agent);
}

#[tokio::test]
async fn a_process_on_a_gpu_is_told_with_its_memory_and_its_engine() {
    let farm = Farm::of(aya!()).start().await;
    let engine = Engine::start(aya!(), farm.dir.path(), sim("e1")).await;
    let gpus = json!({"gpus": [{"processes": [
        {"pid": engine.process.id(), "mib": 40_000}, {"pid": 4_000_000, "mib": 50}
    ]}, {}]});
    let host = GpuHost::start(aya!(), &farm, &[&engine], &gpus);
    let gpu = until_gpu(&farm, "the processes", 0, |gpu| gpu["processes"].is_array()).await;
    assert_eq!(gpu["process_view"], "partial", "4000000 is no process of ours to see: {gpu}");
    let list = gpu["processes"].as_array().unwrap();
    assert_eq!((&list[0]["engine"], &list[0]["vram_bytes"]), (&json!("e1"), &json!(40_000_u64 << 20)));
    assert!(list[0]["name"].as_str().unwrap().starts_with("aya"), "{gpu}");
    assert_eq!((&list[1]["engine"], list.len()), (&Value::Null, 2));
    let endpoint = until("the engine's GPU", async || {
        let endpoint = farm.scheduler.endpoint("e1").await;
        if endpoint["gpus"] == json!([gpu["uuid"]]) { Ok(endpoint) } else { Err(endpoint) }
    })
    .await;
    assert_eq!(endpoint["vram_free_bytes"], gpu["vram_free_bytes"], "the GPU that its process holds");
    drop(host.agent);
}
