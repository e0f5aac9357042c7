#![cfg(test)]
//! Sick GPUs, from the driver to the decision: a scenario of the fake NVML, a real agent, a real scheduler, and what an
//! operator and a client see of it.

#![expect(
    clippy::disallowed_methods,
    reason = "what is measured here is the time that passes for an operator"
)]

use std::time::{Duration, Instant};

use aya_tests::{Engine, Farm, GpuHost, Process, aya, chat, sim, until};
use serde_json::{Value, json};

const FIRST: &str = "GPU-00000000-0000-4000-8000-000000000000";

/// A host of GPUs that are as described, with an engine on each: `e1` on the first.
async fn host_of(gpus: &[Value], toml: &str) -> (Farm, GpuHost) {
    let mut farm = Farm::of(aya!()).scheduler(toml).start().await;
    for at in 1..=gpus.len() {
        let engine = Engine::start(aya!(), farm.dir.path(), sim(&format!("e{at}"))).await;
        farm.engines.push(engine);
    }
    let engines: Vec<(&Engine, u32)> = farm.engines.iter().zip(0..).collect();
    let host = GpuHost::start_on(aya!(), &farm, &engines, &json!({"gpus": gpus}));
    (farm, host)
}

/// A host of so many GPUs that are well, and have been read.
async fn farm(gpus: u32, toml: &str) -> (Farm, GpuHost) {
    let (farm, host) = host_of(&vec![json!({}); gpus as usize], toml).await;
    let all = (1..=gpus).map(|at| (format!("e{at}"), "ready")).collect::<Vec<_>>();
    for (name, _) in &all {
        until_endpoint(&farm, name, "it is read and on its GPU", |e| {
            e["health"] == "healthy" && e["gpus"].as_array().is_some_and(|gpus| gpus.len() == 1)
        })
        .await;
    }
    until("the GPUs to be read", async || {
        let fleet = farm.scheduler.fleet().await;
        let read = fleet.pointer("/nodes/0/gpus").and_then(Value::as_array).cloned().unwrap_or_default();
        let all = read.len() == gpus as usize && read.iter().all(|gpu| gpu["xids"] == 0);
        if all { Ok(()) } else { Err(read) }
    })
    .await;
    (farm, host)
}

async fn until_endpoint(farm: &Farm, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    until(&format!("{name}: {what}"), async || {
        let all = farm.scheduler.endpoints().await;
        all.iter().find(|e| e["id"] == name && is_so(e)).cloned().ok_or(all)
    })
    .await
}

fn action_is(action: &'static str, rule: &'static str) -> impl Fn(&Value) -> bool {
    move |endpoint| {
        let first = endpoint.pointer("/conditions/0");
        endpoint["action"] == action && first.is_some_and(|condition| condition["rule"] == rule)
    }
}

/// What a dry run finds about an endpoint now.
async fn candidate(farm: &Farm, name: &str) -> Value {
    let decision = farm.admin().post("/api/v1/placements:explain", &chat(1)).await.ok().json();
    let candidates = decision["candidates"].as_array().cloned().unwrap_or_default();
    candidates.into_iter().find(|candidate| candidate["endpoint"] == name).unwrap()
}

async fn events(farm: &Farm, query: &str) -> Vec<Value> {
    let page = farm.admin().get(&format!("/api/v1/events?{query}")).await.ok().json();
    page["events"].as_array().cloned().unwrap()
}

/// So many requests, one after another: who answered.
async fn served_by(farm: &Farm, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let answer = farm.api().chat(&chat(1)).await.ok();
        names.push(answer.header("x-aya-endpoint").unwrap().to_owned());
    }
    names
}

