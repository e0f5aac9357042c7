//! The order, the turns and the limit by example, then anything in any order against the promises.

use std::time::Duration;

use aya_domain::Tokens;
use proptest::prelude::*;

use super::*;
use crate::invariants::{broken, shared_by_weight};

const fn ms(millis: u64) -> MonoTime {
    MonoTime::from_millis(millis)
}

const RULES: QueueRules = QueueRules { limit: 8, look_ahead: 3, overtakes_max: 2, turn_after: 3 };

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

fn entry(class: Priority, name: &str, weight: u32, cost: u64) -> Entry {
    Entry { class, tenant: tenant(name), weight, cost: Tokens(cost), deadline: ms(1_000_000) }
}

/// A queue to which these come in order: class, tenant, cost.
fn queue_of(rules: QueueRules, entries: &[(Priority, &str, u64)]) -> (FairQueue, Vec<TicketId>) {
    let mut queue = FairQueue::new(rules);
    let enter =
        |(class, name, cost): &(Priority, &str, u64)| queue.enter(&entry(*class, name, 1, *cost), ms(0));
    let tickets = entries.iter().map(enter).map(|entered| entered.unwrap().ticket).collect();
    assert_eq!(broken(&queue, ms(0)), None);
    (queue, tickets)
}

/// Places whoever is first until nobody waits; the numbers of the tickets as they came.
fn drained(queue: &mut FairQueue) -> Vec<u64> {
    let mut order = Vec::new();
    while let Some(head) = queue.order(1, ms(0)).first().copied() {
        order.push(head.0);
        queue.leave(head, Departure::Placed, ms(0)).unwrap();
        assert_eq!(broken(queue, ms(0)), None);
    }
    order
}

use Priority::{Batch, Critical, Standard};

#[test]
fn classes_are_strict_tenants_share_and_within_a_tenant_the_first_to_come_is_first() {
    for (entries, expect) in [
        (&[(Standard, "a", 5), (Standard, "a", 5), (Standard, "a", 5)][..], &[0, 1, 2][..]),
        (&[(Batch, "a", 5), (Standard, "a", 5), (Critical, "a", 5)], &[2, 1, 0]),
        (&[(Standard, "a", 5), (Standard, "a", 5), (Standard, "b", 5), (Standard, "b", 5)], &[0, 2, 1, 3]),
        // Three small ones for a large one.
        (
            &[
                (Standard, "a", 9),
                (Standard, "a", 9),
                (Standard, "b", 3),
                (Standard, "b", 3),
                (Standard, "b", 3),
            ],
            &[0, 2, 3, 4, 1],
        ),
    ] {
        let (mut queue, _) = queue_of(RULES, entries);
        assert_eq!(drained(&mut queue), expect, "{entries:?}");
    }
}

#[test]
fn who_pauses_saves_up_no_turns() {
    let (mut queue, _) = queue_of(RULES, &[(Standard, "busy", 5); 6]);
    for _ in 0..4 {
        let head = queue.order(1, ms(0))[0];
        queue.leave(head, Departure::Placed, ms(0));
    }
    for _ in 0..4 {
        queue.enter(&entry(Standard, "late", 1, 5), ms(0)).unwrap();
    }
    assert_eq!(drained(&mut queue), [4, 6, 5, 7, 8, 9], "alternately, not first all of the late one");
}

#[test]
fn a_lower_class_has_its_turn_after_so_many_higher_ones() {
    let mut entries = vec![(Batch, "a", 1); 2];
    entries.extend([(Critical, "a", 1); 6]);
    let (mut queue, _) = queue_of(RULES, &entries);
    assert_eq!(drained(&mut queue), [2, 3, 4, 0, 5, 6, 7, 1]);
    let (mut queue, _) = queue_of(QueueRules { turn_after: 0, ..RULES }, &entries);
    assert_eq!(drained(&mut queue), [2, 3, 4, 5, 6, 7, 0, 1]);
}

#[test]
fn at_the_limit_a_lower_class_or_a_longer_line_gives_way_by_its_newest() {
    let rules = QueueRules { limit: 3, ..RULES };
    for (waiting, newcomer, displaced) in [
        ([(Standard, "a", 1), (Batch, "a", 1), (Batch, "a", 1)], (Critical, "a"), Some(2)),
        ([(Standard, "a", 1), (Standard, "a", 1), (Standard, "a", 1)], (Critical, "a"), Some(2)),
        ([(Standard, "a", 1), (Standard, "a", 1), (Standard, "a", 1)], (Standard, "a"), None),
        ([(Standard, "a", 1), (Standard, "a", 1), (Standard, "a", 1)], (Standard, "b"), Some(2)),
        ([(Standard, "a", 1), (Standard, "a", 1), (Standard, "b", 1)], (Standard, "b"), None),
        ([(Standard, "a", 1), (Standard, "a", 1), (Standard, "a", 1)], (Batch, "b"), None),
    ] {
        let (mut queue, _) = queue_of(rules, &waiting);
        let entered = queue.enter(&entry(newcomer.0, newcomer.1, 1, 1), ms(0));
        assert_eq!(entered.map(|e| e.displaced.map(|t| t.0)).unwrap_or_default(), displaced, "{waiting:?}");
        assert_eq!(entered.err(), displaced.is_none().then_some(QueueFull { limit: 3 }));
        assert_eq!((queue.len(), broken(&queue, ms(0))), (3, None));
    }
}

