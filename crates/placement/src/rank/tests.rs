//! What each rule of the field chooses, on fleets in a line of text.

use aya_domain::{Decision, ModelId, Reading, Request, RequestId};

use aya_domain::{Fact, Verdict};

use super::*;
use crate::knowledge::Knowledge;
use crate::testkit::{Fleet, Known, KnownEndpoint, NOW, fleet, outcome, request};
use crate::{Policy, decide_knowing};

fn check(policy: &str, text: &str, expect: &str) {
    let decision = fleet(text).decide(&request(1000, None), policy, 1);
    assert_eq!(outcome(&decision), expect, "{policy}: {text}");
}

fn decide_with(fleet: &Fleet, policy: &str, cached: &[u64], affinity: u64) -> Decision {
    let known = |cached: &u64| KnownEndpoint { cached: *cached, ..KnownEndpoint::default() };
    let known = Known(cached.iter().map(known).collect());
    let knowledge = Knowledge { endpoints: Some(&known), lengths: None, affinity: Some(affinity) };
    let policy = Policy::named(policy).unwrap();
    decide_knowing(&fleet.snapshot, &fleet.loads, &knowledge, &request(1000, None), &policy, NOW, 1)
}

/// How often each endpoint is chosen in 1,000 requests of an unchanging fleet.
fn shares(policy: &str, text: &str) -> Vec<usize> {
    let fleet = fleet(text);
    let mut shares = vec![0; fleet.snapshot.endpoints.len()];
    for sequence in 0..1000 {
        let request = Request { sequence, ..request(100, None) };
        let decision = fleet.decide(&request, policy, splitmix64(sequence));
        shares[decision.chosen().unwrap().endpoint.get()] += 1;
    }
    shares
}

#[test]
fn rules_that_look_at_one_endpoint() {
    for (policy, text, expect) in [
        ("lc", "a: h100 nd=3 | b: l4 nd=2", "b"),
        ("wlc", "a: h100 nd=9 K=9 | b: l4 nd=1 K=1", "a"),
        ("wlc", "a: h100 nd=25 K=9 | b: l4 nd=1 K=1", "b"),
        ("lot", "a: h100 nd=2 K=9000 | b: l4 nd=3 K=3000", "b"),
        ("wlot", "a: h100 nd=2 K=9000 | b: l4 nd=3 K=3000", "a"),
        ("kv-cost", "a: a100 nd=1 K=5000 | b: a100 np=1 P=2000", "b"),
        ("kv-cost", "a: a100 nd=1 K=3000 | b: a100 np=1 P=2000", "a"),
        ("least-predicted-ttft", "a: l4 | b: a100 np=1 P=2000", "b"),
        ("least-predicted-ttft", "a: h100 np=1 P=5000 | b: a100", "b"),
        ("expected-wait", "a: a100 n=3 nd=3 | b: a100 n=2 nd=2", "b"),
        ("sticky", "a: a100 np=1 P=500 | b: a100 np=1 P=400", "b"),
    ] {
        check(policy, text, expect);
    }
}

#[test]
fn weighted_turns_are_in_proportion_to_speed() {
    assert_eq!(shares("rr", "a: h100 | b: l4"), [500, 500]);
    let shares = shares("wrr", "a: h100 | b: a100 | c: l4");
    for (share, expect) in shares.iter().zip([667, 267, 67]) {
        assert!(share.abs_diff(expect) <= 3, "{shares:?}");
    }
}

#[test]
fn of_two_drawn_ones_the_emptier_is_taken() {
    let shares = shares("p2c", "a: a100 nd=1 | b: a100 nd=2 | c: a100 nd=3");
    assert_eq!(shares[2], 0, "the fullest never wins: {shares:?}");
    assert!(shares[0].abs_diff(667) < 60, "{shares:?}");
    check("p2c", "a: a100", "a");
}

