//! What another policy would have done with the recorded decisions.
//!
//! Each decision is judged on the farm as it was recorded: the other policy's choices do not build up. That answers
//! "where would they differ, and what would each difference have cost", not "what would the day have been"; the
//! simulator answers that.

use std::collections::BTreeMap;

use aya_domain::{Chosen, Decision, EndpointIndex, Terms, Tokens, Verdict};
use aya_placement::{HoldRules, Policy};
use serde::Serialize;

use crate::inputs::Case;

/// Values that one report keeps; beyond it only counts and sums go on.
const VALUES_MAX: usize = 10_000_000;

/// Compares the recorded decisions with another policy's.
#[derive(Debug)]
pub struct WhatIf {
    other: Policy,
    report: WhatIfReport,
    placements: BTreeMap<String, (u64, u64)>,
    regrets: Vec<f64>,
    recorded_ttft: Vec<f64>,
    other_ttft: Vec<f64>,
}

/// How some seconds are spread; absent without any.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Spread {
    pub mean_s: Option<f64>,
    pub p50_s: Option<f64>,
    pub p99_s: Option<f64>,
}

/// One endpoint's placements.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placements {
    pub endpoint: String,
    pub recorded: u64,
    pub other: u64,
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct WhatIfReport {
    pub policy: String,
    pub decisions: u64,
    pub both_placed: u64,
    /// The same endpoint.
    pub agreed: u64,
    /// Of those that both placed; absent without any.
    pub agreement_ratio: Option<f64>,
    pub only_recorded_placed: u64,
    pub only_other_placed: u64,
    /// Predicted cost of the other's choice minus that of the recorded one, by the cost of the recorded policy if it has
    /// one, else of `aya`. Positive: the recorded choice was the better one.
    pub regret: Spread,
    pub regret_sum_s: f64,
    /// Predicted times to the first token, by the same cost.
    pub recorded_ttft: Spread,
    pub other_ttft: Spread,
    pub placements: Vec<Placements>,
}

impl WhatIf {
    /// A comparison with this policy.
    #[must_use]
    pub fn new(other: Policy) -> Self {
        let report = WhatIfReport { policy: other.name.to_string(), ..WhatIfReport::default() };
        Self {
            other,
            report,
            placements: BTreeMap::new(),
            regrets: Vec::new(),
            recorded_ttft: Vec::new(),
            other_ttft: Vec::new(),
        }
    }

    /// Judges one decision. Objectives and hold rules are those that were in force.
    pub fn take(&mut self, case: &Case<'_>) {
        let was = &case.recorded.policy;
        let in_force = |policy: &Policy| Policy {
            hold: HoldRules { max_backlog_s: was.hold.max_backlog_s, ..policy.hold },
            slo_ttft_s: was.slo_ttft_s,
            slo_tpot_s: was.slo_tpot_s,
            ..policy.clone()
        };
        let recorded = case.decide();
        let other = case.decide_by(&in_force(&self.other));
        self.report.decisions += 1;
        self.count(&recorded, |(count, _)| count);
        self.count(&other, |(_, count)| count);
        let (was_at, is_at) = match (recorded.chosen(), other.chosen()) {
            (Some(was), Some(is)) => (was.endpoint, is.endpoint),
            (Some(_), None) => return self.report.only_recorded_placed += 1,
            (None, Some(_)) => return self.report.only_other_placed += 1,
            (None, None) => return,
        };
        self.report.both_placed += 1;
        self.report.agreed += u64::from(was_at == is_at);
        let priced = match (was.is_cost_alone(), Policy::named("aya")) {
            (true, _) | (_, Err(_)) => recorded,
            (false, Ok(aya)) => case.decide_by(&in_force(&aya)),
        };
        if let (Some((was, was_terms)), Some((is, is_terms))) =
            (price(&priced, was_at), price(&priced, is_at))
        {
            self.report.regret_sum_s += is - was;
            keep(&mut self.regrets, is - was);
            keep(&mut self.recorded_ttft, was_terms.predicted_ttft_s);
            keep(&mut self.other_ttft, is_terms.predicted_ttft_s);
        }
    }

    fn count(&mut self, decision: &Decision, side: impl Fn(&mut (u64, u64)) -> &mut u64) {
        if let Some(Chosen { endpoint, .. }) = decision.chosen() {
            let id = crate::json::endpoint_name(decision, *endpoint);
            *side(self.placements.entry(id).or_default()) += 1;
        }
    }

    /// The comparison of all that was taken.
    #[must_use]
    pub fn report(mut self) -> WhatIfReport {
        let (agreed, both) = (Tokens(self.report.agreed).as_f64(), Tokens(self.report.both_placed).as_f64());
        let placements = self.placements.into_iter();
        WhatIfReport {
            agreement_ratio: (self.report.both_placed > 0).then(|| agreed / both),
            regret: spread(&mut self.regrets),
            recorded_ttft: spread(&mut self.recorded_ttft),
            other_ttft: spread(&mut self.other_ttft),
            placements: placements
                .map(|(endpoint, (recorded, other))| Placements { endpoint, recorded, other })
                .collect(),
            ..self.report
        }
    }
}

fn keep(values: &mut Vec<f64>, value: f64) {
    if values.len() < VALUES_MAX && value.is_finite() {
        values.push(value);
    }
}

fn price(decision: &Decision, at: EndpointIndex) -> Option<(f64, Terms)> {
    match decision.candidates.get(at.get())?.verdict {
        Verdict::Scored { total, terms } => Some((total, terms)),
        Verdict::Rejected(_) => None,
    }
}

fn spread(values: &mut [f64]) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |percent: usize| values.get((values.len() * percent / 100).min(values.len().saturating_sub(1)));
    let count = Tokens(values.len() as u64).as_f64();
    let mean = (count > 0.0).then(|| values.iter().sum::<f64>() / count);
    Spread { mean_s: mean, p50_s: at(50).copied(), p99_s: at(99).copied() }
}