#[test]
fn who_finds_no_room_lets_those_behind_it_look_but_not_for_ever() {
    let (mut queue, t) = queue_of(RULES, &[(Standard, "a", 1); 8]);
    assert_eq!(queue.turn(), Some(t[0]));
    queue.pass(t[0], Blocked::Full, ms(0));
    assert_eq!(queue.turn(), Some(t[1]));
    queue.leave(t[1], Departure::Placed, ms(0)).unwrap();
    assert_eq!(queue.turn(), Some(t[2]), "the head has looked in this round");
    queue.pass(t[2], Blocked::Full, ms(0));
    queue.pass(t[3], Blocked::Full, ms(0));
    assert_eq!(queue.turn(), None, "the look-ahead is 3");
    queue.wake(ms(0));
    queue.pass(t[0], Blocked::Full, ms(0));
    queue.leave(t[2], Departure::Placed, ms(0)).unwrap();
    assert_eq!(queue.turn(), None, "the head was overtaken twice");
    queue.wake(ms(0));
    assert_eq!(queue.turn(), Some(t[0]));
    queue.pass(t[0], Blocked::NotReady, ms(0));
    assert_eq!(queue.turn(), Some(t[3]), "what is not ready is not waited for alone");
}

#[test]
fn room_that_appears_while_somebody_looks_is_looked_at_again() {
    let (mut queue, t) = queue_of(RULES, &[(Standard, "a", 1); 2]);
    queue.wake(ms(0));
    assert_eq!(queue.turn(), Some(t[0]));
    queue.pass(t[0], Blocked::Full, ms(0));
    queue.pass(t[1], Blocked::Full, ms(0));
    assert_eq!(queue.turn(), Some(t[0]), "the wake came before it passed");
    queue.pass(t[0], Blocked::Full, ms(0));
    queue.pass(t[1], Blocked::Full, ms(0));
    assert_eq!(queue.turn(), None);
}

#[test]
fn an_expired_ticket_has_no_turn_and_is_named_until_it_leaves() {
    let mut queue = FairQueue::new(RULES);
    let until = |deadline| Entry { deadline: ms(deadline), ..entry(Standard, "a", 1, 1) };
    let early = queue.enter(&until(100), ms(0)).unwrap().ticket;
    let late = queue.enter(&until(300), ms(0)).unwrap().ticket;
    queue.pass(early, Blocked::Full, ms(0));
    queue.pass(late, Blocked::Full, ms(0));
    assert_eq!(queue.next_deadline(), Some(ms(100)));
    queue.wake(ms(100));
    assert_eq!((queue.turn(), queue.expired(ms(100)).collect::<Vec<_>>()), (Some(late), vec![early]));
    queue.leave(early, Departure::Gone, ms(101)).unwrap();
    assert_eq!(queue.leave(early, Departure::Gone, ms(101)), None);
    assert_eq!((queue.len(), queue.position(late)), (1, Some(0)));
}