#[test]
fn a_key_stays_where_it_is_until_that_is_too_full() {
    let idle = fleet("a: a100 | b: a100 | c: a100 | d: a100");
    for policy in ["chbl", "ip-hash"] {
        let homes: Vec<String> = (0..40).map(|key| outcome(&decide_with(&idle, policy, &[], key))).collect();
        let again: Vec<String> = (0..40).map(|key| outcome(&decide_with(&idle, policy, &[], key))).collect();
        assert_eq!(homes, again);
        let mut used = homes;
        used.sort();
        used.dedup();
        assert_eq!(used.len(), 4, "{policy}");
    }
    let full = fleet("a: a100 nd=9 | b: a100 | c: a100 | d: a100");
    assert!((0..40).all(|key| outcome(&decide_with(&full, "chbl", &[], key)) != "a"));
}

#[test]
fn a_cached_prefix_attracts_within_bounds() {
    let even = fleet("a: a100 | b: a100");
    for policy in ["aya", "sticky", "gie", "kv-cost", "least-predicted-ttft"] {
        assert_eq!(outcome(&decide_with(&even, policy, &[0, 900], 0)), "b", "{policy}");
        assert_eq!(outcome(&decide_with(&even, policy, &[900, 0], 0)), "a", "{policy}");
    }
    // 2 s of prefill are 29,000 tokens on an A100; `hold` would stop at half a second.
    let lead = |policy: &str, tokens: u64| {
        let fleet = fleet(&format!("a: a100 np=1 P={tokens} | b: a100"));
        outcome(&decide_with(&fleet, policy, &[900, 0], 0))
    };
    assert_eq!(lead("sticky", 7_000), "a");
    assert_eq!(lead("aya", 7_000), "b");
}

#[test]
fn scraped_queues_and_caches_are_weighed_and_missing_ones_count_as_the_mean_and_are_told() {
    let mut fleet = fleet("a: a100 | b: a100 | c: a100");
    let mut tell = |at: usize, waiting: u32, used: f64| {
        fleet.snapshot.endpoints[at].waiting = Some(Reading::new(waiting, NOW));
        fleet.snapshot.endpoints[at].kv_used = Some(Reading::new(aya_domain::Ratio::clamped(used), NOW));
    };
    tell(0, 4, 0.1);
    tell(1, 0, 0.5);
    assert_eq!(outcome(&decide_with(&fleet, "gie", &[], 0)), "b");
    assert_eq!(outcome(&decide_with(&fleet, "gie", &[1000, 0, 0], 0)), "a");
    let decision = decide_with(&fleet, "gie", &[], 0);
    let missing = |at: usize| decision.candidates[at].missing.iter().map(Fact::as_str).collect::<Vec<_>>();
    assert_eq!((missing(0), missing(2)), (vec![], vec!["waiting", "kv_used"]));
    let total = |at: usize| match decision.candidates[at].verdict {
        Verdict::Scored { total, .. } => total,
        Verdict::Rejected(_) => panic!(),
    };
    assert!((total(2) - (total(0) + total(1)) / 2.0).abs() < 1e-9, "neither idle nor full");
    assert!(fleet.decide(&request(1000, None), "aya", 1).candidates.iter().all(|c| c.missing.is_empty()));
}

#[test]
fn response_times_rank_and_an_unknown_one_is_told() {
    let mut fleet = fleet("a: a100 nd=1 | b: a100 nd=2 | c: a100 nd=9");
    fleet.loads[0].response = Some(aya_domain::ResponseTimes { mean_s: 9.0, peak_s: 2.0, at: NOW });
    fleet.loads[1].response = Some(aya_domain::ResponseTimes { mean_s: 2.0, peak_s: 9.0, at: NOW });
    let decision = fleet.decide(&request(1000, None), "least-response-time", 1);
    assert_eq!(outcome(&decision), "c", "an endpoint without an answer yet is tried");
    assert_eq!(decision.candidates[2].missing.iter().collect::<Vec<_>>(), [Fact::ResponseTime]);
    fleet.loads[2].response = Some(aya_domain::ResponseTimes { mean_s: 9.0, peak_s: 9.0, at: NOW });
    assert_eq!(outcome(&fleet.decide(&request(1000, None), "least-response-time", 1)), "b");
}

