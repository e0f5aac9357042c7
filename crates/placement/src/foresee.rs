//! Expected misses of the few endpoints that are in the running, the cheapest first.
//!
//! Looking at every stream of every endpoint would cost more than all the rest of a decision. Misses are never
//! negative, so a total without them is a lower bound: once a full total is below the next bound, no further endpoint
//! can win, and the choice is that of looking at all of them. Only in a crowd of near equals does the look end earlier,
//! after [`LOOKED_AT_MAX`] endpoints; those left out do not compete then. Which of equals are looked at is the seed's
//! choice, never the list's.

use std::cmp::Ordering;

use aya_domain::{Candidate, Misses, Verdict, splitmix64};

use crate::cost::{Site, total_s};
use crate::decide::Farm;
use crate::filter::Ask;
use crate::knowledge::Consulted;
use crate::pick;

/// Endpoints whose streams one decision looks at. Up to so many the choice is exact; beyond, it is the best of the
/// so many with the least cost but for misses, which bounds the time of a decision and the bytes of its record.
pub const LOOKED_AT_MAX: usize = 16;

/// A candidate by its position, with the least that its total can be.
#[derive(Debug, Clone, Copy)]
struct Bound {
    total: f64,
    draw: u64,
    position: usize,
}

impl Bound {
    const NONE: Self = Self { total: f64::INFINITY, draw: 0, position: usize::MAX };

    fn before(&self, other: &Self) -> bool {
        self.total.total_cmp(&other.total).then(self.draw.cmp(&other.draw)).is_lt()
    }

    /// As the list has it: the first of equals.
    fn in_list_order(&self, other: &Self) -> Ordering {
        self.total.total_cmp(&other.total).then(self.position.cmp(&other.position))
    }
}

/// The lowest bounds, in ascending order.
#[derive(Debug)]
struct Shortlist {
    kept: [Bound; LOOKED_AT_MAX],
    count: usize,
    /// The least of those that are not kept, and of them the first in the list.
    beyond: Option<Bound>,
}

impl Shortlist {
    const fn new() -> Self {
        Self { kept: [Bound::NONE; LOOKED_AT_MAX], count: 0, beyond: None }
    }

    /// The draw is made only where it decides.
    fn offer(&mut self, total: f64, position: usize, draw: impl FnOnce() -> u64) {
        let full = self.count == LOOKED_AT_MAX;
        let last = self.kept.last().copied().filter(|_| full);
        if let Some(last) = last {
            if total > last.total {
                return self.leave_out(Bound { total, draw: 0, position });
            }
            let bound = Bound { total, draw: draw(), position };
            if !bound.before(&last) {
                return self.leave_out(bound);
            }
            self.leave_out(last);
            self.insert(bound);
        } else {
            self.insert(Bound { total, draw: draw(), position });
        }
    }

    fn leave_out(&mut self, bound: Bound) {
        if self.beyond.is_none_or(|beyond| bound.in_list_order(&beyond).is_lt()) {
            self.beyond = Some(bound);
        }
    }

    fn insert(&mut self, bound: Bound) {
        let upto = self.count.min(LOOKED_AT_MAX - 1);
        let held = self.kept.get(..upto).unwrap_or_default();
        let at = held.iter().position(|kept| bound.before(kept)).unwrap_or(upto);
        if let Some(tail) = self.kept.get_mut(at..=upto) {
            tail.rotate_right(1);
        }
        if let Some(slot) = self.kept.get_mut(at) {
            *slot = bound;
        }
        self.count = upto + 1;
    }

    fn bounds(&self) -> impl Iterator<Item = &Bound> {
        self.kept.iter().take(self.count)
    }
}

/// Who was looked at, and what bounds the others.
#[derive(Debug)]
pub(crate) struct Foreseen {
    /// Positions, ascending.
    looked_at: [usize; LOOKED_AT_MAX],
    count: usize,
    /// The least total of those that were not looked at and its position; `None`: there are no others.
    pub(crate) rest: Option<(f64, usize)>,
}

