//! What each rule of the field chooses, on fleets in a line of text.

use aya_domain::{Decision, ModelId, Reading, Request, RequestId};

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
fn scraped_queues_and_caches_are_weighed_and_missing_ones_score_nothing() {
    let mut fleet = fleet("a: a100 | b: a100 | c: a100");
    let mut tell = |at: usize, waiting: u32, used: f64| {
        fleet.snapshot.endpoints[at].waiting = Some(Reading::new(waiting, NOW));
        fleet.snapshot.endpoints[at].kv_used = Some(Reading::new(aya_domain::Ratio::clamped(used), NOW));
    };
    tell(0, 4, 0.1);
    tell(1, 0, 0.5);
    assert_eq!(outcome(&decide_with(&fleet, "gie", &[], 0)), "b");
    assert_eq!(outcome(&decide_with(&fleet, "gie", &[1000, 0, 0], 0)), "a");
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