#[test]
fn two_tenants_that_always_wait_are_served_by_weight() {
    let mut queue = FairQueue::new(QueueRules { limit: 1_000, ..RULES });
    let (mut served, mut drawn) = ([0.0; 2], 7);
    let mut enter = |queue: &mut FairQueue, at: usize| {
        drawn = aya_domain::splitmix64(drawn);
        let (name, weight) = [("a", 3), ("b", 1)][at];
        queue.enter(&entry(Standard, name, weight, 1 + drawn % 500), ms(0)).unwrap();
    };
    for at in [0, 0, 1, 1] {
        enter(&mut queue, at);
    }
    for _ in 0..2_000 {
        let head = queue.order(1, ms(0))[0];
        let standing = queue.standings(1, ms(0)).remove(0);
        let at = usize::from(standing.tenant.as_str() == "b");
        let charge = queue.classes.standard.charge_of(head, &standing.tenant).unwrap();
        served[at] += Tokens(charge).as_f64() / [1_000.0 / 3.0, 1_000.0][at];
        queue.leave(head, Departure::Placed, ms(0)).unwrap();
        enter(&mut queue, at);
        assert!(shared_by_weight(served, [3.0, 1.0], 501.0), "{served:?}");
    }
    assert!((served[0] / served[1] - 3.0).abs() < 0.05, "{served:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Enter { class: Priority, tenant: usize, cost: u64, lives_ms: u64 },
    Wake,
    Pass { ready: bool },
    Place,
    Leave { nth: usize },
    Wait { millis: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let class = prop_oneof![Just(Critical), Just(Standard), Just(Batch)];
    prop_oneof![
        5 => (class, 0_usize..4, 0_u64..100, 1_u64..80)
            .prop_map(|(class, tenant, cost, lives_ms)| Step::Enter { class, tenant, cost, lives_ms }),
        2 => Just(Step::Wake),
        3 => any::<bool>().prop_map(|ready| Step::Pass { ready }),
        2 => Just(Step::Place),
        2 => (0_usize..60).prop_map(|nth| Step::Leave { nth }),
        1 => (0_u64..20).prop_map(|millis| Step::Wait { millis }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_promises_hold(limit in 0_usize..12, steps in prop::collection::vec(step(), 1..150)) {
        let mut queue = FairQueue::new(QueueRules { limit, ..RULES });
        let mut given: Vec<(TicketId, MonoTime)> = Vec::new();
        let mut now = ms(0);
        for step in steps {
            match step {
                Step::Enter { class, tenant, cost, lives_ms } => {
                    let deadline = now.after(Duration::from_millis(lives_ms));
                    let (name, weight) = [("a", 1), ("b", 1), ("c", 3), ("d", 1_000)][tenant];
                    let entry = Entry { deadline, ..entry(class, name, weight, cost) };
                    let (before, expect) = (queue.len(), queue.position_of_newcomer(class, &entry.tenant));
                    if let Ok(entered) = queue.enter(&entry, now) {
                        prop_assert!(given.iter().all(|(ticket, _)| *ticket != entered.ticket));
                        given.push((entered.ticket, deadline));
                        if let Some(displaced) = entered.displaced {
                            prop_assert!(!queue.holds(displaced) && before == limit);
                        } else {
                            prop_assert_eq!((entered.position, queue.len()), (expect, before + 1));
                            prop_assert_eq!(queue.position(entered.ticket), Some(expect));
                        }
                    } else {
                        prop_assert_eq!(before, limit);
                    }
                }
                Step::Wake => queue.wake(now),
                Step::Pass { ready } => {
                    let blocked = if ready { Blocked::Full } else { Blocked::NotReady };
                    let Some(turn) = queue.turn() else { continue };
                    queue.pass(turn, blocked, now);
                }
                Step::Place => {
                    let Some(turn) = queue.turn() else { continue };
                    prop_assert!(queue.leave(turn, Departure::Placed, now).is_some());
                    prop_assert!(!queue.holds(turn));
                }
                Step::Leave { nth } => {
                    let Some((ticket, _)) = given.get(nth).copied() else { continue };
                    let held = queue.holds(ticket);
                    prop_assert_eq!(queue.leave(ticket, Departure::Gone, now).is_some(), held);
                }
                Step::Wait { millis } => {
                    now = now.after(Duration::from_millis(millis));
                    // As the live queue's own timers do.
                    let expired: Vec<_> = queue.expired(now).collect();
                    for ticket in expired {
                        queue.leave(ticket, Departure::Gone, now);
                    }
                }
            }
            prop_assert_eq!(broken(&queue, now), None);
            let turn = given.iter().find(|(ticket, _)| Some(*ticket) == queue.turn());
            prop_assert!(turn.is_none_or(|(_, deadline)| *deadline > now), "a turn after the deadline");
        }
    }
}

#[test]
fn no_class_that_waits_is_passed_over_longer_than_its_turns_allow() {
    let mut queue = FairQueue::new(QueueRules { limit: 1_000, ..RULES });
    let enter = |queue: &mut FairQueue, class| queue.enter(&entry(class, "a", 1, 1), ms(0)).unwrap();
    for class in Priority::ALL {
        enter(&mut queue, class);
    }
    let (mut passed, mut served) = ([0_u32; 3], [0_u32; 3]);
    for _ in 0..300 {
        let head = queue.standings(1, ms(0)).remove(0);
        queue.leave(head.ticket, Departure::Placed, ms(0)).unwrap();
        enter(&mut queue, head.class);
        passed = passed.map(|n| n + 1);
        passed[head.class.index()] = 0;
        served[head.class.index()] += 1;
        // Its own turns, and one for each other class that is due at the same time.
        assert!(passed.iter().all(|n| *n <= RULES.turn_after + 1), "{passed:?}");
    }
    assert!(served[0] > served[1] && served[1] >= served[2] && served[2] > 50, "{served:?}");
}
