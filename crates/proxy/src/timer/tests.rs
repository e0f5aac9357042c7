//! One timer through several phases, on paused time.

use std::future::poll_fn;

use super::*;
use crate::upstream::Phase;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_deadline_that_passes_is_that_of_the_current_phase() {
    let begin = Instant::now();
    let mut timer = PhaseTimer::new(Phase::Connect, 10 * SECOND);
    timer.start(Phase::Head, 2 * SECOND);
    assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Phase::Head);
    assert_eq!(begin.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_begins_anew_moves_its_deadline() {
    let begin = Instant::now();
    let mut timer = PhaseTimer::new(Phase::Body, 3 * SECOND);
    for _ in 0..5 {
        let silent = tokio::time::timeout(2 * SECOND, poll_fn(|cx| timer.poll(cx))).await;
        assert!(silent.is_err(), "it fired early");
        timer.start(Phase::Body, 3 * SECOND);
    }
    assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Phase::Body);
    assert_eq!(begin.elapsed().as_secs(), 13);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_is_bounded_anew_still_began_when_it_began() {
    let begin = Instant::now();
    let mut timer = PhaseTimer::new(Phase::Body, 9 * SECOND);
    tokio::time::advance(2 * SECOND).await;
    timer.bound(3 * SECOND);
    assert_eq!(timer.deadline(), begin + 3 * SECOND);
    assert_eq!(poll_fn(|cx| timer.poll(cx)).await, Phase::Body);
    assert_eq!(begin.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_longest_duration_is_a_limit_like_any_other() {
    let mut timer = PhaseTimer::new(Phase::Head, Duration::MAX);
    let silent = tokio::time::timeout(1000 * SECOND, poll_fn(|cx| timer.poll(cx))).await;
    assert!(silent.is_err());
}
