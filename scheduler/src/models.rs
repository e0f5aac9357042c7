//! What the scheduler has learned about each model: output lengths and bytes per token.
//!
//! Readers take published numbers without a lock. A finished request teaches only if nobody else teaches at
//! this moment: a lost sample costs nothing, a wait would.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya_domain::Tokens;
use aya_estimate::{OutputPrior, TokenRatio};
use parking_lot::Mutex;

use crate::metrics::ModelMetrics;

/// One model's state; lives as long as the scheduler, its number is bounded by the fleet's models.
#[derive(Debug)]
pub(crate) struct ModelState {
    pub(crate) metrics: Arc<ModelMetrics>,
    learned: Mutex<Learned>,
    /// Requests so far: the position of a round robin, and part of the seed.
    sequence: AtomicU64,
    expected_output: AtomicU64,
    expected_residual: AtomicU64,
    bytes_per_token: AtomicU64,
}

#[derive(Debug, Default)]
struct Learned {
    output: OutputPrior,
    ratio: TokenRatio,
}

/// What a finished request teaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lesson {
    pub(crate) prompt_bytes: u64,
    pub(crate) messages: u32,
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) completion_tokens: Option<u64>,
}

impl ModelState {
    pub(crate) fn new(metrics: Arc<ModelMetrics>) -> Self {
        let state = Self {
            metrics,
            learned: Mutex::new(Learned::default()),
            sequence: AtomicU64::new(0),
            expected_output: AtomicU64::new(0),
            expected_residual: AtomicU64::new(0),
            bytes_per_token: AtomicU64::new(0),
        };
        state.publish(&state.learned.lock());
        state
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Mean output in tokens, and the mean remaining output of a running request.
    pub(crate) fn output(&self) -> (f64, f64) {
        let read = |cell: &AtomicU64| f64::from_bits(cell.load(Ordering::Relaxed));
        (read(&self.expected_output), read(&self.expected_residual))
    }

    pub(crate) fn prompt_tokens(&self, prompt_bytes: u64, messages: u32) -> Tokens {
        let ratio = TokenRatio::known(f64::from_bits(self.bytes_per_token.load(Ordering::Relaxed)));
        ratio.estimate(prompt_bytes, messages)
    }

    pub(crate) fn learn(&self, lesson: Lesson) {
        let Some(mut learned) = self.learned.try_lock() else { return };
        if let Some(tokens) = lesson.completion_tokens {
            learned.output.observe(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        if let Some(tokens) = lesson.prompt_tokens {
            learned.ratio.observe(lesson.prompt_bytes, lesson.messages, Tokens(tokens));
        }
        self.publish(&learned);
    }

    fn publish(&self, learned: &Learned) {
        self.expected_output.store(learned.output.expected().to_bits(), Ordering::Relaxed);
        self.expected_residual.store(learned.output.residual().to_bits(), Ordering::Relaxed);
        self.bytes_per_token.store(learned.ratio.bytes_per_token().to_bits(), Ordering::Relaxed);
    }
}
