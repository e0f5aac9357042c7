//! A few requests on one endpoint in every order of their steps, as loom finds them: the file of the counts itself, with
//! loom's atomics in place of those of std. It also reorders what the memory model lets be reordered.

use std::sync::atomic::{AtomicU32 as Plain, Ordering};

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}

#[expect(clippy::duplicate_mod, reason = "the same file with other atomics is the point")]
#[path = "counts.rs"]
mod counts;

use self::Until::{Dispatch, FirstToken, Tokens};
use self::counts::Counts;

/// How far a request comes before it ends, whatever the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Dispatch,
    FirstToken,
    Tokens,
}

const PROMPT: u64 = 7;
const UNCACHED: u64 = 5;
const ANSWER: u64 = 3;
/// As the pipeline does: a lost race is decided again, but not for ever.
const TRIES: usize = 3;

/// An endpoint with so many slots, and how many requests truly are on it: loom does not see that count, so it hides no
/// order of steps.
struct Endpoint {
    counts: Counts,
    slots: u32,
    inside: Plain,
    placed: Plain,
}

impl Endpoint {
    fn new(slots: u32) -> Self {
        Self { counts: Counts::new(), slots, inside: Plain::new(0), placed: Plain::new(0) }
    }

    /// Decides, claims what it decided on, and lets the request come this far.
    fn request(&self, until: Until) {
        for _ in 0..TRIES {
            let seen = self.counts.in_flight();
            assert!(seen <= self.slots, "{seen} in flight on {} slots", self.slots);
            if seen == self.slots {
                return;
            }
            let Some(mut held) = self.counts.claim(seen, PROMPT, UNCACHED) else { continue };
            let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(inside <= self.slots, "{inside} requests on {} slots", self.slots);
            self.placed.fetch_add(1, Ordering::SeqCst);
            if until != Dispatch {
                assert_eq!(self.counts.first_token(&mut held), Some(UNCACHED));
                assert_eq!(self.counts.first_token(&mut held), None, "there is only one first token");
            }
            if until == Tokens {
                self.counts.tokens(&mut held, ANSWER);
            }
            assert_eq!(held.decodes(), until != Dispatch);
            self.inside.fetch_sub(1, Ordering::SeqCst);
            self.counts.release(&held);
            return;
        }
    }

    fn assert_empty(&self) {
        let counts = &self.counts;
        let requests = (counts.in_flight(), counts.prefilling(), counts.decoding());
        assert_eq!(requests, (0, 0, 0));
        let tokens = (counts.prefill_tokens(), counts.decode_kv_tokens(), counts.prompts());
        assert_eq!(tokens, (0, 0, 0));
        assert!(self.placed.load(Ordering::SeqCst) > 0, "of several that race one always wins");
    }
}

/// Every thread sends its requests one after the other. `preemptions`: interruptions of a thread that could go on; with
/// three of them all the faults of such programs that are known in the literature are found (Musuvathi, Qadeer 2007).
fn check(slots: u32, preemptions: usize, threads: &[&[Until]]) {
    let threads: Vec<Vec<Until>> = threads.iter().map(|requests| requests.to_vec()).collect();
    let mut model = Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let endpoint = Arc::new(Endpoint::new(slots));
        let spawn = |story: &Vec<Until>| {
            let (endpoint, story) = (Arc::clone(&endpoint), story.clone());
            thread::spawn(move || story.iter().for_each(|until| endpoint.request(*until)))
        };
        let (mine, others) = threads.split_first().unwrap();
        let others: Vec<_> = others.iter().map(spawn).collect();
        mine.iter().for_each(|until| endpoint.request(*until));
        for other in others {
            other.join().unwrap();
        }
        endpoint.assert_empty();
    });
}

#[test]
fn two_requests_on_one_slot() {
    check(1, 3, &[&[Tokens], &[FirstToken]]);
}

#[test]
fn two_requests_on_two_slots() {
    check(2, 3, &[&[Tokens], &[Tokens]]);
}

#[test]
fn three_requests_of_two_threads_on_two_slots() {
    check(2, 3, &[&[Tokens, Dispatch], &[FirstToken]]);
}

#[test]
fn two_threads_with_two_requests_each_on_one_slot() {
    check(1, 3, &[&[Tokens, Dispatch], &[FirstToken, Tokens]]);
}

#[test]
fn three_threads_on_two_slots() {
    check(2, 2, &[&[Tokens], &[FirstToken], &[Dispatch]]);
}

/// A decision reads the counts one by one while a request comes and goes.
#[test]
fn whoever_reads_meanwhile_sees_no_more_than_there_was() {
    let mut model = Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let endpoint = Arc::new(Endpoint::new(1));
        let request = thread::spawn({
            let endpoint = Arc::clone(&endpoint);
            move || endpoint.request(FirstToken)
        });
        let counts = &endpoint.counts;
        assert!(counts.in_flight() <= 1 && counts.prefilling() <= 1 && counts.decoding() <= 1);
        assert!(counts.prefill_tokens() <= UNCACHED && counts.decode_kv_tokens() <= PROMPT);
        assert!(counts.prompts() <= PROMPT);
        request.join().unwrap();
        endpoint.assert_empty();
    });
}
