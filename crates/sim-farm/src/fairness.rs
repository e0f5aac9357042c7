//! Whether refusals hit prompts of every length alike.

use crate::summary::{Outcome, RequestRecord};

/// Refusals over the lengths of prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectedByPrompt {
    /// The share of requests without an answer, from the quarter with the shortest prompts to that with the longest.
    pub quartiles: [f64; 4],
    /// Mean prompt tokens of those without an answer; `None`: all were answered.
    pub mean_rejected: Option<f64>,
    /// Mean prompt tokens of those with one; `None`: none was.
    pub mean_completed: Option<f64>,
}

impl RejectedByPrompt {
    /// Looks at a finished run.
    #[must_use]
    pub fn of(requests: &[RequestRecord]) -> Self {
        let mut sorted: Vec<&RequestRecord> = requests.iter().collect();
        // The sort is stable, so requests of one length are spread over a border as they came.
        sorted.sort_by_key(|request| request.prompt_tokens);
        let part = |quarter: usize| {
            let (from, to) = (sorted.len() * quarter / 4, sorted.len() * (quarter + 1) / 4);
            let part = sorted.get(from..to).unwrap_or_default();
            mean(part.iter().map(|request| if is_rejected(request) { 1.0 } else { 0.0 })).unwrap_or(0.0)
        };
        let prompts = |rejected: bool| {
            let of_those = requests.iter().filter(|request| is_rejected(request) == rejected);
            mean(of_those.map(|request| f64::from(request.prompt_tokens)))
        };
        Self {
            quartiles: [part(0), part(1), part(2), part(3)],
            mean_rejected: prompts(true),
            mean_completed: prompts(false),
        }
    }
}

fn is_rejected(request: &RequestRecord) -> bool {
    request.outcome != Outcome::Completed
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_from_the_shortest_prompts_to_the_longest() {
        let record = |prompt_tokens: u32| RequestRecord {
            outcome: if prompt_tokens < 4 { Outcome::Completed } else { Outcome::Rejected },
            arrived_s: 0.0,
            endpoint: None,
            sent_s: None,
            ttft_s: 0.0,
            e2e_s: 0.0,
            prompt_tokens,
            output_tokens: 1,
        };
        let requests: Vec<RequestRecord> = [7, 1, 3, 5, 2, 6, 0, 4].map(record).to_vec();
        let found = RejectedByPrompt::of(&requests);
        assert_eq!(found.quartiles.map(|share| share > 0.5), [false, false, true, true]);
        assert_eq!((found.mean_rejected, found.mean_completed), (Some(5.5), Some(1.5)));
        assert_eq!(RejectedByPrompt::of(&[]).mean_rejected, None);
    }
}
