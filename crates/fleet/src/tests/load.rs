//! Our own requests are counted once, whatever the order of dispatch, sample and report.

use super::farm::{Farm, delta, full, loaded, with_health};
use aya_domain::{EngineHealth, EngineReport};

fn foreign(farm: &mut Farm, ms: u64) -> (u32, u32) {
    let foreign = farm.endpoint(ms, "a").foreign;
    (foreign.running, foreign.waiting)
}

#[test]
fn foreign_is_what_the_report_counts_beyond_ours_at_its_sample() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 0, 0, 0)]));
    let _ = farm.own(500, "a", 4, 4);
    let _ = farm.report(1_000, delta("n", 1, 2, vec![loaded("a", 6, 1, 10)]));
    assert_eq!(foreign(&mut farm, 1_001), (2, 1));
    let _ = farm.own(2_000, "a", 0, 0);
    assert_eq!(foreign(&mut farm, 2_001), (2, 1), "what we finish later is not in the reading");
    let _ = farm.report(2_500, delta("n", 1, 3, vec![loaded("a", 3, 0, 10)]));
    assert_eq!(foreign(&mut farm, 2_501), (3, 0));
}

#[test]
fn a_burst_that_the_sample_saw_before_our_note_is_not_foreign() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 0, 0, 0)]));
    let _ = farm.own(950, "a", 0, 0);
    // Eight requests leave at 960; the engine is sampled at 990; the report arrives before the next note.
    let _ = farm.report(995, delta("n", 1, 2, vec![loaded("a", 6, 2, 5)]));
    assert!(farm.own(1_000, "a", 8, 0).changed);
    assert_eq!(foreign(&mut farm, 1_001), (0, 0));
}

#[test]
fn requests_that_finish_around_the_sample_are_still_ours() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 0, 0, 0)]));
    let _ = farm.own(500, "a", 8, 8);
    let _ = farm.own(980, "a", 0, 0);
    let _ = farm.report(1_000, delta("n", 1, 2, vec![loaded("a", 8, 0, 10)]));
    assert_eq!(foreign(&mut farm, 1_001), (0, 0), "the engine notices an end later than we do");
}

#[test]
fn a_later_note_does_not_excuse_what_was_foreign_at_the_sample() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 0, 0, 0)]));
    let _ = farm.report(1_000, delta("n", 1, 2, vec![loaded("a", 5, 0, 0)]));
    for ms in [1_050, 1_100, 1_150] {
        let _ = farm.own(ms, "a", 0, 0);
    }
    assert!(!farm.own(1_200, "a", 5, 5).changed);
    assert_eq!(foreign(&mut farm, 1_201), (5, 0));
}

#[test]
fn foreign_load_outlives_silence_and_absent_counts() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 9, 2, 0)]));
    let unread = EngineReport { running: None, waiting: None, ..loaded("a", 0, 0, 0) };
    let _ = farm.report(250, delta("n", 1, 2, vec![with_health(unread, EngineHealth::Busy)]));
    assert_eq!(foreign(&mut farm, 251), (9, 2), "unread is not idle");
    let _ = farm.tick(30_000);
    assert_eq!(foreign(&mut farm, 30_001), (9, 2), "silent is not idle");
    assert_eq!(farm.endpoint(30_002, "a").running, None, "and unknown is not zero");
}

#[test]
fn a_reading_older_than_our_memory_changes_nothing() {
    let mut farm = Farm::new();
    let _ = farm.report(0, full("n", 1, 1, vec![loaded("a", 3, 0, 0)]));
    for i in 1..=100_u32 {
        let _ = farm.own(1_000 + u64::from(i) * 50, "a", i, i);
    }
    let _ = farm.report(6_100, delta("n", 1, 2, vec![loaded("a", 50, 0, 5_000)]));
    assert_eq!(foreign(&mut farm, 6_101), (3, 0));
    let _ = farm.report(6_200, delta("n", 1, 3, vec![loaded("a", 101, 0, 10)]));
    assert_eq!(foreign(&mut farm, 6_201), (1, 0));
}
