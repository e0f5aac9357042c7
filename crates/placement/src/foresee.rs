//! Expected misses of the few endpoints that are in the running, the cheapest first.
//!
//! Looking at every stream of every endpoint would cost more than all the rest of a decision. Misses are never
//! negative, so a total without them is a lower bound: once a full total is below the next bound, no further endpoint
//! can win, and the choice is that of looking at all of them. Only in a crowd of near equals does the look end earlier,
//! after [`LOOKED_AT_MAX`] endpoints; those left out do not compete then. Which of equals are looked at is the seed's
//! choice, never the list's.

use aya_domain::{Candidate, Misses, Verdict, splitmix64};

use crate::cost::total_s;
use crate::decide::{Farm, site};
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
    fn before(&self, other: &Self) -> bool {
        self.total.total_cmp(&other.total).then(self.draw.cmp(&other.draw)).is_lt()
    }
}

/// The lowest bounds, in ascending order.
#[derive(Debug)]
struct Shortlist {
    kept: [Bound; LOOKED_AT_MAX],
    count: usize,
}

impl Shortlist {
    const fn new() -> Self {
        Self { kept: [Bound { total: f64::INFINITY, draw: 0, position: 0 }; LOOKED_AT_MAX], count: 0 }
    }

    fn offer(&mut self, bound: Bound) {
        if self.count == LOOKED_AT_MAX && self.kept.last().is_some_and(|last| !bound.before(last)) {
            return;
        }
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

/// Completes the totals of those in the running. Does nothing unless the policy prices misses and streams are known.
pub(crate) fn foresee(
    farm: &Farm<'_>,
    ask: &Ask<'_>,
    candidates: &mut [Candidate],
    consulted: &mut Consulted,
) {
    let (Some(known), Some(lengths)) = (farm.knowledge.endpoints, farm.knowledge.lengths) else { return };
    if !farm.foresees() {
        return;
    }
    let mut shortlist = Shortlist::new();
    for (position, candidate) in candidates.iter().enumerate() {
        if let Verdict::Scored { total, .. } = candidate.verdict {
            let draw = splitmix64(farm.seed ^ splitmix64(u64::from(candidate.endpoint.0)));
            shortlist.offer(Bound { total, draw, position });
        }
    }
    let mut best = f64::INFINITY;
    for bound in shortlist.bounds() {
        if bound.total > pick::bar(best) {
            break;
        }
        let Some(candidate) = candidates.get_mut(bound.position) else { break };
        let index = candidate.endpoint;
        let Verdict::Scored { total, terms } = &mut candidate.verdict else { continue };
        let Some(endpoint) = farm.snapshot.endpoint(index) else { continue };
        let own = farm.own(index);
        let newcomer = ask.newcomer.with_cached(candidate.cached.unwrap_or_default());
        let here = site(endpoint, &own, &newcomer);
        let residents = consulted.look(known, index);
        terms.misses = Misses::Expected(here.miss_s(&newcomer, farm.policy, residents, lengths));
        *total = total_s(terms);
        best = best.min(*total);
    }
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
                    shortlist.offer(Bound { total: number(position), draw: position as u64, position });
                }
                let mut expect: Vec<usize> = (0..count).collect();
                expect.sort_by(|a, b| number(*a).total_cmp(&number(*b)).then(a.cmp(b)));
                expect.truncate(LOOKED_AT_MAX);
                let kept: Vec<usize> = shortlist.bounds().map(|bound| bound.position).collect();
                assert_eq!(kept, expect, "{count} offers, seed {seed}");
            }
        }
    }
}