#[tokio::test]
async fn xid_79_keeps_requests_away_and_every_view_says_why() {
    let (farm, host) = farm(2, "health.probation = \"0s\"").await;
    let mut slowest = Duration::ZERO;
    for round in 1..=5 {
        assert_eq!(candidate(&farm, "e1").await["verdict"], "scored", "round {round}");
        let begun = Instant::now();
        host.play(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 79}]}));
        until("e1 to be out", async || {
            let found = candidate(&farm, "e1").await;
            if found["verdict"] == "rejected" { Ok(()) } else { Err(found) }
        })
        .await;
        slowest = slowest.max(begun.elapsed());
        if round < 5 {
            let _ = farm.admin().post(&format!("/api/v1/gpus/{FIRST}:clear"), &json!({})).await.ok();
            until_endpoint(&farm, "e1", "cleared", |e| e["action"].is_null()).await;
        }
    }
    println!("XID 79 injected -> no placement on that GPU: {slowest:?} at the slowest of 5");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}: readings alone come once a second");
    assert_eq!(served_by(&farm, 10).await, vec!["e2"; 10]);
    let answer = farm.api().chat(&chat(1)).await.ok();
    let record = farm.record_of(&answer).await;
    let rejection = record.pointer("/candidates/0/rejection").unwrap();
    assert_eq!(
        rejection,
        &json!({"reason": "gpu_fault", "action": "fail", "rule": "xid", "cause": "XID 79", "gpu": FIRST})
    );
    let endpoint = until_endpoint(&farm, "e1", "failed", action_is("fail", "xid")).await;
    assert_eq!(endpoint.pointer("/conditions/0/xid"), Some(&json!(79)));
    let raised = events(&farm, "endpoint=e1&kind=health_raised&limit=1").await.remove(0);
    for (key, value) in [("severity", json!("error")), ("action", json!("fail")), ("gpu", json!(FIRST))] {
        assert_eq!(raised[key], value, "{raised}");
    }
    assert_eq!((&raised["node"], &raised["xid"]), (&json!("n1"), &json!(79)));
    let metrics = farm.scheduler.metrics().await;
    let of = |name: &str, label: &str| metrics.of(name).find(|(l, _)| *l == label).map(|(_, value)| value);
    assert_eq!(of("aya_health_actions_total", "action=\"fail\",rule=\"xid\""), Some(5.0));
    assert_eq!(of("aya_gpu_conditions", "action=\"fail\",rule=\"xid\""), Some(1.0));
    assert!(of("aya_placement_rejections_total", "reason=\"gpu_fault\"").unwrap() >= 11.0);
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn a_contained_error_is_noted_and_three_of_them_drain() {
    let (farm, host) = farm(2, "").await;
    let xid = json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 94}]});
    host.play(&xid);
    until_endpoint(&farm, "e1", "noted", action_is("note", "xid")).await;
    assert_eq!(candidate(&farm, "e1").await["verdict"], "scored", "one is no reason");
    for seen in 2..=3 {
        host.play(&xid);
        until("the next", async || {
            let told = events(&farm, "kind=gpu_event").await.len();
            if told == seen { Ok(()) } else { Err(told) }
        })
        .await;
    }
    until_endpoint(&farm, "e1", "drained", action_is("drain", "xid")).await;
    assert_eq!(served_by(&farm, 4).await, vec!["e2"; 4]);
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn an_application_fault_has_the_engine_on_that_gpu_probed_at_once() {
    let (farm, host) = farm(2, "").await;
    let probes = async || farm.scheduler.metrics().await.sum("aya_probes_total");
    assert!(probes().await < 0.5, "nothing is probed without a reason");
    host.play(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 31}]}));
    until_endpoint(&farm, "e1", "noted", action_is("note", "xid")).await;
    until("a probe", async || {
        let count = probes().await;
        if count > 0.5 { Ok(()) } else { Err(count) }
    })
    .await;
    assert_eq!(candidate(&farm, "e1").await["verdict"], "scored");
    assert!((probes().await - 1.0).abs() < 0.5, "of that engine alone, and once");
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn a_lost_gpu_fails_its_engine_and_comes_back_slowly() {
    let (farm, host) = farm(2, "health.probation = \"30s\"").await;
    host.play(&json!({"gpus": [{"lost": true}, {}]}));
    until_endpoint(&farm, "e1", "failed", action_is("fail", "gpu_lost")).await;
    assert_eq!(served_by(&farm, 4).await, vec!["e2"; 4]);
    let fleet = farm.scheduler.fleet().await;
    assert_eq!(fleet.pointer("/nodes/0/gpus").and_then(Value::as_array).map(Vec::len), Some(2));
    host.play(&json!({"gpus": [{}, {}]}));
    let back = until_endpoint(&farm, "e1", "on probation", action_is("derate", "gpu_lost")).await;
    assert_eq!(back.pointer("/conditions/0/recovering"), Some(&json!(true)));
    assert!(back["speed_ratio"].as_f64().unwrap() < 1.0);
    // Whether its engine survived shows one generation, before clients find out.
    until("a probe", async || {
        let count = farm.scheduler.metrics().await.sum("aya_probes_total");
        if count > 0.5 { Ok(()) } else { Err(count) }
    })
    .await;
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn heat_changes_who_is_chosen_before_latency_shows_it() {
    let (farm, host) = farm(2, "").await;
    // At 900 of 1980 MHz, cut by software because of heat, and busy.
    let hot = json!({"temp_margin_c": 1, "clock_event_reasons": 32, "clock_mhz": [900, 900, 2619, 1365]});
    for (hot_one, cool_one, scenario) in
        [("e1", "e2", json!({"gpus": [hot, {}]})), ("e2", "e1", json!({"gpus": [{}, hot]}))]
    {
        host.play(&scenario);
        until_endpoint(&farm, hot_one, "slow", |e| e["speed_ratio"] == 0.45).await;
        until_endpoint(&farm, cool_one, "at full speed, or nearly", |e| {
            e["speed_ratio"].as_f64().is_some_and(|speed| speed >= 0.8)
        })
        .await;
        assert_eq!(served_by(&farm, 6).await, vec![cool_one; 6]);
        let seen = candidate(&farm, hot_one).await;
        assert_eq!((&seen["verdict"], &seen["speed_ratio"]), (&json!("scored"), &json!(0.45)));
        let rules: Vec<_> =
            seen["conditions"].as_array().unwrap().iter().map(|c| c["rule"].clone()).collect();
        assert!(
            rules.contains(&json!("slow_clock")) && rules.contains(&json!("thermal_margin")),
            "{rules:?}"
        );
    }
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn a_storm_of_memory_errors_cordons_the_gpu() {
    let (farm, host) = farm(2, "").await;
    let mut storm: Value = serde_json::from_str(include_str!("../../fixtures/nvml/ecc-storm.json")).unwrap();
    for (at, gpu) in storm["gpus"].as_array_mut().unwrap().iter_mut().enumerate() {
        gpu["uuid"] = json!(format!("GPU-00000000-0000-4000-8000-{at:012}"));
    }
    host.play(&storm);
    let sick = until_endpoint(&farm, "e1", "asked to be reset", |e| {
        let rules: Vec<&Value> =
            e["conditions"].as_array().into_iter().flatten().map(|c| &c["rule"]).collect();
        e["action"] == "cordon" && rules.contains(&&json!("recovery_reset")) && rules.contains(&&json!("xid"))
    })
    .await;
    let xids: Vec<&Value> =
        sick["conditions"].as_array().unwrap().iter().filter_map(|c| c.get("xid")).collect();
    assert!(xids.contains(&&json!(48)) && xids.contains(&&json!(63)), "{xids:?}");
    assert_eq!(served_by(&farm, 4).await, vec!["e2"; 4]);
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn a_driver_that_hangs_takes_one_of_five_and_the_brake_keeps_the_rest() {
    let stalled = "[[health.rule]]\nname = \"driver_stalled\"\nafter = \"3s\"";
    let (farm, host) = farm(5, stalled).await;
    let gpus = vec![json!({}); 5];
    host.play(&json!({"gpus": gpus, "hangs": [{"function": "*", "from_ms": 0, "for_ms": 9000}]}));
    // Which of them was found first is chance: each GPU is read in its own turn.
    let drained = action_is("drain", "driver_stalled");
    let out = until("one to be drained", async || {
        let all = farm.scheduler.endpoints().await;
        all.iter().find(|e| drained(e)).and_then(|e| Some(e["id"].as_str()?.to_owned())).ok_or(all)
    })
    .await;
    for other in ["e1", "e2", "e3", "e4", "e5"].into_iter().filter(|name| *name != out) {
        let kept = until_endpoint(&farm, other, "kept in", action_is("derate", "driver_stalled")).await;
        assert_eq!(kept.pointer("/conditions/0/braked"), Some(&json!("drain")));
    }
    let served = served_by(&farm, 4).await;
    assert!(!served.contains(&out), "{served:?}");
    assert_eq!(events(&farm, "kind=health_braked").await.len(), 4);
    assert_eq!(candidate(&farm, &out).await.pointer("/rejection/reason"), Some(&json!("gpu_fault")));
    farm.assert_accounted().await;
    drop(host.agent);
}

#[tokio::test]
async fn a_link_below_its_best_is_told_and_its_engine_is_second_choice() {
    let rule = "[[health.rule]]\nname = \"pcie_link\"\nafter = \"0s\"";
    let (farm, host) = host_of(&[json!({"pcie_link": [3, 8, 5, 16]}), json!({})], rule).await;
    let slow = until_endpoint(&farm, "e1", "derated", action_is("derate", "pcie_link")).await;
    assert_eq!(slow.pointer("/conditions/0/cause"), Some(&json!("PCIe generation 3 x8 of 5 x16 at work")));
    until_endpoint(&farm, "e2", "read", |e| e["health"] == "healthy").await;
    let fleet = farm.scheduler.fleet().await;
    let links: Vec<_> =
        (0..2).filter_map(|at| fleet.pointer(&format!("/nodes/0/gpus/{at}/pcie_link"))).collect();
    let link = |generation: u32, lanes: u32| json!({"generation": generation, "lanes": lanes, "generation_max": 5, "lanes_max": 16});
    assert_eq!(links, [&link(3, 8), &link(5, 16)]);
    assert_eq!(fleet.pointer("/nodes/0/gpus/0/nvlinks_active"), Some(&json!(18)));
    let first = candidate(&farm, "e1").await;
    assert_eq!(first["verdict"], "scored");
    assert_eq!(first.pointer("/conditions/0/rule"), Some(&json!("pcie_link")), "{first}");
    farm.assert_accounted().await;
    drop(host.agent);
}

/// The GPU of a hanging engine fails: nobody waits for the deadline between two tokens.
#[tokio::test]
async fn requests_on_a_failed_gpu_end_or_go_elsewhere_instead_of_hanging() {
    let (farm, host) =
        farm(2, "breaker.enabled = false\n[timeouts]\ninter_token = \"60s\"\nttft = \"60s\"").await;
    let all = || farm.admin();
    let _ = all().post("/api/v1/endpoints/e2:drain", &json!({})).await.ok();
    let mut long = chat(2_000);
    long["stream"] = json!(true);
    let mut streaming = farm.api().begin_chat(&long).await;
    assert_eq!(streaming.header("x-aya-endpoint"), Some("e1"));
    streaming.event().await.unwrap();
    farm.engine("e1").fault(&json!({"stall": true})).await;
    let waiting = async {
        let answer = farm.api().chat(&chat(1)).await.ok();
        answer.header("x-aya-endpoint").unwrap().to_owned()
    };
    let fails = async {
        until("both to be on the engine", async || {
            let endpoint = farm.scheduler.endpoint("e1").await;
            if endpoint["in_flight"] == 2 { Ok(()) } else { Err(endpoint) }
        })
        .await;
        let _ = all().post("/api/v1/endpoints/e2:undrain", &json!({})).await.ok();
        let begun = Instant::now();
        host.play(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 79}]}));
        let events = streaming.events().await;
        (events, begun.elapsed())
    };
    let (elsewhere, (events, took)) = tokio::join!(waiting, fails);
    assert_eq!(elsewhere, "e2", "the client had seen nothing");
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last.pointer("/error/code"), Some(&json!("stream_truncated")), "{last}");
    let message = last.pointer("/error/message").and_then(Value::as_str).unwrap();
    assert!(message.contains("GPU of the engine failed"), "{message}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    println!("XID 79 injected -> the hanging stream has ended: {took:?}");
    farm.assert_accounted().await;
    drop(host.agent);
}

