//! What is known about whether things work, and how far that can be trusted.

use aya_domain::{
    AgentHealth, Bytes, EngineHealth, EngineProfile, Freshness, GpuUuid, Health, Phase, StepCost, Tokens,
};

use super::farm::{Farm, delta, engine, full, gpu, loaded, node_id, said, with_health};
use crate::Event;

fn down(reason: &str) -> EngineHealth {
    EngineHealth::Down { reason: reason.to_owned() }
}

fn unhealthy(reason: &str) -> Health {
    Health::Unhealthy { reason: reason.to_owned() }
}

/// The health and phase after these probes, one report each.
#[track_caller]
fn check(probes: &[EngineHealth], expect: (&Health, Phase)) {
    let mut farm = Farm::new();
    for (sequence, probe) in (1..).zip(probes) {
        let _ =
            farm.report(sequence, full("n", 1, sequence, vec![with_health(engine("a", "m"), probe.clone())]));
    }
    let endpoint = farm.endpoint(100, "a");
    assert_eq!((&endpoint.health, endpoint.phase), expect, "{probes:?}");
}

#[test]
fn health_is_what_the_probe_told() {
    let (ready, loading, busy) = (EngineHealth::Ready, EngineHealth::Loading, EngineHealth::Busy);
    check(std::slice::from_ref(&ready), (&Health::Healthy, Phase::Serving));
    check(std::slice::from_ref(&loading), (&unhealthy("loading"), Phase::Joining));
    check(&[loading.clone(), ready.clone()], (&Health::Healthy, Phase::Serving));
    check(&[down("refused")], (&unhealthy("refused"), Phase::Serving));
    check(std::slice::from_ref(&busy), (&Health::Healthy, Phase::Serving));
    check(&[ready, busy.clone()], (&Health::Healthy, Phase::Serving));
    check(&[down("refused"), busy.clone()], (&Health::Healthy, Phase::Serving));
    check(&[loading, busy], (&unhealthy("loading"), Phase::Serving));
}

#[test]
fn every_change_of_health_is_said_once() {
    let mut farm = Farm::new();
    let mut probe = |sequence: u64, health: EngineHealth| {
        said(&farm.report(sequence, full("n", 1, sequence, vec![with_health(engine("a", "m"), health)])))
    };
    assert!(probe(1, EngineHealth::Ready).contains(&"endpoint a is ready".to_owned()));
    assert!(probe(2, EngineHealth::Ready).is_empty());
    assert_eq!(probe(3, down("refused")), ["endpoint a is not ready: refused"]);
    assert!(probe(4, down("refused")).is_empty());
    assert_eq!(probe(5, EngineHealth::Ready), ["endpoint a is ready"]);
}

/// How far a node that promised a report every `period_ms` is trusted after so many ms of silence.
#[track_caller]
fn check_freshness(period_ms: u64, silent_ms: u64, expect: Freshness) {
    let mut farm = Farm::new();
    let mut report = full("n", 1, 1, vec![engine("a", "m")]);
    report.agent.period = std::time::Duration::from_millis(period_ms);
    let _ = farm.report(1_000, report);
    assert_eq!(
        farm.endpoint(1_000 + silent_ms, "a").freshness,
        expect,
        "{period_ms} ms, silent {silent_ms} ms"
    );
}

#[test]
fn freshness_counts_in_the_period_that_the_agent_promised() {
    for (period, silent, expect) in [
        (250, 0, Freshness::Fresh),
        (250, 999, Freshness::Fresh),
        (250, 1_000, Freshness::Stale),
        (250, 9_999, Freshness::Stale),
        (250, 10_000, Freshness::Suspect),
        (1_000, 2_999, Freshness::Fresh),
        (1_000, 3_000, Freshness::Stale),
        (60_000, 9_999, Freshness::Fresh),
        (60_000, 10_000, Freshness::Suspect),
    ] {
        check_freshness(period, silent, expect);
    }
}

#[test]
fn the_end_of_a_stream_that_another_one_has_replaced_changes_nothing() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![]));
    let _ = farm.report(5_000, full("n", 1, 2, vec![]));
    for (heard_at, connected) in [(0, true), (5_000, false)] {
        let ended = Event::Disconnected { node: node_id("n"), at: super::farm::at(heard_at) };
        assert_eq!(farm.apply(5_100, ended).changed, !connected, "last heard at {heard_at} ms");
        assert_eq!(farm.snapshot(5_200).nodes[0].connected, connected, "last heard at {heard_at} ms");
    }
}

#[test]
fn silence_changes_nothing_but_freshness() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 5, 1, 0)]));
    let before = farm.endpoint(1, "a");
    assert_eq!(said(&farm.tick(1_000)), ["node n is stale: no report for 1.0s"]);
    assert!(said(&farm.tick(2_000)).is_empty(), "said once");
    let _ = farm.apply(3_000, Event::Disconnected { node: node_id("n"), at: super::farm::at(3_000) });
    assert_eq!(said(&farm.tick(10_000)), ["node n is suspect: no report for 10.0s"]);
    let after = farm.endpoint(20_000, "a");
    assert_eq!(after.freshness, Freshness::Suspect);
    assert_eq!(
        after,
        aya_domain::Endpoint { freshness: Freshness::Suspect, ..before },
        "never idle, never unhealthy"
    );
    let effects = farm.report(21_000, delta("n", 1, 2, vec![]));
    assert_eq!(said(&effects), ["node n reports again"]);
    let snapshot = farm.snapshot(21_001);
    assert!(snapshot.nodes[0].connected);
    assert_eq!(snapshot.endpoints[0].freshness, Freshness::Fresh);
}

