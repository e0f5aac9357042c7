//! What a tired operator reads, as golden texts.

use serde_json::json;

use super::*;

/// Placed at the second try.
pub(crate) fn sample() -> RecordJson {
    let scored = |endpoint: &str, total: f64, ttft: f64| {
        json!({"endpoint": endpoint, "verdict": "scored", "total": total, "age_ms": 250.0, "freshness": "fresh", "in_flight": 2,
            "terms": {"predicted_ttft_s": ttft, "predicted_tpot_s": 0.0112, "ttft_s": ttft, "decode_s": total - ttft,
                "harm_s": 0.0, "slo_s": 0.0, "uncertainty_s": 0.0}})
    };
    serde_json::from_value(json!({
        "decision_id": "d1", "request_id": "r1", "time": "2026-11-21T04:24:34.125Z", "time_unix_s": 1_795_235_074.125,
        "version": 1, "model": "llama", "policy": "aya", "snapshot_generation": 42, "seed": 7,
        "request": {"kind": "chat", "stream": true, "prompt_bytes": 400, "prompt_tokens_estimate": 100,
            "expected_output_tokens": 200.0},
        "placement": {"result": "placed"}, "chosen": "gpu-3", "margin_s": 0.55, "runner_up": "gpu-2",
        "candidates": [
            {"endpoint": "gpu-1", "verdict": "rejected", "rejection": {"reason": "already_tried"}, "age_ms": 120.0,
                "freshness": "fresh", "in_flight": 0},
            scored("gpu-2", 2.63, 0.31),
            scored("gpu-3", 2.08, 0.08),
            {"endpoint": "gpu-4", "verdict": "rejected", "rejection": {"reason": "slots_full", "in_flight": 4, "limit": 4},
                "age_ms": 9200.0, "freshness": "stale", "in_flight": 4},
            {"endpoint": "gpu-5", "verdict": "rejected", "rejection": {"reason": "model_not_served"}, "age_ms": 9.0,
                "freshness": "fresh", "in_flight": 0},
        ],
        "attempts": [
            {"endpoint": "gpu-1", "started_ms": 2.0, "result": "failed", "reason": "connection refused"},
            {"endpoint": "gpu-3", "started_ms": 9.1, "result": "answered"},
        ],
        "queue_ms": 1.5,
        "outcome": {"status": "completed", "http_status": 200, "ttft_ms": 81.2, "itl_mean_ms": 11.4, "e2e_ms": 900.0,
            "prompt_tokens": 98, "completion_tokens": 40, "finish_reason": "stop"},
    }))
    .unwrap()
}

#[track_caller]
fn check(record: &RecordJson, expect: &str) {
    let shown = render(record, Style { colour: false });
    assert!(shown == expect.trim_start_matches('\n'), "\n{shown}\n");
}

#[track_caller]
fn headline_is(record: &RecordJson, expect: &str) {
    assert_eq!(headline(record), expect);
}

#[test]
fn a_wait_and_a_refusal_are_told_with_their_numbers() {
    let mut record = sample();
    record.decision.request.priority = Some("batch".to_owned());
    record.admission.queue_position = Some(3);
    record.queue_ms = 420.0;
    let went =
        "Went to gpu-3: lowest cost of 2 endpoints that could take it, 0.550 s ahead of gpu-2, 2 rejected.";
    for (what, because) in [
        (None, "."),
        (Some(WaitedFor::Room), ": every endpoint that fits was full."),
        (Some(WaitedFor::ReadyEndpoint), ": no endpoint of the model was ready."),
        (Some(WaitedFor::Turn), ": others waited before it."),
    ] {
        record.admission.waited_for = what;
        let waited = "It waited 420 ms as batch, 3 ahead of it when it came";
        headline_is(&record, &format!("{went} {waited}{because}"));
    }
    for (reason, expect) in [
        (
            "queueing",
            "Refused as overload: it would have lost 1.30 s to others, and batch requests are refused around 500 ms \
             (with probability 0.75).",
        ),
        (
            "deadline",
            "Refused as overload: a wait of 1.30 s in the queue was predicted, and it may wait 500 ms.",
        ),
        (
            "misses",
            "Refused as overload: 98 objectives would have been missed per 100 requests, and batch requests are refused \
             around 80 (with probability 0.75, long prompts and short ones alike).",
        ),
    ] {
        record.admission.shed = Some(aya_trace::ShedJson {
            reason: reason.to_owned(),
            predicted_s: Some(1.3),
            allowed_s: Some(0.5),
            predicted_misses_ratio: Some(0.98),
            allowed_misses_ratio: Some(0.8),
            probability: 0.75,
        });
        headline_is(&record, expect);
    }
}