/// What an operator's command prints.
async fn command(farm: &Farm, args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let admin = format!("http://{}", farm.scheduler.admin);
    let args: Vec<String> = args.iter().chain(&["--admin", &admin]).map(ToString::to_string).collect();
    let exit = Process::start(aya!(), dir.path(), "command", &args).ended().await;
    assert_eq!(exit.code, Some(0), "{args:?}: {}", exit.err);
    exit.out
}

#[tokio::test]
async fn every_action_is_in_all_five_views() {
    let at_once = "[[health.rule]]\nname = \"sw_thermal\"\nafter = \"0s\"\n\
                   [[health.rule]]\nname = \"hw_thermal\"\nafter = \"0s\"\n";
    let (farm, host) = farm(2, at_once).await;
    let gone = json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 79}]});
    for (action, rule, scenario, cause, sentence) in [
        (
            "derate",
            "sw_thermal",
            json!({"gpus": [{"clock_event_reasons": 32}, {}]}),
            "clocks cut by software because of heat",
            "e1 counts as",
        ),
        (
            "drain",
            "hw_thermal",
            json!({"gpus": [{"clock_event_reasons": 64}, {}]}),
            "clocks cut by hardware because of heat",
            "is drained for clocks cut by hardware because of heat",
        ),
        ("fail", "xid", gone, "XID 79", "has failed for XID 79"),
    ] {
        host.play(&scenario);
        let seen = until_endpoint(&farm, "e1", action, |e| {
            e["conditions"].as_array().is_some_and(|all| {
                all.iter().any(|condition| condition["rule"] == rule && condition["action"] == action)
            })
        })
        .await;
        assert_eq!(seen["action"], action, "the fleet API: {seen}");
        let status = command(&farm, &["status"]).await;
        let line = status.lines().find(|line| line.contains("endpoint e1") && line.contains(cause));
        assert!(line.is_some_and(|line| line.contains(action)), "aya status: {status}");
        let raised = events(&farm, "endpoint=e1&kind=health_raised&limit=9").await;
        assert!(raised.iter().any(|event| event["rule"] == rule && event["action"] == action), "{raised:?}");
        let told = command(&farm, &["events", "--endpoint", "e1"]).await;
        assert!(told.contains(&format!("because of {rule}: {cause}")), "aya events: {told}");
        let metrics = farm.scheduler.metrics().await;
        let labels = format!("action=\"{action}\",rule=\"{rule}\"");
        for name in ["aya_health_actions_total", "aya_gpu_conditions"] {
            let told = metrics.of(name).find(|(told, _)| *told == labels);
            assert!(told.is_some_and(|(_, count)| count > 0.5), "{name} {labels}");
        }
        let answer = farm.api().chat(&chat(1)).await.ok();
        assert_eq!(answer.header("x-aya-endpoint"), Some("e2"), "{action}");
        let explained = command(&farm, &["explain", answer.header("x-aya-decision-id").unwrap()]).await;
        assert!(explained.contains(sentence), "aya explain: {explained}");
    }
    farm.assert_accounted().await;
    drop(host.agent);
}

/// What happened long before it began is no news to it, as the tests of the fleet show.
#[tokio::test]
async fn an_error_that_came_while_no_scheduler_ran_is_acted_on_by_the_next_one() {
    let (mut farm, host) = farm(2, "").await;
    farm.scheduler.process.kill();
    host.play(&json!({"gpus": [{}, {}], "events": [{"at_ms": 0, "gpu": 0, "data": 48}]}));
    farm.scheduler.restart().await;
    until_endpoint(&farm, "e1", "cordoned", action_is("cordon", "xid")).await;
    let kept = events(&farm, "kind=gpu_event").await;
    assert_eq!(kept.len(), 1, "told by the event, not by the count: {kept:?}");
    farm.assert_accounted().await;
    drop(host.agent);
}
