//! Records found again, with what was computed from their inputs, and searches that end.

use std::sync::Arc;

use super::*;
use crate::inputs::tests::World;
use crate::json::tests::record;
use crate::log::DecisionLog;

/// Segments of decisions, each with the record of its request; the ids in order.
fn log(decisions: usize, segment_max: usize) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DecisionLog::open(dir.path(), segment_max, 100).unwrap();
    let mut world = World::new(11, 6);
    let mut ids = Vec::new();
    for _ in 0..decisions {
        world.step();
        let decision = world.decide(&mut log);
        let mut newest = None;
        for segment in segments_in(dir.path()).unwrap() {
            let _ = visit(&segment, |_, case| newest = Some(case.recorded.decision_id.clone()));
        }
        let id = newest.unwrap();
        let ended = crate::record::Record {
            decision_id: DecisionId::parse(&id).unwrap(),
            request_id: RequestId::parse(&format!("r-{id}")).unwrap(),
            decision: Some(Arc::new(decision)),
            ..record()
        };
        log.record(&RecordJson::beside_inputs(&ended)).unwrap();
        ids.push(id);
    }
    log.flush().unwrap();
    (dir, ids)
}

fn search(dir: &Path, id: &str, bytes_max: u64) -> &'static str {
    match find(dir, id, bytes_max).unwrap() {
        Found::Record(record) if record.decision.candidates.len() == 6 => "explained",
        Found::Record(_) => "bare",
        Found::Absent => "absent",
        Found::GaveUp => "gave up",
    }
}

#[test]
fn every_record_is_found_by_either_id_and_explained_from_its_inputs() {
    let (dir, ids) = log(30, 8 * 1024);
    assert!(segments_in(dir.path()).unwrap().len() > 3);
    for id in &ids {
        assert_eq!(search(dir.path(), id, u64::MAX), "explained", "{id}");
        assert_eq!(search(dir.path(), &format!("r-{id}"), u64::MAX), "explained", "{id}");
        let Found::Record(found) = find(dir.path(), id, u64::MAX).unwrap() else { panic!("{id} is gone") };
        assert_eq!(
            (&found.decision.decision_id, found.decision.time.as_str()),
            (id, "2026-11-21T04:24:34.125Z")
        );
    }
    assert_eq!(search(dir.path(), "d", u64::MAX), "absent", "a part of an id is none");
}

#[test]
fn the_newest_is_found_within_the_limit_and_the_oldest_is_given_up() {
    let (dir, ids) = log(30, 8 * 1024);
    assert_eq!(search(dir.path(), ids.last().unwrap(), 16 * 1024), "explained");
    assert_eq!(search(dir.path(), ids.first().unwrap(), 16 * 1024), "gave up");
    assert_eq!(search(dir.path(), "nobody", 0), "gave up");
    assert_eq!(search(tempfile::tempdir().unwrap().path(), "nobody", 0), "absent");
}

#[test]
fn a_record_without_its_inputs_is_better_than_none() {
    let (dir, ids) = log(1, 1 << 20);
    let segment = segments_in(dir.path()).unwrap().remove(0);
    let text = std::fs::read_to_string(&segment).unwrap();
    let records: Vec<&str> = text.lines().filter(|line| !line.starts_with("{\"line\":\"decided\"")).collect();
    std::fs::write(&segment, records.join("\n") + "\n{\"torn").unwrap();
    assert_eq!(search(dir.path(), &ids[0], u64::MAX), "bare");
}