#[test]
fn unreadable_gpus_degrade_the_node_and_not_its_engines() {
    let mut farm = Farm::new();
    let agent = |error: Option<&str>| AgentHealth {
        gpu_error: error.map(str::to_owned),
        ..full("n", 1, 1, vec![]).agent
    };
    let mut report = full("n", 1, 1, vec![engine("a", "m")]);
    report.agent = agent(Some("driver not loaded"));
    let effects = farm.report(0, report);
    assert!(said(&effects).contains(&"the gpus of node n cannot be read: driver not loaded".to_owned()));
    let snapshot = farm.snapshot(1);
    assert_eq!(snapshot.nodes[0].health, Health::Degraded { reason: "driver not loaded".to_owned() });
    assert_eq!(snapshot.endpoints[0].health, Health::Healthy);
    let mut report = full("n", 1, 2, vec![engine("a", "m")]);
    report.gpus = vec![gpu("GPU-1", "NVIDIA L4", None)];
    assert_eq!(said(&farm.report(2, report)), ["the gpus of node n can be read"], "they never could before");
    let mut report = delta("n", 1, 3, vec![]);
    report.agent = agent(Some("nvml stalled for 2 s"));
    assert_eq!(said(&farm.report(3, report)), ["the gpus of node n cannot be read: nvml stalled for 2 s"]);
    assert_eq!(said(&farm.report(4, delta("n", 1, 4, vec![]))), ["the gpus of node n can be read again"]);
}

#[test]
fn an_agent_that_gives_up_looking_for_gpus_has_not_found_them() {
    let mut farm = Farm::new();
    let mut report = full("n", 1, 1, vec![]);
    report.agent.gpu_error = Some("none stalled for 2 s".to_owned());
    let _ = farm.report(0, report);
    assert_eq!(
        said(&farm.report(1, delta("n", 1, 2, vec![]))),
        Vec::<String>::new(),
        "there are none to be read"
    );
}

#[test]
fn the_cost_is_what_the_engine_told_else_a_prior_for_its_gpu() {
    let source = |gpus: &[(&str, &str)], named: &[&str], told: bool| {
        let mut farm = Farm::new();
        let mut engine = engine("a", "m");
        engine.gpus = named.iter().map(|uuid| GpuUuid::parse(uuid).unwrap()).collect();
        let cost = StepCost {
            base_s: 1.0,
            per_token_s: 0.0,
            overhead_s: 0.0,
            per_kv_token_s: 0.0,
            attention_s: 0.0,
        };
        engine.profile = told.then_some(EngineProfile {
            cost,
            kv_capacity: Tokens(1),
            max_batched_tokens: 1,
            max_sequences: 1,
        });
        let mut report = full("n", 1, 1, vec![engine]);
        report.gpus = gpus.iter().map(|(uuid, name)| gpu(uuid, name, None)).collect();
        let _ = farm.report(0, report);
        farm.endpoint(1, "a").info.profile_source.clone()
    };
    let (h100, l4) = (("G1", "NVIDIA H100 80GB HBM3"), ("G2", "NVIDIA L4"));
    assert_eq!(source(&[h100], &["G1"], true), "engine");
    assert_eq!(source(&[h100, l4], &["G2"], false), "prior:l4-8b");
    assert_eq!(source(&[h100, l4], &["G1"], false), "prior:h100-8b");
    assert_eq!(source(&[h100], &[], false), "prior:h100-8b");
    assert_eq!(source(&[h100, l4], &[], false), "prior:unknown");
    assert_eq!(source(&[], &[], false), "prior:unknown");
}

#[test]
fn the_prior_follows_a_gpu_that_becomes_known() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![engine("a", "m")]));
    let mut report = full("n", 1, 2, vec![engine("a", "m")]);
    report.gpus = vec![gpu("G1", "NVIDIA L4", None)];
    let _ = farm.report(1, report);
    assert_eq!(farm.endpoint(2, "a").info.profile_source, "prior:l4-8b");
}

#[test]
fn free_vram_is_the_least_of_the_endpoints_gpus_and_unknown_is_not_zero() {
    let free = |gpus: &[(&str, Option<u64>)], named: &[&str]| {
        let mut farm = Farm::new();
        let mut engine = engine("a", "m");
        engine.gpus = named.iter().map(|uuid| GpuUuid::parse(uuid).unwrap()).collect();
        let mut report = full("n", 1, 1, vec![engine]);
        report.gpus = gpus.iter().map(|(uuid, free)| gpu(uuid, "NVIDIA L4", *free)).collect();
        let _ = farm.report(0, report);
        farm.endpoint(1, "a").vram_free.map(|reading| reading.value)
    };
    assert_eq!(free(&[("G1", Some(7)), ("G2", Some(5)), ("G3", Some(1))], &["G1", "G2"]), Some(Bytes(5)));
    assert_eq!(free(&[("G1", Some(7)), ("G2", None)], &["G1", "G2"]), None);
    assert_eq!(free(&[("G1", Some(7))], &["G9"]), None);
    assert_eq!(free(&[("G1", Some(7))], &[]), Some(Bytes(7)));
    assert_eq!(free(&[("G1", Some(7)), ("G2", Some(5))], &[]), None);
}
