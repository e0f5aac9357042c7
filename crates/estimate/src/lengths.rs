//! How likely a running answer ends within its next tokens: the distribution of the lengths seen lately.
//!
//! Whether a pause breaks an answer's objective depends on how much of it is left, and a mean hides exactly that:
//! most answers are short. No length is predicted for a single request.

use std::collections::VecDeque;

/// Answers remembered.
const WINDOW: usize = 4_096;
/// The table is made anew after so many further answers.
const REFRESH: usize = 50;
/// Buckets of the table; short answers get a bucket per token.
const BUCKETS: usize = 1_024;
/// The start: exponential with this mean, and as heavy as this many answers.
const START_MEAN: f64 = 200.0;
const START_WEIGHT: f64 = 10.0;

/// The distribution of answer lengths of one model.
#[derive(Debug, Clone)]
pub struct LengthDistribution {
    recent: VecDeque<u32>,
    unread: usize,
    /// Tokens per bucket.
    width: f64,
    /// Share of answers no longer than each bucket's start; ends with 1 beyond the longest one seen.
    table: Vec<f64>,
    seen: f64,
}

impl Default for LengthDistribution {
    fn default() -> Self {
        Self { recent: VecDeque::new(), unread: 0, width: 1.0, table: Vec::new(), seen: 0.0 }
    }
}

impl LengthDistribution {
    /// Learns from a completed answer.
    pub fn observe(&mut self, tokens: u32) {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(tokens);
        self.unread += 1;
        if self.unread >= REFRESH {
            self.unread = 0;
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        let longest = self.recent.iter().copied().max().unwrap_or(0) as usize;
        let width = (longest / BUCKETS + 1).max(1);
        let mut table = vec![0.0; longest / width + 2];
        for tokens in &self.recent {
            if let Some(bucket) = table.get_mut(*tokens as usize / width + 1) {
                *bucket += 1.0;
            }
        }
        self.seen = table.iter().sum();
        let mut sum = 0.0;
        for bucket in &mut table {
            sum += *bucket;
            *bucket = sum / self.seen.max(1.0);
        }
        self.table = table;
        self.width = f64::from(u32::try_from(width).unwrap_or(u32::MAX));
    }

    /// The share of answers shorter than this; below 1, because a longer one may always come.
    #[must_use]
    pub fn share_below(&self, tokens: f64) -> f64 {
        let start = 1.0 - (-tokens.max(0.0) / START_MEAN).exp();
        (self.seen * self.seen_below(tokens) + START_WEIGHT * start) / (self.seen + START_WEIGHT)
    }

    fn seen_below(&self, tokens: f64) -> f64 {
        let position = (tokens / self.width).max(0.0);
        let at = bucket(position);
        match (self.table.get(at), self.table.get(at + 1)) {
            (Some(from), Some(to)) => from + (to - from) * (position - position.floor()),
            _ => 1.0,
        }
    }

    /// The probability that an answer of which `generated` tokens have come ends within `further` more.
    #[must_use]
    pub fn ends_within(&self, generated: f64, further: f64) -> f64 {
        if further <= 0.0 {
            return 0.0;
        }
        let before = self.share_below(generated);
        ((self.share_below(generated + further) - before) / (1.0 - before).max(1e-12)).clamp(0.0, 1.0)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
fn bucket(position: f64) -> usize {
    position as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(lengths: impl IntoIterator<Item = u32>) -> LengthDistribution {
        let mut distribution = LengthDistribution::default();
        lengths.into_iter().for_each(|tokens| distribution.observe(tokens));
        distribution
    }

    #[test]
    fn the_start_has_no_memory() {
        let start = LengthDistribution::default();
        let half = 1.0 - (-0.5_f64).exp();
        for generated in [0.0, 10.0, 1_000.0] {
            assert!((start.ends_within(generated, 100.0) - half).abs() < 1e-9, "{generated}");
        }
        assert!(start.ends_within(50.0, 0.0) <= 0.0 && start.ends_within(50.0, -3.0) <= 0.0);
    }

    #[test]
    fn what_was_seen_decides() {
        let short = learned((0..4000).map(|i| if i % 2 == 0 { 13 } else { 400 }));
        assert!((short.share_below(14.0) - 0.5).abs() < 0.01);
        assert!((short.ends_within(0.0, 20.0) - 0.5).abs() < 0.01);
        assert!(short.ends_within(14.0, 300.0) < 0.01, "past 13 tokens it is a long one");
        assert!(short.ends_within(390.0, 20.0) > 0.9);
    }

    #[test]
    fn it_follows_a_drift_and_never_says_impossible() {
        let drifted = learned((0..9000).map(|i| if i < 4000 { 50 } else { 3_000 }));
        assert!(drifted.share_below(2_900.0) < 0.05, "{}", drifted.share_below(2_900.0));
        assert!(drifted.share_below(1e9) <= 1.0 && drifted.ends_within(5_000.0, 1.0) < 1.0);
    }
}
