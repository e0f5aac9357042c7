//! The smallest total wins; the seed chooses among equals.
//!
//! Totals within one part in 10^9 are equal: below that only rounding differs, and the first endpoint in the
//! list must not win every such race.

use aya_domain::{Candidate, Chosen, Verdict, splitmix64};

use crate::foresee::{self, Foreseen};

const TIE: f64 = 1e-9;

/// The largest total that equals this one.
pub(crate) const fn bar(total: f64) -> f64 {
    total + TIE * total.abs()
}

/// The best scored candidate; `None` if there is none. The margin is to the next total, which may be a lower bound.
pub(crate) fn pick(candidates: &[Candidate], seed: u64) -> Option<Chosen> {
    let competes = foresee::competes(candidates);
    let running = || scored(candidates).filter(|(candidate, _)| competes(candidate));
    let least = running().map(|(_, total)| total).min_by(f64::total_cmp)?;
    let bar = bar(least);
    let ties = running().filter(|(_, total)| *total <= bar).count();
    let nth = usize::try_from(splitmix64(seed).checked_rem(ties as u64)?).ok()?;
    let (chosen, total) = running().filter(|(_, total)| *total <= bar).nth(nth)?;
    let behind = |(other, bound): &(&Candidate, f64)| {
        other.endpoint != chosen.endpoint && (competes(other) || *bound > bar)
    };
    let others = scored(candidates).filter(behind);
    let next = others.min_by(|(_, a), (_, b)| a.total_cmp(b));
    Some(Chosen {
        endpoint: chosen.endpoint,
        total,
        margin_s: next.map(|(_, next_total)| (next_total - total).max(0.0)),
        runner_up: next.map(|(other, _)| other.endpoint),
        ties: u32::try_from(ties).unwrap_or(u32::MAX),
    })
}

/// The choice of [`pick`] where misses were foreseen: only those looked at compete, so only they are gone through.
pub(crate) fn pick_foreseen(candidates: &[Candidate], seen: &Foreseen, seed: u64) -> Option<Chosen> {
    let running = || {
        let at = |position: &usize| candidates.get(*position).and_then(|c| Some((*position, total(c)?)));
        seen.looked_at().iter().filter_map(at)
    };
    let least = running().map(|(_, total)| total).min_by(f64::total_cmp)?;
    let bar = bar(least);
    if seen.rest.is_some_and(|(bound, _)| bound <= bar) {
        // The runner-up is then one of the others further up.
        return pick(candidates, seed);
    }
    let ties = running().filter(|(_, total)| *total <= bar).count();
    let nth = usize::try_from(splitmix64(seed).checked_rem(ties as u64)?).ok()?;
    let (chosen, least) = running().filter(|(_, total)| *total <= bar).nth(nth)?;
    let others = running().filter(|(position, _)| *position != chosen);
    let rest = seen.rest.map(|(bound, position)| (position, bound));
    let next = others.chain(rest).min_by(|(at_a, a), (at_b, b)| a.total_cmp(b).then(at_a.cmp(at_b)));
    let endpoint = |position: usize| candidates.get(position).map(|candidate| candidate.endpoint);
    Some(Chosen {
        endpoint: endpoint(chosen)?,
        total: least,
        margin_s: next.map(|(_, next_total)| (next_total - least).max(0.0)),
        runner_up: next.and_then(|(position, _)| endpoint(position)),
        ties: u32::try_from(ties).unwrap_or(u32::MAX),
    })
}

const fn total(candidate: &Candidate) -> Option<f64> {
    match candidate.verdict {
        Verdict::Scored { total, .. } => Some(total),
        Verdict::Rejected(_) => None,
    }
}

/// Candidates that can take the request, with their totals.
pub(crate) fn scored(candidates: &[Candidate]) -> impl Iterator<Item = (&Candidate, f64)> {
    candidates.iter().filter_map(|candidate| Some((candidate, total(candidate)?)))
}
