//! The contract of the JSON: its names, what is left out, and what older readers make of newer writers.

use std::sync::Arc;

use aya_domain::{
    Candidate, Chosen, EndpointId, Freshness, ModelId, MonoTime, PolicyName, Priority, Rejection, TenantId,
    Tokens, Verdict,
};
use serde_json::json;

use super::*;
use crate::record::Admission;

/// A request that was placed at the second try.
pub(crate) fn record() -> Record {
    Record {
        decision_id: DecisionId::parse("d1").unwrap(),
        request_id: RequestId::parse("r1").unwrap(),
        time: "2026-11-21T04:24:34.125Z".parse().unwrap(),
        kind: RequestKind::Chat,
        request: Some(Request {
            id: RequestId::parse("r1").unwrap(),
            sequence: 1,
            model: ModelId::parse("llama").unwrap(),
            kind: RequestKind::Chat,
            stream: true,
            prompt_bytes: 400,
            prompt_tokens: Tokens(100),
            prompt_tokens_min: Tokens(9),
            max_tokens: None,
            expected_output: 200.5,
            expected_residual: 150.0,
            arrived_at: MonoTime::from_millis(5),
            priority: Priority::default(),
            tenant: TenantId::default(),
            deadline: None,
            slo: None,
            prefix: aya_domain::PromptPrefix::default(),
            tried: vec![],
        }),
        decision: Some(Arc::new(decision())),
        attempts: vec![
            attempt("a", 2, AttemptResult::Failed { reason: "connect".to_owned() }),
            attempt("c", 9, AttemptResult::Answered),
        ],
        queue: Duration::from_micros(1_500),
        admission: Admission::default(),
        outcome: RequestOutcome {
            status: OutcomeStatus::Completed,
            http_status: Some(200),
            ttft: Some(Duration::from_micros(81_234)),
            itl_mean: None,
            e2e: Duration::from_millis(900),
            prompt_tokens: Some(Tokens(98)),
            completion_tokens: Some(Tokens(1)),
            finish_reason: Some("stop".to_owned()),
            error: None,
        },
    }
}

fn attempt(endpoint: &str, started_ms: u64, result: AttemptResult) -> Attempt {
    let endpoint = EndpointId::parse(endpoint).unwrap();
    Attempt { endpoint, started: Duration::from_millis(started_ms), result, continues: None }
}

fn decision() -> Decision {
    let directory: Vec<_> = ["a", "b", "c"].iter().map(|id| EndpointId::parse(id).unwrap()).collect();
    let candidate = |at: u32, verdict, age: Option<u64>| Candidate {
        endpoint: EndpointIndex(at),
        verdict,
        freshness: Freshness::Fresh,
        age: age.map(Duration::from_millis),
        missing: aya_domain::Facts::default(),
        own_in_flight: at,
        cached: (at == 2).then_some(Tokens(64)),
    };
    let slow = aya_domain::Condition {
        cause: aya_domain::Cause::Xid { code: 31 },
        action: aya_domain::Action::Derate(aya_domain::Ratio::clamped(0.5)),
        braked: None,
        gpu: aya_domain::GpuUuid::parse("G1").ok(),
        since: MonoTime::ZERO,
        recovering: false,
    };
    let misses = Misses::Expected(0.0);
    let terms = Terms { predicted_ttft_s: 0.08, ttft_s: 0.08, decode_s: 2.0, misses, ..Terms::default() };
    let lost = Terms { misses: Misses::AtLeast(30.0), ..Terms::default() };
    Decision {
        policy: PolicyName::parse("aya").unwrap(),
        seed: u64::MAX,
        snapshot_generation: 42,
        directory: Arc::from(directory),
        candidates: vec![
            candidate(0, Verdict::Rejected(Rejection::AlreadyTried), Some(120)),
            candidate(1, Verdict::Scored { total: f64::INFINITY, terms: lost }, None),
            candidate(2, Verdict::Scored { total: 2.08, terms }, Some(250)),
        ],
        conditions: Arc::from([(EndpointIndex(0), Arc::from([slow]))]),
        outcome: Outcome::Placed(Chosen {
            endpoint: EndpointIndex(2),
            total: 2.08,
            margin_s: Some(0.5),
            runner_up: Some(EndpointIndex(1)),
            ties: 1,
        }),
    }
}

#[test]
fn who_was_left_out_has_no_total_and_nobody_is_ahead_of_it() {
    let mut decision = decision();
    decision.candidates[1].verdict = Verdict::Scored { total: 1e12 + 4.0, terms: Terms::default() };
    let (ids, time) =
        ((DecisionId::parse("d").unwrap(), RequestId::parse("r").unwrap()), WallTime::from_unix_ms(1));
    let json = decision_json((&ids.0, &ids.1), time, RequestKind::Chat, None, Some(&decision));
    assert_eq!((json.margin_s, json.runner_up), (None, None));
    assert_eq!((json.candidates[1].total, json.candidates[1].left_out), (None, true));
    assert_eq!((json.candidates[2].total, json.candidates[2].left_out), (Some(2.08), false));
}

