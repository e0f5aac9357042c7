//! The smallest total wins; the seed chooses among equals.
//!
//! Totals within one part in 10^9 are equal: below that only rounding differs, and the first endpoint in the
//! list must not win every such race.

use aya_domain::{Candidate, Chosen, Verdict, splitmix64};

const TIE: f64 = 1e-9;

/// The best scored candidate; `None` if there is none.
pub(crate) fn pick(candidates: &[Candidate], seed: u64) -> Option<Chosen> {
    let least = scored(candidates).map(|(_, total)| total).min_by(f64::total_cmp)?;
    let bar = least + TIE * least.abs();
    let ties = scored(candidates).filter(|(_, total)| *total <= bar).count();
    let nth = usize::try_from(splitmix64(seed).checked_rem(ties as u64)?).ok()?;
    let (chosen, total) = scored(candidates).filter(|(_, total)| *total <= bar).nth(nth)?;
    let others = scored(candidates).filter(|(other, _)| other.endpoint != chosen.endpoint);
    let next = others.min_by(|(_, a), (_, b)| a.total_cmp(b));
    Some(Chosen {
        endpoint: chosen.endpoint,
        total,
        margin_s: next.map(|(_, next_total)| (next_total - total).max(0.0)),
        runner_up: next.map(|(other, _)| other.endpoint),
        ties: u32::try_from(ties).unwrap_or(u32::MAX),
    })
}

/// Candidates that can take the request, with their totals.
pub(crate) fn scored(candidates: &[Candidate]) -> impl Iterator<Item = (&Candidate, f64)> {
    candidates.iter().filter_map(|candidate| match candidate.verdict {
        Verdict::Scored { total, .. } => Some((candidate, total)),
        Verdict::Rejected(_) => None,
    })
}
