//! How often a decision asks the allocator: once, for the candidates of its record, however large the farm is and
//! whatever is wrong with it. What all decisions of a snapshot share is laid out by the first of them.
//!
//! The allocator of this process counts per thread, so tests beside it do not disturb the count.
#![cfg(test)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use aya_benches::inputs;
use aya_domain::{Decision, OwnLoad, Request, Snapshot};
use aya_placement::{Filter, Policy, decide};

struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator cannot be written otherwise; it only counts and passes on")]
// SAFETY: every call goes to the system's allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.set(ASKED.get() + 1);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn counted<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = ASKED.get();
    let result = work();
    (result, ASKED.get() - before)
}

fn decided(farm: &(Snapshot, Vec<OwnLoad>), request: &Request, policy: &str) -> (Decision, u64) {
    let policy = Policy::named(policy).unwrap();
    farm.0.endpoints.prepare();
    counted(|| decide(&farm.0, &farm.1, request, &policy, inputs::NOW, 1))
}

#[test]
fn the_counter_counts() {
    let (kept, asked) = counted(|| (Box::new(1), vec![2_u8; 100]));
    assert_eq!((*kept.0, kept.1.len(), asked), (1, 100, 2));
}

#[test]
fn a_placement_allocates_its_candidates_and_nothing_else() {
    for endpoints in [4, 64, 1_024] {
        let capped = inputs::farm(endpoints);
        let mut healthy = inputs::farm(endpoints);
        healthy.0.endpoints.iter_mut().for_each(|endpoint| endpoint.conditions = [].into());
        for policy in Policy::names() {
            // Random choices are drawn from a list.
            let filters = Policy::named(policy).unwrap().filters;
            let drawn = u64::from(filters.iter().any(|filter| matches!(filter, Filter::Sample(_))));
            let (decision, asked) = decided(&healthy, &inputs::request(), policy);
            assert!(decision.chosen().is_some(), "{policy} {endpoints}");
            assert_eq!(asked, 1 + drawn, "{policy} on {endpoints} endpoints");
            let (_, asked) = decided(&capped, &inputs::request(), policy);
            assert_eq!(asked, 1 + drawn, "{policy} on {endpoints} endpoints, whose power is capped");
        }
    }
}

#[test]
fn a_retry_allocates_no_more_than_a_first_attempt() {
    let farm = inputs::farm(64);
    let mut request = inputs::request();
    request.tried = farm.0.directory.iter().take(3).cloned().collect();
    assert_eq!(decided(&farm, &request, "aya").1, 1);
}