impl Foreseen {
    /// Positions of those looked at, ascending.
    pub(crate) fn looked_at(&self) -> &[usize] {
        self.looked_at.get(..self.count).unwrap_or_default()
    }
}

/// Completes the totals of those in the running. `None` unless the policy prices misses and streams are known.
pub(crate) fn foresee(
    farm: &Farm<'_>,
    ask: &Ask<'_>,
    candidates: &mut [Candidate],
    consulted: &mut Consulted,
) -> Option<Foreseen> {
    let (Some(known), Some(lengths)) = (farm.knowledge.endpoints, farm.knowledge.lengths) else {
        return None;
    };
    if !farm.foresees() {
        return None;
    }
    let mut shortlist = Shortlist::new();
    for (position, candidate) in candidates.iter().enumerate() {
        if let Verdict::Scored { total, .. } = candidate.verdict {
            let draw = || splitmix64(farm.seed ^ splitmix64(u64::from(candidate.endpoint.0)));
            shortlist.offer(total, position, draw);
        }
    }
    let mut best = f64::INFINITY;
    let mut foreseen = Foreseen { looked_at: [usize::MAX; LOOKED_AT_MAX], count: 0, rest: None };
    for bound in shortlist.bounds() {
        if bound.total > pick::bar(best) {
            break;
        }
        let Some(candidate) = candidates.get_mut(bound.position) else { break };
        let index = candidate.endpoint;
        let Verdict::Scored { total, terms } = &mut candidate.verdict else { break };
        let Some(outline) = farm.outlines.get(index.get()) else { break };
        let newcomer = ask.newcomer.with_cached(candidate.cached.unwrap_or_default());
        let here = Site::on(outline, farm.own(index), &newcomer);
        let residents = consulted.look(known, index);
        terms.misses = Misses::Expected(here.miss_s(&newcomer, farm.policy, residents, lengths));
        *total = total_s(terms);
        best = best.min(*total);
        if let Some(slot) = foreseen.looked_at.get_mut(foreseen.count) {
            *slot = bound.position;
        }
        foreseen.count += 1;
    }
    let unseen = shortlist.bounds().skip(foreseen.count).chain(&shortlist.beyond);
    foreseen.rest = unseen.min_by(|a, b| a.in_list_order(b)).map(|bound| (bound.total, bound.position));
    if let Some(looked_at) = foreseen.looked_at.get_mut(..foreseen.count) {
        looked_at.sort_unstable();
    }
    Some(foreseen)
}

/// Whether a candidate may be chosen: where misses are known of any, those not looked at do not compete.
pub(crate) fn competes(candidates: &[Candidate]) -> impl Fn(&Candidate) -> bool + use<> {
    let expected = |candidate: &Candidate| matches!(&candidate.verdict, Verdict::Scored { terms, .. } if matches!(terms.misses, Misses::Expected(_)));
    let any = candidates.iter().any(expected);
    move |candidate| !any || expected(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortlist_keeps_the_lowest_in_order_whatever_comes_first() {
        for count in [0, 1, 3, LOOKED_AT_MAX, LOOKED_AT_MAX + 1, 200] {
            for seed in 0..20 {
                let mut shortlist = Shortlist::new();
                let number = |position: usize| {
                    let bits = splitmix64(splitmix64(position as u64) ^ seed) % 50;
                    f64::from(u32::try_from(bits).unwrap())
                };
                for position in 0..count {
                    shortlist.offer(number(position), position, || position as u64);
                }
                let mut expect: Vec<usize> = (0..count).collect();
                expect.sort_by(|a, b| number(*a).total_cmp(&number(*b)).then(a.cmp(b)));
                let kept: Vec<usize> = shortlist.bounds().map(|bound| bound.position).collect();
                let kept_at_most = expect.len().min(LOOKED_AT_MAX);
                assert_eq!(kept, expect[..kept_at_most], "{count} offers, seed {seed}");
                let beyond = shortlist.beyond.map(|bound| bound.position);
                assert_eq!(beyond, expect.get(LOOKED_AT_MAX).copied(), "{count} offers, seed {seed}");
            }
        }
    }
}