#[test]
fn a_prefix_goes_to_its_best_holder_unless_the_load_is_out_of_balance() {
    let check = |text: &str, expect: &str| {
        assert_eq!(outcome(&decide_with(&fleet(text), "cache-aware", &[400, 900, 0], 0)), expect, "{text}");
    };
    check("a: a100 n=1 nd=1 | b: a100 n=30 nd=30 | c: a100", "b");
    check("a: a100 n=1 nd=1 | b: a100 n=130 nd=130 | c: a100", "c");
}

#[test]
fn a_composed_policy_weighs_filters_and_draws() {
    let farm = fleet("a: a100 nd=1 | b: a100 nd=2 | c: a100 nd=9");
    let shares = |scorers: &str, filters: &str, picker: &str| {
        let policy = Policy {
            scorers: scorers.split(',').map(|word| word.parse().unwrap()).collect(),
            filters: filters.split(',').filter(|w| !w.is_empty()).map(|word| word.parse().unwrap()).collect(),
            picker: picker.parse().unwrap(),
            ..Policy::named("aya").unwrap()
        };
        let mut shares = [0_u32; 3];
        for seed in 0..600 {
            let decision =
                crate::decide(&farm.snapshot, &farm.loads, &request(100, None), &policy, NOW, seed);
            shares[decision.chosen().unwrap().endpoint.get()] += 1;
        }
        shares
    };
    assert_eq!(shares("requests", "", "least"), [600, 0, 0]);
    assert_eq!(shares("requests=1,draw=0.5", "", "least"), [600, 0, 0]);
    let sampled = shares("requests", "sample=2", "least");
    assert!(sampled[0].abs_diff(400) < 50 && sampled[2] == 0, "{sampled:?}");
    let soft = shares("requests", "", "softmax=0.5");
    assert!(soft[0] > soft[1] && soft[1] > soft[2] && soft[2] > 20, "{soft:?}");
}

#[test]
fn speeds_that_an_operator_sets_outweigh_the_profile() {
    let fleet = fleet("a: h100 nd=3 | b: l4 nd=3");
    let mut policy = Policy::named("wlc").unwrap();
    let decide = |policy: &Policy| {
        outcome(&crate::decide(&fleet.snapshot, &fleet.loads, &request(100, None), policy, NOW, 1))
    };
    assert_eq!(decide(&policy), "a");
    policy.speeds.insert(aya_domain::EndpointId::parse("b").unwrap(), 20.0);
    assert_eq!(decide(&policy), "b");
}

#[test]
fn queueing_is_what_a_request_loses_to_those_before_it() {
    let queueing = |text: &str, prompt: u64| {
        let (fleet, request, policy) = (fleet(text), request(prompt, None), Policy::named("lc").unwrap());
        let decision = fleet.decide(&request, "lc", 1);
        crate::queueing_s(&decision, &fleet.snapshot, |at| fleet.loads[at.get()], &request, &policy)
    };
    for prompt in [100, 6000] {
        assert!(queueing("a: a100", prompt).unwrap() < 1e-9, "alone, however long the prompt");
        let behind = queueing("a: a100 np=1 P=4000 nd=60 K=60000", prompt).unwrap();
        assert!((0.15..0.4).contains(&behind), "{behind}");
    }
    let busy = "a: a100 np=1 P=4000 nd=60 K=60000";
    assert_eq!(queueing(busy, 100), queueing(busy, 6000), "the own length does not count");
    assert_eq!(queueing("a: a100 unhealthy", 100), None);
}

#[test]
fn every_policy_places_and_its_names_are_not_confused() {
    let other = Request {
        id: RequestId::parse("x").unwrap(),
        model: ModelId::parse("m").unwrap(),
        ..request(500, None)
    };
    for name in Policy::names() {
        let decision = fleet("a: h100 nd=3 K=900 | b: l4 | c: a100 np=1 P=90").decide(&other, name, 5);
        assert!(decision.chosen().is_some(), "{name}");
        assert_eq!(decision.policy.as_str(), name);
    }
}
