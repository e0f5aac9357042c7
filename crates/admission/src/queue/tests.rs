//! The queue against a plain `Vec` that does everything the slow way.

use proptest::prelude::*;

use super::*;

const fn ms(millis: u64) -> MonoTime {
    MonoTime::from_millis(millis)
}

fn queue_of(tickets: usize, limit: usize) -> (PoolQueue, Vec<TicketId>) {
    let mut queue = PoolQueue::new(limit);
    let tickets = (0..tickets).map(|_| queue.enter(ms(0), ms(1000)).unwrap()).collect();
    (queue, tickets)
}

#[test]
fn the_first_to_come_is_the_head() {
    let (mut queue, t) = queue_of(3, 8);
    assert_eq!(queue.head(), Some(t[0]));
    assert_eq!(queue.leave(t[0]), Some(Left { was_head: true, next_head: Some(t[1]) }));
    assert_eq!(queue.head(), Some(t[1]));
}

#[test]
fn one_may_leave_from_the_middle_and_the_others_move_up() {
    let (mut queue, t) = queue_of(3, 8);
    assert_eq!(queue.position(t[2]), Some(2));
    assert_eq!(queue.leave(t[1]), Some(Left { was_head: false, next_head: Some(t[0]) }));
    assert_eq!((queue.position(t[2]), queue.position(t[1]), queue.len()), (Some(1), None, 2));
}

#[test]
fn the_limit_is_kept_and_named() {
    let (mut queue, t) = queue_of(2, 2);
    let full = queue.enter(ms(5), ms(9)).unwrap_err();
    assert_eq!(full, QueueFull { limit: 2 });
    assert_eq!(full.to_string(), "the queue is full: 2 requests already wait");
    queue.leave(t[1]);
    assert!(queue.enter(ms(5), ms(9)).is_ok());
    assert_eq!(PoolQueue::new(0).enter(ms(0), ms(1)), Err(QueueFull { limit: 0 }));
}

#[test]
fn leaving_twice_changes_nothing() {
    let (mut queue, t) = queue_of(2, 2);
    assert!(queue.leave(t[0]).is_some());
    assert_eq!(queue.leave(t[0]), None);
    assert_eq!((queue.head(), queue.len()), (Some(t[1]), 1));
}

#[test]
fn an_expired_ticket_is_named_until_it_leaves() {
    let mut queue = PoolQueue::new(8);
    let late = queue.enter(ms(0), ms(300)).unwrap();
    let early = queue.enter(ms(0), ms(100)).unwrap();
    assert_eq!(queue.next_deadline(), Some(ms(100)));
    assert_eq!(queue.expired(ms(99)).count(), 0);
    assert_eq!(queue.expired(ms(100)).collect::<Vec<_>>(), [early]);
    assert_eq!(queue.expired(ms(300)).collect::<Vec<_>>(), [early, late]);
    queue.leave(early);
    assert_eq!(queue.expired(ms(300)).collect::<Vec<_>>(), [late]);
    assert_eq!(queue.waited(late, ms(250)), Some(Duration::from_millis(250)));
    assert_eq!(queue.waited(early, ms(250)), None);
}

#[derive(Debug, Clone)]
enum Step {
    Enter {
        lives_ms: u64,
    },
    /// Leave the n-th ticket ever given out, if it still waits.
    Leave {
        nth: usize,
    },
    Pass {
        millis: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0_u64..50).prop_map(|lives_ms| Step::Enter { lives_ms }),
        2 => (0_usize..60).prop_map(|nth| Step::Leave { nth }),
        1 => (0_u64..20).prop_map(|millis| Step::Pass { millis }),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_list(limit in 0_usize..12, steps in prop::collection::vec(step(), 1..120)) {
        let mut queue = PoolQueue::new(limit);
        let mut list: Vec<(TicketId, MonoTime, MonoTime)> = Vec::new();
        let mut given = Vec::new();
        let mut now = ms(0);
        for step in steps {
            match step {
                Step::Enter { lives_ms } => {
                    let deadline = now.after(Duration::from_millis(lives_ms));
                    let entered = queue.enter(now, deadline);
                    prop_assert_eq!(entered.is_ok(), list.len() < limit);
                    if let Ok(ticket) = entered {
                        prop_assert!(!given.contains(&ticket));
                        given.push(ticket);
                        list.push((ticket, now, deadline));
                    }
                }
                Step::Leave { nth } => {
                    let Some(ticket) = given.get(nth).copied() else { continue };
                    let at = list.iter().position(|(t, ..)| *t == ticket);
                    let expect = at.map(|at| {
                        list.remove(at);
                        Left { was_head: at == 0, next_head: list.first().map(|(t, ..)| *t) }
                    });
                    prop_assert_eq!(queue.leave(ticket), expect);
                }
                Step::Pass { millis } => now = now.after(Duration::from_millis(millis)),
            }
            prop_assert_eq!(queue.broken_invariant(), None);
            prop_assert_eq!((queue.len(), queue.is_empty()), (list.len(), list.is_empty()));
            prop_assert_eq!(queue.head(), list.first().map(|(t, ..)| *t));
            prop_assert_eq!(queue.next_deadline(), list.iter().map(|(.., deadline)| *deadline).min());
            for (at, (ticket, entered, _)) in list.iter().enumerate() {
                prop_assert_eq!(queue.position(*ticket), Some(at));
                prop_assert_eq!(queue.waited(*ticket, now), Some(now.since(*entered)));
            }
            let mut expired: Vec<_> = queue.expired(now).collect();
            expired.sort();
            let expect: Vec<_> = list.iter().filter(|(.., d)| *d <= now).map(|(t, ..)| *t).collect();
            prop_assert_eq!(expired, expect);
        }
    }
}
