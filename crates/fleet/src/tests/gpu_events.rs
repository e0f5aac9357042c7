//! Events of GPUs: each counts once, at once, and no older reading takes it back.

use std::time::Duration;

use aya_domain::{Aged, BootId, GpuEvent, GpuEventKind, GpuEvents, GpuSample, Report, ReportKind};

use super::farm::{Farm, aged, gpu, node_id, report, said};
use crate::{Effects, Event};

fn xid(sequence: u64, code: u32, xids: u32) -> Aged<GpuEvent> {
    let gpu = gpu("GPU-1", "H100", None).info.uuid;
    aged(GpuEvent { sequence, gpu, kind: GpuEventKind::Xid { code }, xids: Some(xids) })
}

fn told(farm: &mut Farm, ms: u64, boot: u64, events: Vec<Aged<GpuEvent>>) -> Effects {
    let events = GpuEvents { node: node_id("n"), boot: BootId(boot), events };
    farm.apply(ms, Event::GpuEvents { events, received_at: super::farm::at(ms) })
}

/// A FULL report of a node with one GPU that counted so many XIDs.
fn counted(boot: u64, sequence: u64, xids: Option<u32>, last_xid: Option<u32>) -> Report {
    let mut gpu = gpu("GPU-1", "H100", None);
    gpu.sample = Some(aged(GpuSample { xids, last_xid, ..GpuSample::default() }));
    Report { gpus: vec![gpu], ..report("n", boot, sequence, ReportKind::Full, Vec::new()) }
}

fn xids(farm: &mut Farm, ms: u64) -> (Option<u32>, Option<u32>) {
    let snapshot = farm.snapshot(ms);
    let sample = snapshot.nodes[0].gpus[0].sample.unwrap().value;
    (sample.xids, sample.last_xid)
}

#[test]
fn an_xid_is_in_the_next_snapshot_and_counts_once() {
    let mut farm = Farm::new();
    let _ = farm.report(0, counted(1, 1, Some(0), None));
    let effects = told(&mut farm, 10, 1, vec![xid(1, 79, 1)]);
    assert!(effects.changed);
    let acted = "gpu GPU-1 of node n: fail, because of xid: XID 79";
    assert_eq!(said(&effects), ["gpu GPU-1 of node n: XID 79", acted]);
    assert_eq!(xids(&mut farm, 11), (Some(1), Some(79)));
    let again = told(&mut farm, 20, 1, vec![xid(1, 79, 1), xid(2, 94, 2)]);
    assert_eq!(said(&again)[0], "gpu GPU-1 of node n: XID 94", "told again after a reconnect");
    assert_eq!(xids(&mut farm, 21), (Some(2), Some(94)));
}

#[test]
fn a_reading_from_before_the_event_does_not_take_it_back() {
    let mut farm = Farm::new();
    let _ = farm.report(0, counted(1, 1, Some(0), None));
    let _ = told(&mut farm, 10, 1, vec![xid(1, 79, 1)]);
    let _ = farm.report(20, counted(1, 2, Some(0), None));
    assert_eq!(xids(&mut farm, 21), (Some(1), Some(79)));
    let _ = farm.report(30, counted(1, 3, Some(3), Some(31)));
    assert_eq!(xids(&mut farm, 31), (Some(3), Some(31)));
    let _ = farm.report(40, counted(2, 1, Some(0), None));
    assert_eq!(xids(&mut farm, 41), (Some(0), None), "another start counts anew");
    let events = said(&told(&mut farm, 50, 2, vec![xid(1, 48, 1)]));
    assert_eq!(events[0], "gpu GPU-1 of node n: XID 48", "and so do its events");
}

#[test]
fn events_of_strangers_and_of_replaced_starts_are_passed_over() {
    let mut farm = Farm::new();
    assert_eq!(told(&mut farm, 0, 1, vec![xid(1, 79, 1)]), Effects::default());
    let _ = farm.report(1, counted(1, 1, Some(0), None));
    assert_eq!(told(&mut farm, 2, 9, vec![xid(1, 79, 1)]), Effects::default());
    assert_eq!(xids(&mut farm, 3), (Some(0), None));
}

/// A farm whose clock says 10 s hears of an XID that is so old, after a FULL report that counts it.
fn check_old(age_s: u64, acts: bool) {
    let mut farm = Farm::new();
    let _ = farm.report(10_000, counted(1, 1, Some(1), Some(79)));
    let old = Aged::new(xid(1, 79, 1).value, Duration::from_secs(age_s));
    let effects = told(&mut farm, 10_010, 1, vec![old]);
    assert_eq!(!effects.notices.is_empty(), acts, "{age_s} s: {effects:?}");
    let next = said(&told(&mut farm, 10_020, 1, vec![xid(2, 94, 2)]));
    assert_eq!(next.first().map(String::as_str), Some("gpu GPU-1 of node n: XID 94"), "{age_s} s");
}

#[test]
fn what_happened_long_before_the_scheduler_began_is_no_news() {
    for (age_s, acts) in [(0, true), (9, true), (50, true), (61, false), (500, false)] {
        check_old(age_s, acts);
    }
}

#[test]
fn what_a_clogged_link_held_back_is_news_however_old() {
    let mut farm = Farm::new();
    let _ = farm.report(0, counted(1, 1, Some(0), None));
    let _ = farm.report(500_000, counted(1, 2, Some(0), None));
    let held = Aged::new(xid(1, 79, 1).value, Duration::from_secs(400));
    let effects = told(&mut farm, 500_010, 1, vec![held]);
    assert_eq!(said(&effects).len(), 2, "{effects:?}");
}

#[test]
fn a_start_that_comes_back_is_asked_for_what_was_passed_over_and_repeats_nothing() {
    let mut farm = Farm::new();
    let _ = farm.report(0, counted(1, 1, Some(0), None));
    let _ = told(&mut farm, 10, 1, vec![xid(1, 31, 1)]);
    // Another agent of this name, which falls silent.
    let _ = farm.report(20, counted(2, 1, Some(0), None));
    assert_eq!(told(&mut farm, 30, 1, vec![xid(2, 43, 2)]), Effects::default());
    let back = farm.report(20_000, counted(1, 2, Some(2), Some(43)));
    assert!(back.resend_full, "what was passed over has to be said again");
    let again = said(&told(&mut farm, 20_010, 1, vec![xid(1, 31, 1), xid(2, 43, 2)]));
    assert_eq!(again[0], "gpu GPU-1 of node n: XID 43", "{again:?}");
}

#[test]
fn each_event_counts_once_in_whatever_order_they_come() {
    let mut farm = Farm::new();
    let _ = farm.report(0, counted(1, 1, Some(0), None));
    let mut came = Vec::new();
    for (at, sequence) in [3, 1, 3, 2, 2, 1, 90, 26, 27, 28, 27, 3, 91].into_iter().enumerate() {
        let effects = told(&mut farm, 10 + at as u64, 1, vec![xid(sequence, 31, 1)]);
        came.extend((!effects.notices.is_empty()).then_some(sequence));
    }
    assert_eq!(came, [3, 1, 2, 90, 27, 28, 91], "64 are remembered");
}