#[test]
fn a_record_has_the_names_of_the_contract() {
    let json = serde_json::to_value(RecordJson::from(&record())).unwrap();
    let zero = 0.0;
    assert_eq!(
        json,
        json!({
            "decision_id": "d1", "request_id": "r1", "time": "2026-11-21T04:24:34.125Z",
            "time_unix_s": 1_795_235_074.125, "version": 1, "model": "llama", "policy": "aya",
            "snapshot_generation": 42, "seed": u64::MAX,
            "request": {"kind": "chat", "priority": "standard", "tenant": "default", "stream": true, "prompt_bytes": 400, "prompt_tokens_estimate": 100,
                "expected_output_tokens": 200.5},
            "placement": {"result": "placed"},
            "chosen": "c", "margin_s": 0.5, "runner_up": "b",
            "candidates": [
                {"endpoint": "a", "verdict": "rejected", "rejection": {"reason": "already_tried"}, "age_ms": 120.0,
                    "freshness": "fresh", "in_flight": 0,
                    "conditions": [{"rule": "xid", "action": "derate", "cause": "XID 31", "xid": 31, "gpu": "G1",
                        "speed_ratio": 0.5, "recovering": false}], "speed_ratio": 0.5},
                {"endpoint": "b", "verdict": "scored", "freshness": "fresh", "in_flight": 1, "terms": {
                    "predicted_ttft_s": zero, "predicted_tpot_s": zero, "ttft_s": zero, "decode_s": zero, "harm_s": zero,
                    "slo_s": zero, "miss_at_least_s": 30.0, "uncertainty_s": zero}},
                {"endpoint": "c", "verdict": "scored", "total": 2.08, "age_ms": 250.0, "freshness": "fresh",
                    "in_flight": 2, "cached_tokens": 64, "terms": {"predicted_ttft_s": 0.08, "predicted_tpot_s": zero, "ttft_s": 0.08,
                    "decode_s": 2.0, "harm_s": zero, "slo_s": zero, "miss_s": zero,
                    "uncertainty_s": zero}},
            ],
            "attempts": [
                {"endpoint": "a", "started_ms": 2.0, "result": "failed", "reason": "connect"},
                {"endpoint": "c", "started_ms": 9.0, "result": "answered"},
            ],
            "queue_ms": 1.5,
            "outcome": {"status": "completed", "http_status": 200, "ttft_ms": 81.234, "e2e_ms": 900.0,
                "prompt_tokens": 98, "completion_tokens": 1, "finish_reason": "stop"},
        })
    );
}

#[test]
fn a_record_survives_the_trip() {
    let json = RecordJson::from(&record());
    let text = serde_json::to_string(&json).unwrap();
    assert_eq!(serde_json::from_str::<RecordJson>(&text).unwrap(), json);
}

#[test]
fn every_rejection_names_its_reason_as_the_domain_does_and_survives_the_trip() {
    let (need, limit) = (Tokens(5), Tokens(4));
    for rejection in [
        Rejection::ModelNotServed,
        Rejection::NotServing { phase: aya_domain::Phase::Draining },
        Rejection::Unhealthy,
        Rejection::HealthUnknown,
        Rejection::GpuFault { action: aya_domain::Action::Fail, cause: aya_domain::Cause::Xid { code: 79 } },
        Rejection::AlreadyTried,
        Rejection::Cooling { remaining: Duration::from_millis(3) },
        Rejection::ContextTooLong { need, limit, certain: true },
        Rejection::KvPoolTooSmall { need, limit },
        Rejection::VramShort { need: aya_domain::Bytes(2), free: aya_domain::Bytes(1) },
        Rejection::SlotsFull { in_flight: 4, limit: 4 },
        Rejection::Backlogged { wait_s: f64::INFINITY, limit_s: 0.5 },
    ] {
        let json = rejection_json(&rejection, &[]);
        let value = serde_json::to_value(&json).unwrap();
        assert_eq!(value["reason"], rejection.as_str());
        assert_eq!(serde_json::from_value::<RejectionJson>(value).unwrap(), json);
    }
}

#[test]
fn a_refused_request_leaves_out_what_it_never_had() {
    let bare = Record { request: None, decision: None, attempts: vec![], ..record() };
    let json = serde_json::to_value(RecordJson::from(&bare)).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "attempts",
            "candidates",
            "decision_id",
            "outcome",
            "queue_ms",
            "request",
            "request_id",
            "time",
            "time_unix_s",
            "version"
        ]
    );
    assert_eq!(json["request"], json!({"kind": "chat"}));
}

#[test]
fn a_newer_writers_words_do_not_stop_an_older_reader() {
    let mut json = serde_json::to_value(RecordJson::from(&record())).unwrap();
    json["version"] = json!(9);
    json["novelty"] = json!({"x": 1});
    json["candidates"][0]["rejection"] = json!({"reason": "wrong_moon_phase", "phase": 3});
    json["placement"] = json!({"result": "teleported"});
    let read: RecordJson = serde_json::from_value(json).unwrap();
    assert_eq!(read.decision.candidates[0].rejection, Some(RejectionJson::Unknown));
    assert_eq!(read.decision.placement, Some(PlacementJson::Unknown));
}

#[test]
fn a_hold_and_a_refusal_say_why() {
    for (outcome, expect) in [
        (Outcome::Hold(HoldReason::AllFull), json!({"result": "held_all_full"})),
        (Outcome::Hold(HoldReason::NoneReady), json!({"result": "held_none_ready"})),
        (Outcome::Refused(RefusalReason::UnknownModel), json!({"result": "refused_unknown_model"})),
        (
            Outcome::Refused(RefusalReason::TooLong { need: Tokens(9), largest: Tokens(8) }),
            json!({"result": "refused_too_long", "need_tokens": 9, "largest_tokens": 8}),
        ),
    ] {
        assert_eq!(serde_json::to_value(placement_json(&outcome)).unwrap(), expect);
    }
}