#[test]
fn a_deadline_that_passed_is_the_reason_that_is_told() {
    let mut record = sample();
    record.decision.request.deadline_ms = Some(500.0);
    record.outcome.error = Some("deadline_exceeded".to_owned());
    (record.admission.queue_position, record.queue_ms) = (Some(3), 500.2);
    for (placement, held) in [
        (Some(PlacementJson::HeldAllFull), " (not placed: every endpoint that fits is full)"),
        (Some(PlacementJson::HeldNoneReady), " (not placed: no endpoint of the model is ready)"),
        (None, ""),
    ] {
        record.decision.placement = placement;
        let waited = "It waited 500 ms, 3 ahead of it when it came.";
        headline_is(&record, &format!("Not sent: its client's deadline of 500 ms passed{held}. {waited}"));
    }
}

#[test]
fn a_placement_is_explained_from_the_reason_down_to_the_outcome() {
    check(
        &sample(),
        "
Went to gpu-3: lowest cost of 2 endpoints that could take it, 0.550 s ahead of gpu-2, 2 rejected.

chat, for llama, streaming, about 100 prompt tokens, 200 expected
decision d1, request r1, policy aya, snapshot 42
arrived 2026-11-21T04:24:34.125Z

scored (seconds; the smallest cost wins)
     ENDPOINT   COST  = TTFT  + ANSWER  + HARM  + SLO  + STALE  PREDICTED TTFT  PER TOKEN  IN FLIGHT  DATA
  >  gpu-3     2.080   0.080     2.000   0.000  0.000    0.000           80 ms      11 ms          2  250 ms ago
     gpu-2     2.630   0.310     2.320   0.000  0.000    0.000          310 ms      11 ms          2  250 ms ago

rejected
  ENDPOINT  BECAUSE IT                       DATA
  gpu-1     has already failed this request  120 ms ago
  gpu-4     is full: 4 of 4 slots taken      9.20 s ago, stale
  1 endpoint does not serve this model

attempts
  ENDPOINT  SENT AFTER  RESULT
  gpu-1         2.0 ms  failed: connection refused
  gpu-3         9.1 ms  answered

outcome
  completed, HTTP 200, 1.5 ms in the queue, first token after 81 ms, 11 ms between tokens, 900 ms in all, 98 prompt tokens, 40 new tokens, finish: stop",
    );
}

#[test]
fn cached_tokens_and_expected_misses_are_shown_where_they_are_known() {
    let mut record = sample();
    record.decision.request.prompt_tokens_estimate = Some(2_100);
    for (endpoint, cached, expected, at_least) in
        [("gpu-3", 1_834, Some(0.25), None), ("gpu-2", 0, None, Some(0.0))]
    {
        let candidates = &mut record.decision.candidates;
        let candidate = candidates.iter_mut().find(|c| c.endpoint == endpoint).unwrap();
        candidate.cached_tokens = Some(cached);
        candidate.total = candidate.total.map(|total| total + expected.unwrap_or(0.0));
        let terms = candidate.terms.as_mut().unwrap();
        (terms.miss_s, terms.miss_at_least_s) = (expected, at_least);
    }
    let shown = render(&record, Style { colour: false });
    for expect in [
        "2 rejected. About 1,834 of 2,100 prompt tokens cached there.",
        "+ SLO  + MISSES  + STALE  PREDICTED TTFT  PER TOKEN  CACHED  IN FLIGHT",
        "0.000     0.250    0.000           80 ms      11 ms   1,834",
        "0.000  >= 0.000    0.000          310 ms      11 ms       0",
    ] {
        assert!(shown.contains(expect), "{expect:?} in\n{shown}");
    }
}

#[test]
fn the_headline_says_what_the_choice_came_down_to() {
    let mut record = sample();
    record.decision.ties = Some(2);
    headline_is(
        &record,
        "Went to gpu-3: 2 endpoints had the same lowest cost, the seed chose among them, 2 rejected.",
    );
    record = sample();
    (record.decision.runner_up, record.decision.margin_s) = (None, None);
    record.decision.candidates.retain(|c| c.endpoint == "gpu-3");
    headline_is(&record, "Went to gpu-3: the only endpoint that could take it.");
}

