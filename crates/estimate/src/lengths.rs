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
const BUCKETS: u32 = 1_024;
/// The longest answer may stand in one more.
const BUCKETS_MAX: usize = BUCKETS as usize + 1;
/// The start: exponential with this mean, and as heavy as this many answers.
const START_MEAN: f64 = 200.0;
const START_WEIGHT: f64 = 10.0;

/// The distribution of answer lengths of one model.
#[derive(Debug, Clone)]
pub struct LengthDistribution {
    recent: Recent,
    unread: usize,
    /// Tokens per bucket.
    width: u32,
    /// Answers per bucket, up to the longest one seen.
    counts: Vec<u32>,
    /// Share of answers shorter than each bucket's start, the start included; one entry more than there are buckets.
    table: Vec<f64>,
    seen: f64,
}

impl Default for LengthDistribution {
    fn default() -> Self {
        Self::from_histogram(1, Vec::new())
    }
}

impl LengthDistribution {
    /// The distribution that [`LengthDistribution::histogram`] told: it answers alike, but has forgotten which answers
    /// came last. A width of 0 counts as 1.
    #[must_use]
    pub fn from_histogram(width: u32, counts: Vec<u32>) -> Self {
        let mut made = Self {
            recent: Recent::default(),
            unread: 0,
            width: width.max(1),
            counts,
            table: Vec::new(),
            seen: 0.0,
        };
        made.tabulate();
        made
    }

    /// The same for readers: it answers alike, but has forgotten which answers came last.
    #[must_use]
    pub fn published(&self) -> Self {
        let Self { recent: _, unread: _, width, counts, table, seen } = self;
        Self {
            recent: Recent::default(),
            unread: 0,
            width: *width,
            counts: counts.clone(),
            table: table.clone(),
            seen: *seen,
        }
    }

    /// Tokens per bucket, and the answers in each: all that answers are computed from. At most 1,025 buckets.
    #[must_use]
    pub fn histogram(&self) -> (u32, &[u32]) {
        (self.width, &self.counts)
    }

    /// Learns from a completed answer; true if the histogram is a new one, which is so once in 50.
    pub fn observe(&mut self, tokens: u32) -> bool {
        self.recent.push(tokens);
        self.unread += 1;
        if self.unread < REFRESH {
            return false;
        }
        self.unread = 0;
        (self.width, self.counts) = self.recent.histogram();
        self.tabulate();
        true
    }

    /// Mixes the start into the table, so that reading it needs no exponential.
    fn tabulate(&mut self) {
        self.seen = self.counts.iter().map(|count| f64::from(*count)).sum();
        let mut shorter = 0.0;
        let mut from = 0.0;
        self.table.clear();
        self.table.push(0.0);
        for count in &self.counts {
            shorter += f64::from(*count);
            from += f64::from(self.width);
            self.table.push((shorter + START_WEIGHT * start(from)) / (self.seen + START_WEIGHT));
        }
    }

    /// The share of answers shorter than this; below 1, because a longer one may always come.
    #[must_use]
    pub fn share_below(&self, tokens: f64) -> f64 {
        let position = (tokens / f64::from(self.width)).max(0.0);
        let at = bucket(position);
        match (self.table.get(at), self.table.get(at + 1)) {
            (Some(from), Some(to)) => from + (to - from) * (position - whole(at)),
            _ => (self.seen + START_WEIGHT * start(tokens)) / (self.seen + START_WEIGHT),
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

/// The answers that came last, and how many of them fall into each bucket: counted as they come and go, because counting
/// all of them anew for every histogram would cost a request more than finding its model.
#[derive(Debug, Clone, Default)]
struct Recent {
    answers: VecDeque<u32>,
    /// Tokens per bucket of `counts`; 0 before the first histogram, when nothing is counted yet.
    width: u32,
    counts: Vec<u32>,
}

impl Recent {
    fn push(&mut self, tokens: u32) {
        if self.answers.len() == WINDOW
            && let Some(oldest) = self.answers.pop_front()
            && let Some(count) = self.counted(oldest)
        {
            *count -= 1;
        }
        self.answers.push_back(tokens);
        if let Some(count) = self.counted(tokens) {
            *count += 1;
        }
    }

    /// The bucket of an answer; `None` for one so long that the next histogram has wider buckets.
    fn counted(&mut self, tokens: u32) -> Option<&mut u32> {
        self.counts.get_mut(bucket_of(tokens, self.width)?)
    }

    fn histogram(&mut self) -> (u32, Vec<u32>) {
        let longest = self.answers.iter().copied().max().unwrap_or(0);
        let width = longest / BUCKETS + 1;
        if width != self.width {
            self.width = width;
            self.counts = vec![0; BUCKETS_MAX];
            for at in self.answers.iter().filter_map(|tokens| bucket_of(*tokens, width)) {
                if let Some(count) = self.counts.get_mut(at) {
                    *count += 1;
                }
            }
        }
        let used = bucket_of(longest, width).map_or(0, |last| last + 1);
        (width, self.counts.iter().take(used).copied().collect())
    }
}

fn bucket_of(tokens: u32, width: u32) -> Option<usize> {
    usize::try_from(tokens.checked_div(width)?).ok()
}

/// The exponential before anything was seen.
fn start(tokens: f64) -> f64 {
    1.0 - (-tokens.max(0.0) / START_MEAN).exp()
}

/// Of a bucket of the table, which is a small number: exact, and cheaper than rounding the position down.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
const fn whole(bucket: usize) -> f64 {
    bucket as f64
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
        for tokens in lengths {
            distribution.observe(tokens);
        }
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
    fn its_histogram_is_all_that_it_answers_from() {
        let learned = learned((0..5_000).map(|i| i * i % 3_001));
        let (width, counts) = learned.histogram();
        let told = LengthDistribution::from_histogram(width, counts.to_vec());
        for tokens in [0.0, 1.0, 17.3, 500.0, 2_999.5, 3_002.0, 1e6] {
            assert_eq!(told.share_below(tokens).to_bits(), learned.share_below(tokens).to_bits(), "{tokens}");
            assert!((0.0..=1.0).contains(&told.share_below(tokens)));
        }
    }

    /// However the width changes as long answers come and go.
    #[test]
    fn counting_as_they_come_gives_what_counting_all_of_them_would() {
        let mut distribution = LengthDistribution::default();
        let mut all = Vec::new();
        for i in 0..20_000_u32 {
            let longest = [900, 30_000, 1_023, 1_024, 5_000_000][(i / 4_000) as usize];
            let tokens = i.wrapping_mul(2_654_435_761) % (longest + 1);
            all.push(tokens);
            if !distribution.observe(tokens) {
                continue;
            }
            let recent = &all[all.len().saturating_sub(WINDOW)..];
            let width = recent.iter().max().unwrap() / BUCKETS + 1;
            let mut counts = vec![0; (recent.iter().max().unwrap() / width) as usize + 1];
            recent.iter().for_each(|tokens| counts[(tokens / width) as usize] += 1);
            assert_eq!(distribution.histogram(), (width, counts.as_slice()), "after {i}");
            let told = LengthDistribution::from_histogram(width, counts);
            assert_eq!(distribution.published().table, told.table, "after {i}");
        }
    }

    #[test]
    fn it_follows_a_drift_and_never_says_impossible() {
        let drifted = learned((0..9000).map(|i| if i < 4000 { 50 } else { 3_000 }));
        assert!(drifted.share_below(2_900.0) < 0.05, "{}", drifted.share_below(2_900.0));
        assert!(drifted.share_below(1e9) <= 1.0 && drifted.ends_within(5_000.0, 1.0) < 1.0);
    }
}
