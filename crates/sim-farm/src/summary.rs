//! What became of the requests, and the numbers that policies are compared by.
//!
//! Goodput is the share of all requests that met both objectives; what failed or was rejected missed them. A
//! percentile is the element at `floor(p*n)` of the sorted list.

use crate::fairness::RejectedByPrompt;

/// What a client was promised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objectives {
    /// Seconds to the first token.
    pub ttft_s: f64,
    /// Seconds per further token, on average over an answer.
    pub tpot_s: f64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Completed,
    /// It fits nowhere, or waited as long as it may.
    Rejected,
    /// The engine refused it, or broke off its answer.
    Failed,
}

/// One request after its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestRecord {
    pub outcome: Outcome,
    pub arrived_s: f64,
    /// The last endpoint it was sent to.
    pub endpoint: Option<usize>,
    /// When it was sent there; `None`: never.
    pub sent_s: Option<f64>,
    /// From its arrival; completed requests only.
    pub ttft_s: f64,
    pub e2e_s: f64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
}

impl RequestRecord {
    /// Seconds per token after the first; `None` for an answer of one token, or none.
    #[must_use]
    pub fn tpot_s(&self) -> Option<f64> {
        let further = self.output_tokens.saturating_sub(1);
        let completed = self.outcome == Outcome::Completed;
        (completed && further > 0).then(|| (self.e2e_s - self.ttft_s) / f64::from(further))
    }

    /// Whether both objectives were met.
    #[must_use]
    pub fn met(&self, objectives: &Objectives) -> bool {
        self.outcome == Outcome::Completed
            && self.ttft_s <= objectives.ttft_s
            && self.tpot_s().is_none_or(|tpot| tpot <= objectives.tpot_s)
    }
}

/// A finished run.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    pub requests: Vec<RequestRecord>,
    /// Seconds of virtual time.
    pub duration_s: f64,
    pub decisions: u64,
    pub preemptions: u64,
    /// Prompt tokens found in engines' prefix caches, and those looked for there.
    pub prefix_hits: u64,
    pub prefix_queries: u64,
}

/// A run in numbers. A number that no request gave is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub requests: usize,
    pub goodput_ratio: f64,
    pub ttft_p50_s: Option<f64>,
    pub ttft_p95_s: Option<f64>,
    pub ttft_p99_s: Option<f64>,
    pub tpot_p50_s: Option<f64>,
    pub tpot_p99_s: Option<f64>,
    pub e2e_mean_s: Option<f64>,
    /// Requests without an answer, for whatever reason.
    pub rejected: usize,
    pub rejected_by_prompt: RejectedByPrompt,
    pub preemptions: u64,
    pub prefix_hit_ratio: Option<f64>,
    pub duration_s: f64,
}

impl Results {
    /// The numbers of this run.
    #[must_use]
    pub fn summary(&self, objectives: &Objectives) -> Summary {
        let completed = || self.requests.iter().filter(|r| r.outcome == Outcome::Completed);
        let ttft = sorted(completed().map(|r| r.ttft_s));
        let tpot = sorted(completed().filter_map(RequestRecord::tpot_s));
        let done = completed().count();
        let met = self.requests.iter().filter(|r| r.met(objectives)).count();
        Summary {
            requests: self.requests.len(),
            goodput_ratio: share(met as u64, self.requests.len() as u64).unwrap_or(0.0),
            ttft_p50_s: percentile(&ttft, 50),
            ttft_p95_s: percentile(&ttft, 95),
            ttft_p99_s: percentile(&ttft, 99),
            tpot_p50_s: percentile(&tpot, 50),
            tpot_p99_s: percentile(&tpot, 99),
            e2e_mean_s: mean(completed().map(|r| r.e2e_s), done),
            rejected: self.requests.len() - done,
            rejected_by_prompt: RejectedByPrompt::of(&self.requests),
            preemptions: self.preemptions,
            prefix_hit_ratio: share(self.prefix_hits, self.prefix_queries),
            duration_s: self.duration_s,
        }
    }
}

impl Summary {
    /// The share of requests without an answer.
    #[must_use]
    pub fn rejected_ratio(&self) -> f64 {
        share(self.rejected as u64, self.requests as u64).unwrap_or(0.0)
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied()
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests and tokens stay far below 2^53")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests stay far below 2^53")]
fn mean(values: impl Iterator<Item = f64>, count: usize) -> Option<f64> {
    (count > 0).then(|| values.sum::<f64>() / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTIVES: Objectives = Objectives { ttft_s: 1.0, tpot_s: 0.1 };

    fn record(outcome: Outcome, ttft_s: f64, e2e_s: f64, output_tokens: u32) -> RequestRecord {
        RequestRecord {
            outcome,
            arrived_s: 0.0,
            endpoint: None,
            sent_s: None,
            ttft_s,
            e2e_s,
            prompt_tokens: 1,
            output_tokens,
        }
    }

    #[test]
    fn both_objectives_count_and_a_single_token_has_no_second_one() {
        for (outcome, ttft, e2e, output, met) in [
            (Outcome::Completed, 1.0, 2.0, 11, true),
            (Outcome::Completed, 1.01, 2.0, 11, false),
            (Outcome::Completed, 0.5, 2.0, 11, false),
            (Outcome::Completed, 0.5, 9.0, 1, true),
            (Outcome::Rejected, 0.0, 0.0, 11, false),
            (Outcome::Failed, 0.0, 0.0, 11, false),
        ] {
            assert_eq!(record(outcome, ttft, e2e, output).met(&OBJECTIVES), met, "{outcome:?} {ttft} {e2e}");
        }
    }

    #[test]
    fn what_was_rejected_missed_but_has_no_times() {
        let results = Results {
            requests: vec![record(Outcome::Completed, 0.2, 0.4, 3), record(Outcome::Rejected, 0.0, 0.0, 3)],
            duration_s: 1.0,
            decisions: 2,
            preemptions: 0,
            prefix_hits: 0,
            prefix_queries: 0,
        };
        let summary = results.summary(&OBJECTIVES);
        assert!((summary.goodput_ratio - 0.5).abs() < 1e-12);
        assert_eq!((summary.rejected, summary.ttft_p50_s, summary.prefix_hit_ratio), (1, Some(0.2), None));
    }

    #[test]
    fn a_percentile_is_an_element_of_the_list() {
        let list: Vec<f64> = (0..200).map(f64::from).collect();
        assert_eq!(percentile(&list, 50), Some(100.0));
        assert_eq!(percentile(&list, 99), Some(198.0));
        assert_eq!(percentile(&[7.0], 99), Some(7.0));
        assert_eq!(percentile(&[], 99), None);
    }
}