#[test]
fn a_policy_that_ranks_by_other_numbers_shows_scores_and_those_it_left_out() {
    const LEFT_OUT: f64 = 1e12;
    for (policy, totals, expect, table) in [
        (
            "rr",
            (1.0, 0.0),
            "Went to gpu-3: by policy rr: lowest score of 2 endpoints that could take it, 1.000 ahead of gpu-2, \
             2 rejected.",
            "gpu-2     1.000  0.310",
        ),
        (
            "p2c",
            (LEFT_OUT + 4.0, 3.0),
            "Went to gpu-3: by policy p2c: the only endpoint drawn of 2 that could take it, 2 rejected.",
            "gpu-2     not drawn  0.310",
        ),
        (
            "chbl",
            (LEFT_OUT, 0.5),
            "Went to gpu-3: by policy chbl: the only endpoint kept of 2 that could take it, 2 rejected.",
            "gpu-2     left out  0.310",
        ),
    ] {
        let mut record = sample();
        record.decision.policy = Some(policy.to_owned());
        record.decision.margin_s = Some(totals.0 - totals.1);
        record.decision.candidates[1].total = Some(totals.0);
        record.decision.candidates[2].total = Some(totals.1);
        headline_is(&record, expect);
        let shown = render(&record, Style { colour: false });
        let title =
            format!("scored by policy {policy} (the smallest score wins; aya's cost terms are predicted,");
        for part in [title.as_str(), table, "TTFT  ANSWER   HARM    SLO  STALE"] {
            assert!(shown.contains(part), "{part:?} in\n{shown}");
        }
        assert!(!shown.contains("COST") && !shown.contains("000000"), "{shown}");
    }
    let mut new = sample();
    new.decision.policy = Some("p2c".to_owned());
    (new.decision.margin_s, new.decision.runner_up) = (None, None);
    let out = &mut new.decision.candidates[1];
    (out.left_out, out.total) = (true, None);
    new.decision.candidates[2].total = Some(3.0);
    headline_is(
        &new,
        "Went to gpu-3: by policy p2c: the only endpoint drawn of 2 that could take it, 2 rejected.",
    );
    let mut record = sample();
    record.decision.policy = Some("p2c".to_owned());
    let mut third = record.decision.candidates[1].clone();
    (third.endpoint, third.total) = ("gpu-6".to_owned(), Some(LEFT_OUT));
    record.decision.candidates.push(third);
    record.decision.candidates[1].total = Some(3.0);
    headline_is(
        &record,
        "Went to gpu-3: by policy p2c: lowest score of 2 endpoints drawn of 3 that could take it, 0.550 ahead of \
         gpu-2, 2 rejected.",
    );
}

#[test]
fn what_failed_everywhere_says_so_first() {
    let mut record = sample();
    record.attempts[0].reason = Some("connect".to_owned());
    record.attempts[1].result = "failed".to_owned();
    record.attempts[1].reason = Some("timeout".to_owned());
    let went = "gpu-3: lowest cost of 2 endpoints that could take it, 0.550 s ahead of gpu-2, 2 rejected.";
    headline_is(&record, &format!("Failed on 2 endpoints (connect, timeout). Last went to {went}"));
    record.attempts.remove(0);
    headline_is(&record, &format!("Failed on 1 endpoint (timeout). Went to {went}"));
    record.decision.placement = Some(PlacementJson::HeldNoneReady);
    record.queue_ms = 0.0;
    headline_is(&record, "Failed on 1 endpoint (timeout). Not placed: no endpoint of the model is ready.");
}

#[test]
fn what_was_not_placed_says_why() {
    let mut record = sample();
    record.decision.chosen = None;
    for (placement, expect) in [
        (PlacementJson::HeldAllFull, "Not placed: every endpoint that fits is full."),
        (PlacementJson::HeldNoneReady, "Not placed: no endpoint of the model is ready."),
        (PlacementJson::RefusedUnknownModel, "Refused: no endpoint serves this model."),
        (
            PlacementJson::RefusedTooLong { need_tokens: 9000, largest_tokens: 8192 },
            "Refused: 9000 tokens needed, the largest context is 8192.",
        ),
    ] {
        record.decision.placement = Some(placement);
        headline_is(&record, expect);
    }
    for (error, expect) in [
        (
            "displaced",
            "Not placed: displaced in the full queue by a more urgent request, or one of a tenant with fewer waiting.",
        ),
        ("queue_full", "Refused: it would have had to wait, and the queue was full at its limit."),
    ] {
        record.outcome.error = Some(error.to_owned());
        for placement in [Some(PlacementJson::HeldAllFull), None] {
            record.decision.placement = placement;
            headline_is(&record, expect);
        }
    }
    record.decision.placement = None;
    record.outcome.error = Some("invalid_json".to_owned());
    headline_is(&record, "Refused before any endpoint was considered: invalid_json.");
}

#[test]
fn an_engines_words_cannot_move_the_cursor() {
    let mut record = sample();
    record.attempts[0].reason = Some("\u{1b}[2Jgone".to_owned());
    record.outcome.finish_reason = Some("\u{1b}[31m".to_owned());
    assert!(!render(&record, Style { colour: false }).contains('\u{1b}'));
}
