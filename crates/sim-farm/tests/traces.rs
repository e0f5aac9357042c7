//! What policies are worth on recorded arrivals: the order of the field, and that `aya` leads it.
#![cfg(test)]

use std::path::Path;
use std::time::Duration;

use aya_placement::Policy;
use aya_sim_farm::{Objectives, Selection, SimConfig, Summary, Telemetry, Workload, parse_fleet, simulate};

struct Scenario {
    trace: &'static str,
    fleet: &'static str,
    speed: f64,
    objectives: Objectives,
    report_period_ms: u64,
    shed_above_s: Option<f64>,
}

const MIXED: Scenario = Scenario {
    trace: "azure_conversation_4000.csv.gz",
    fleet: "2*h100-8b,4*a100-8b,4*a10g-8b,4*l4-8b",
    speed: 11.0,
    objectives: Objectives { ttft_s: 2.0, tpot_s: 0.1 },
    report_period_ms: 100,
    shed_above_s: None,
};

const PREFIXES: Scenario = Scenario {
    trace: "mooncake_conversation_1500.jsonl.gz",
    fleet: "16*a100-8b",
    speed: 2.0,
    objectives: Objectives { ttft_s: 5.0, tpot_s: 0.1 },
    ..MIXED
};

fn run(scenario: &Scenario, policy: &str) -> Summary {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/workloads").join(scenario.trace);
    let selection = Selection { speed: scenario.speed, jitter: true, ..Selection::default() };
    let workload = Workload::read(&path, &selection).unwrap();
    let policy = Policy {
        slo_ttft_s: scenario.objectives.ttft_s,
        slo_tpot_s: scenario.objectives.tpot_s,
        ..Policy::named(policy).unwrap()
    };
    let config = SimConfig {
        telemetry: Telemetry {
            period: Duration::from_millis(scenario.report_period_ms),
            ..Telemetry::default()
        },
        shed_above_s: scenario.shed_above_s,
        ..SimConfig::new(parse_fleet(scenario.fleet).unwrap(), policy)
    };
    simulate(&config, &workload).unwrap().summary(&scenario.objectives)
}

/// Goodput in percent within these bounds.
fn check(scenario: &Scenario, policy: &str, least: f64, most: f64) {
    let goodput = run(scenario, policy).goodput_ratio * 100.0;
    assert!((least..=most).contains(&goodput), "{policy} on {}: {goodput:.1} %", scenario.trace);
}

#[test]
fn on_a_mixed_fleet_aya_needs_no_weights() {
    check(&MIXED, "rr", 40.0, 50.0);
    check(&MIXED, "lc", 75.0, 84.0);
    check(&MIXED, "wlc", 99.0, 100.0);
    check(&MIXED, "aya", 99.5, 100.0);
    assert!(run(&MIXED, "aya").ttft_p99_s.unwrap() < run(&MIXED, "wlc").ttft_p99_s.unwrap());
}

#[test]
fn shared_prefixes_are_found_without_overloading_who_holds_them() {
    check(&PREFIXES, "lc", 62.0, 72.0);
    check(&PREFIXES, "sticky", 84.0, 90.0);
    check(&PREFIXES, "aya", 90.5, 100.0);
    assert!(run(&PREFIXES, "aya").prefix_hit_ratio.unwrap() > 0.15);
}

#[test]
fn telemetry_a_second_old_costs_aya_nothing_and_a_scraped_queue_everything() {
    let stale = Scenario { report_period_ms: 1000, ..MIXED };
    check(&stale, "aya", 99.0, 100.0);
    assert!(run(&stale, "gie").goodput_ratio < run(&MIXED, "gie").goodput_ratio - 0.1);
}

#[test]
fn in_overload_shedding_decides() {
    let overload =
        Scenario { fleet: "5*a100-8b", objectives: Objectives { ttft_s: 1.0, tpot_s: 0.05 }, ..MIXED };
    check(&overload, "lc", 0.0, 20.0);
    let shed = run(&Scenario { shed_above_s: Some(0.2), ..overload }, "aya");
    assert!(shed.goodput_ratio > 0.5, "{shed:?}");
}
