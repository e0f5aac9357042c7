//! What the ring keeps.

use std::time::Duration;

use aya_domain::{DecisionId, RequestId, RequestKind};
use aya_trace::{Admission, Attempt, AttemptResult, OutcomeStatus, RequestOutcome};

use super::*;

/// A record with so many attempts, each of which makes it larger.
fn record(id: usize, attempts: usize) -> Arc<Record> {
    let attempt = Attempt {
        endpoint: "node/0".parse().unwrap(),
        started: Duration::ZERO,
        result: AttemptResult::Answered,
        continues: None,
    };
    Arc::new(Record {
        decision_id: DecisionId::parse(&format!("d{id}")).unwrap(),
        request_id: RequestId::parse(&format!("r{id}")).unwrap(),
        time: "2026-11-21T04:24:34.125Z".parse().unwrap(),
        kind: RequestKind::Chat,
        request: None,
        decision: None,
        attempts: vec![attempt; attempts],
        queue: Duration::ZERO,
        admission: Admission::default(),
        outcome: RequestOutcome {
            status: OutcomeStatus::Completed,
            http_status: Some(200),
            ttft: None,
            itl_mean: None,
            e2e: Duration::ZERO,
            prompt_tokens: None,
            completion_tokens: None,
            finish_reason: None,
            error: None,
        },
    })
}

/// Records with so many attempts each go in; which are left, oldest first?
fn check(capacity: usize, bytes_max: usize, attempts: &[usize], expect: &[usize]) {
    let ring = Ring::new(capacity, bytes_max);
    for (id, attempts) in attempts.iter().enumerate() {
        ring.push(&mut vec![record(id, *attempts)]);
    }
    let kept = ring.kept.read();
    let left: Vec<_> = kept.records.iter().map(|record| record.decision_id.as_str().to_owned()).collect();
    let expect: Vec<_> = expect.iter().map(|id| format!("d{id}")).collect();
    assert_eq!(left, expect, "{capacity} records, {bytes_max} bytes, {attempts:?}");
    assert_eq!(kept.bytes, kept.records.iter().map(|record| record.size()).sum::<usize>());
}

#[test]
fn the_oldest_records_leave_at_the_limit_of_their_number_or_of_their_bytes() {
    let small = record(0, 1).size();
    let large = record(0, 100).size();
    assert!(large > 2 * small);
    check(3, usize::MAX, &[1, 1, 1, 1, 1], &[2, 3, 4]);
    check(100, 3 * small, &[1, 1, 1, 1, 1], &[2, 3, 4]);
    // One large record takes the place of several small ones.
    check(100, large + small, &[1, 1, 1, 100], &[2, 3]);
    // The newest is kept whatever its size.
    check(100, small, &[1, 100], &[1]);
}
