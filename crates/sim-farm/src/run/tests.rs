//! Small farms with known outcomes. Every run ends with the checks of `conservation`.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Arrival, Objectives, parse_fleet};

pub(crate) fn config(fleet: &str, policy: &str) -> SimConfig {
    SimConfig {
        fleet: parse_fleet(fleet).unwrap(),
        policy: Policy::named(policy).unwrap(),
        report_period: Duration::from_millis(100),
        reports_until: None,
        schedulers: 1,
        share_ledgers: false,
        hold_at_most: None,
        shed_above_s: None,
        seed: 1,
    }
}

/// `count` requests of one size, `gap_ms` apart.
fn steady(count: u32, gap_ms: u32, prompt_tokens: u32, output_tokens: u32) -> Workload {
    let arrival = |at: u32| Arrival {
        at_s: f64::from(at * gap_ms) / 1e3,
        prompt_tokens,
        output_tokens,
        blocks: Arc::from([]),
    };
    Workload { arrivals: (0..count).map(arrival).collect() }
}

fn run(config: &SimConfig, workload: &Workload) -> Results {
    simulate(config, workload).unwrap()
}

#[test]
fn a_request_alone_takes_what_the_cost_model_says() {
    let results = run(&config("h100-8b", "aya"), &steady(1, 0, 1000, 3));
    let cost = aya_estimate::named("h100-8b").unwrap().profile.cost;
    let attention = aya_estimate::prefill_attention(1000.0, 0.0);
    let prefill = aya_estimate::step_time_s(&cost, 1000.0, 0.0, attention);
    let decode: f64 = [1001.0, 1002.0].iter().map(|kv| aya_estimate::step_time_s(&cost, 1.0, *kv, 0.0)).sum();
    let record = results.requests[0];
    assert!((record.ttft_s - prefill).abs() < 1e-8, "{record:?}, expected {prefill}");
    assert!((record.e2e_s - prefill - decode).abs() < 1e-8, "{record:?}, expected {decode} more");
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let workload = steady(200, 10, 800, 60);
    let seeded = |seed| run(&SimConfig { seed, ..config("3*a100-8b,l4-8b", "random") }, &workload);
    assert_eq!(seeded(7), seeded(7));
    assert_ne!(seeded(7), seeded(8));
}

#[test]
fn a_burst_inside_one_report_period_spreads_evenly() {
    let results = run(&config("10*a100-8b", "aya"), &steady(100, 0, 500, 50));
    let mut sent = [0_u32; 10];
    for record in &results.requests {
        sent[record.endpoint.unwrap()] += 1;
    }
    assert!(sent.iter().all(|n| (9..=11).contains(n)), "{sent:?}");
}

#[test]
fn slow_engines_get_less_without_hand_set_weights() {
    let results = run(&config("h100-8b,l4-8b", "aya"), &steady(300, 60, 800, 100));
    let slow = results.requests.iter().filter(|r| r.endpoint == Some(1)).count();
    assert!(slow < 30, "{slow} of 300 went to the slow engine");
    let met = results.summary(&Objectives { ttft_s: 2.0, tpot_s: 0.1 }).goodput_ratio;
    assert!(met > 0.99, "{met}");
}

#[test]
fn requests_wait_at_the_scheduler_only_if_told_to() {
    let workload = steady(60, 0, 4000, 5);
    let sent = run(&config("a100-8b", "aya"), &workload);
    assert_eq!((sent.decisions, sent.summary(&Objectives { ttft_s: 1.0, tpot_s: 0.1 }).rejected), (60, 0));
    let hold = |most| SimConfig { hold_at_most: Some(Duration::from_secs(most)), ..config("a100-8b", "aya") };
    let held = run(&hold(60), &workload);
    assert!(held.decisions > 60 && held.requests.iter().all(|r| r.outcome == Outcome::Completed));
    let expired = run(&hold(2), &workload);
    assert!(expired.requests.iter().any(|r| r.outcome == Outcome::Rejected));
}

#[test]
fn shedding_keeps_the_promise_to_those_it_takes() {
    let workload = steady(800, 5, 1200, 200);
    let objectives = Objectives { ttft_s: 1.0, tpot_s: 0.05 };
    let taken = run(&config("2*a100-8b", "aya"), &workload).summary(&objectives);
    let shed = SimConfig { shed_above_s: Some(0.1), ..config("2*a100-8b", "aya") };
    let shed = run(&shed, &workload).summary(&objectives);
    assert_eq!(taken.rejected, 0);
    assert!(shed.rejected > 0 && shed.goodput_ratio > 2.0 * taken.goodput_ratio, "{taken:?} {shed:?}");
}

#[test]
fn schedulers_that_share_their_ledgers_place_almost_as_one() {
    let workload = steady(600, 8, 1000, 120);
    let ttft = |schedulers, share_ledgers| {
        let config = SimConfig {
            schedulers,
            share_ledgers,
            reports_until: Some(Duration::ZERO),
            ..config("h100-8b,2*a100-8b,2*l4-8b", "aya")
        };
        run(&config, &workload).summary(&Objectives { ttft_s: 1.0, tpot_s: 0.05 }).ttft_p99_s.unwrap()
    };
    let (one, apart, sharing) = (ttft(1, false), ttft(4, false), ttft(4, true));
    assert!(sharing < apart, "one {one}, apart {apart}, sharing {sharing}");
}

#[test]
fn what_fits_nowhere_is_rejected_once() {
    let results = run(&config("l4-8b", "aya"), &steady(2, 5, 40_000, 5));
    assert!(results.requests.iter().all(|r| r.outcome == Outcome::Rejected && r.endpoint.is_none()));
}

#[test]
fn losing_all_telemetry_changes_little() {
    let workload = steady(400, 12, 1000, 120);
    let objectives = Objectives { ttft_s: 1.0, tpot_s: 0.05 };
    let fresh = run(&config("6*a100-8b", "aya"), &workload).summary(&objectives);
    let lost = SimConfig { reports_until: Some(Duration::ZERO), ..config("6*a100-8b", "aya") };
    let lost = run(&lost, &workload).summary(&objectives);
    assert!((fresh.goodput_ratio - lost.goodput_ratio).abs() <= 0.01, "{fresh:?} {lost:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever arrives: every request ends once and nothing is left in flight (`simulate` checks both).
    #[test]
    fn nothing_is_lost_under_any_load(
        sizes in proptest::collection::vec((0_u32..400, 1_u32..9_000, 1_u32..400, 0_u64..4), 1..60),
        policy in proptest::sample::select(Policy::names().collect::<Vec<_>>()),
        schedulers in 1_u32..3,
        hold in proptest::option::of(1_u64..20),
    ) {
        let mut at_ms = 0;
        let arrivals = sizes.iter().map(|(gap, prompt, output, family)| {
            at_ms += gap;
            let blocks = (0..prompt.div_ceil(512)).map(|block| family * 1_000 + u64::from(block)).collect();
            let at_s = f64::from(at_ms) / 1e3;
            Arrival { at_s, prompt_tokens: *prompt, output_tokens: *output, blocks }
        });
        let workload = Workload { arrivals: arrivals.collect() };
        let config = SimConfig {
            schedulers,
            hold_at_most: hold.map(Duration::from_secs),
            ..config("a10g-8b,l4-8b,h100-8b", policy)
        };
        prop_assert!(simulate(&config, &workload).is_ok());
    }
}
