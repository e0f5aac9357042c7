//! Small farms with known outcomes. Every run ends with the checks of `conservation`.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Arrival, Fault, Objectives, Telemetry, parse_fleet};

pub(crate) fn config(fleet: &str, policy: &str) -> SimConfig {
    SimConfig::new(parse_fleet(fleet).unwrap(), Policy::named(policy).unwrap())
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

fn lost() -> Telemetry {
    Telemetry { until: Some(Duration::ZERO), ..Telemetry::default() }
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

/// Every fourth prompt is long.
fn long_and_short(count: u32, gap_ms: u32) -> Workload {
    let mut workload = steady(count, gap_ms, 600, 150);
    workload.arrivals.iter_mut().step_by(4).for_each(|arrival| arrival.prompt_tokens = 4_000);
    workload
}

#[test]
fn with_more_work_than_the_farm_can_do_most_are_still_in_time_because_the_late_ones_share_endpoints() {
    let workload = long_and_short(1_600, 20);
    let objectives = Objectives { ttft_s: 1.0, tpot_s: 0.05 };
    let met = |slo_most| {
        let mut config = config("6*a100-8b", "aya");
        (config.policy.weights.slo_most, config.policy.slo_ttft_s, config.policy.slo_tpot_s) =
            (slo_most, 1.0, 0.05);
        run(&config, &workload).summary(&objectives).goodput_ratio
    };
    let (gathered, spread) = (met(Policy::named("aya").unwrap().weights.slo_most), met(f64::INFINITY));
    assert!(gathered > 0.6 && gathered > spread + 0.2, "{gathered} instead of {spread}");
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
fn refusing_for_the_pools_misses_is_fair_over_prompt_lengths() {
    let workload = long_and_short(2_400, 12);
    let objectives = Objectives { ttft_s: 1.0, tpot_s: 0.05 };
    let mut config = SimConfig { shed_misses_ratio: Some(0.3), ..config("6*a100-8b", "aya") };
    (config.policy.slo_ttft_s, config.policy.slo_tpot_s) = (1.0, 0.05);
    let summary = run(&config, &workload).summary(&objectives);
    let (mean, quartiles) = (summary.rejected_ratio(), summary.rejected_by_prompt.quartiles);
    assert!((0.05..0.5).contains(&mean) && quartiles.iter().all(|q| *q < 1.6 * mean), "{mean} {quartiles:?}");
    let calm = run(&config, &long_and_short(400, 60)).summary(&objectives);
    assert_eq!(calm.rejected, 0);
}

#[test]
fn schedulers_that_share_their_ledgers_place_almost_as_one() {
    let workload = steady(600, 8, 1000, 120);
    let ttft = |schedulers, share: bool| {
        let config = SimConfig {
            schedulers,
            share_ledgers: share.then_some(Duration::from_millis(50)),
            telemetry: lost(),
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
    let lost = SimConfig { telemetry: lost(), ..config("6*a100-8b", "aya") };
    let lost = run(&lost, &workload).summary(&objectives);
    assert!((fresh.goodput_ratio - lost.goodput_ratio).abs() <= 0.01, "{fresh:?} {lost:?}");
}

fn faulty(fleet: &str, faults: &[&str]) -> SimConfig {
    SimConfig { faults: faults.iter().map(|fault| fault.parse().unwrap()).collect(), ..config(fleet, "aya") }
}

/// How many requests were sent to an endpoint within these seconds.
fn sent(results: &Results, endpoint: usize, seconds: std::ops::Range<f64>) -> usize {
    let there = results.requests.iter().filter(|r| r.endpoint == Some(endpoint));
    there.filter(|r| r.sent_s.is_some_and(|at| seconds.contains(&at))).count()
}

#[test]
fn a_crash_breaks_off_what_had_begun_and_the_rest_is_sent_elsewhere() {
    let workload = steady(600, 20, 800, 60);
    let results = run(&faulty("3*a100-8b", &["crash:1@4+4"]), &workload);
    let failed = results.requests.iter().filter(|r| r.outcome == Outcome::Failed).count();
    assert!((1..100).contains(&failed), "{failed}");
    assert_eq!(sent(&results, 1, 4.4..8.0), 0, "nothing is sent to an engine that is known to be down");
    assert!(sent(&results, 1, 9.0..12.0) > 10, "it comes back");
}

#[test]
fn an_engine_that_is_stuck_gets_little_and_what_it_has_ends_later() {
    let workload = steady(600, 20, 800, 60);
    let results = run(&faulty("3*a100-8b", &["wedge:1@4+4"]), &workload);
    assert!(results.requests.iter().all(|r| r.outcome == Outcome::Completed));
    let (stuck, before) = (sent(&results, 1, 5.0..8.0), sent(&results, 1, 1.0..4.0));
    assert!(stuck * 2 < before, "{stuck} while stuck, {before} before");
}

#[test]
fn an_engine_that_is_slow_takes_longer() {
    let workload = steady(100, 100, 800, 20);
    let e2e = |faults: &[&str]| {
        run(&faulty("a100-8b", faults), &workload)
            .summary(&Objectives { ttft_s: 1.0, tpot_s: 0.1 })
            .e2e_mean_s
    };
    assert!(e2e(&["slow:0x2@0"]).unwrap() > 1.9 * e2e(&[]).unwrap());
}

#[test]
fn reports_that_come_late_or_not_at_all_change_little() {
    let workload = steady(400, 12, 1000, 120);
    let objectives = Objectives { ttft_s: 1.0, tpot_s: 0.05 };
    let goodput = |telemetry| {
        run(&SimConfig { telemetry, ..config("6*a100-8b", "aya") }, &workload)
            .summary(&objectives)
            .goodput_ratio
    };
    let prompt = goodput(Telemetry::default());
    let late = Telemetry { delay: Duration::from_secs(1), ..Telemetry::default() };
    let lossy = Telemetry { loss_ratio: 0.7, ..Telemetry::default() };
    for telemetry in [late, lossy] {
        let worse = goodput(telemetry);
        assert!((prompt - worse).abs() <= 0.01, "{telemetry:?}: {worse} instead of {prompt}");
    }
}

#[test]
fn wrong_coefficients_are_wrong_for_placement_only() {
    let told = |error| conditions::mistaken(parse_fleet("a100-8b").unwrap()[0].profile, error, 1, 3);
    assert_eq!(told(0.0), parse_fleet("a100-8b").unwrap()[0].profile);
    assert_ne!(told(0.2), told(0.0));
    let alone =
        |model_error| run(&SimConfig { model_error, ..config("a100-8b", "aya") }, &steady(3, 500, 900, 9));
    assert_eq!(alone(0.0).requests, alone(0.5).requests);
}

fn any_fault() -> impl Strategy<Value = Fault> {
    let kind = prop_oneof![Just("crash:E"), Just("wedge:E"), Just("slow:Ex3")];
    (kind, 0_u32..3, 0_u32..20, 0_u32..10).prop_map(|(kind, engine, at, lasts)| {
        format!("{}@{at}+{lasts}", kind.replace('E', &engine.to_string())).parse().unwrap()
    })
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
        faults in proptest::collection::vec(any_fault(), 0..4),
        (loss_ratio, delay_ms, share) in (0.0..1.0_f64, 0_u64..2_000, proptest::option::of(20_u64..500)),
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
            share_ledgers: share.map(Duration::from_millis),
            telemetry: Telemetry { loss_ratio, delay: Duration::from_millis(delay_ms), ..Telemetry::default() },
            faults,
            ..config("a10g-8b,l4-8b,h100-8b", policy)
        };
        prop_assert!(simulate(&config, &workload).is_ok());
    }
}

/// The share of the requests sent from second `from` to second `to` that went to this engine.
fn share(results: &Results, engine: usize, from: f64, to: f64) -> f64 {
    let sent = results.requests.iter().filter(|r| r.sent_s.is_some_and(|at| (from..to).contains(&at)));
    let (mut here, mut all) = (0.0, 0.0);
    for record in sent {
        all += 1.0;
        here += f64::from(u8::from(record.endpoint == Some(engine)));
    }
    here / f64::max(all, 1.0)
}

#[test]
fn c2_an_engine_five_times_slower_loses_its_share_and_gets_it_back_slowly() {
    for policy in ["aya", "lc", "rr", "wrr", "random", "p2c"] {
        let faults = vec!["slow:1x5@30+20".parse::<Fault>().unwrap()];
        let config = SimConfig { faults, breaker: true, ..config("4*h100-8b", policy) };
        let results = run(&config, &steady(4_400, 25, 1_500, 60));
        let fair = 0.25;
        let before = share(&results, 1, 15.0, 30.0);
        assert!((0.5 * fair..=1.5 * fair).contains(&before), "{policy}: {before} before");
        let during = share(&results, 1, 35.0, 50.0);
        assert!(during < fair / 3.0, "{policy}: {during} of the requests 5 s after it became slow");
        let after = share(&results, 1, 80.0, 110.0);
        assert!(after > 0.6 * fair, "{policy}: {after} half a minute after it is well again");
        for second in 50..108_u32 {
            let at = f64::from(second);
            let now = share(&results, 1, at, at + 2.0);
            assert!(now <= 1.5 * fair + 0.03, "{policy}: {now} from second {second} on");
        }
    }
}

#[test]
fn c6_an_agent_that_falls_silent_for_two_ten_and_sixty_seconds_costs_no_request() {
    for policy in ["aya", "lc", "rr"] {
        let telemetry = Telemetry { until: Some(Duration::from_secs(5)), ..Telemetry::default() };
        let config = SimConfig { telemetry, breaker: true, ..config("4*a100-8b", policy) };
        let results = run(&config, &steady(1_400, 50, 800, 60));
        assert!(results.requests.iter().all(|r| r.outcome == Outcome::Completed), "{policy}");
        for (from, to) in [(7.0, 15.0), (15.0, 65.0), (65.0, 70.0)] {
            for engine in 0..4 {
                let part = share(&results, engine, from, to);
                assert!((0.15..=0.35).contains(&part), "{policy}: {part} to engine {engine} from {from} s");
            }
        }
    }
}
