//! The counts of one endpoint: how many requests are there, in which stage, and with how many tokens.
//!
//! Atomics and nothing else, so that `interleavings` can run this very file under every order of its steps. What a
//! request has added is in its [`Held`], and exactly that is taken back. Must never call out: an order of steps that
//! depends on more than these counts could not be explored.

use super::sync::{AtomicU32, AtomicU64, Ordering};

#[derive(Debug)]
pub(super) struct Counts {
    in_flight: AtomicU32,
    prefilling: AtomicU32,
    prefill_tokens: AtomicU64,
    decoding: AtomicU32,
    decode_kv_tokens: AtomicU64,
    /// Prompt tokens of everything in flight, cached ones included.
    prompts: AtomicU64,
}

/// What one request has added, until it is released.
#[derive(Debug)]
pub(super) struct Held {
    stage: Stage,
    prompt_tokens: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prefill { uncached: u64 },
    Decode { kv_tokens: u64 },
}

impl Held {
    pub(super) fn decodes(&self) -> bool {
        matches!(self.stage, Stage::Decode { .. })
    }
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            prefilling: AtomicU32::new(0),
            prefill_tokens: AtomicU64::new(0),
            decoding: AtomicU32::new(0),
            decode_kv_tokens: AtomicU64::new(0),
            prompts: AtomicU64::new(0),
        }
    }

    /// Everything that was done before the release of whoever is no longer counted here is seen afterwards.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(super) fn prefilling(&self) -> u32 {
        self.prefilling.load(Ordering::Relaxed)
    }

    pub(super) fn prefill_tokens(&self) -> u64 {
        self.prefill_tokens.load(Ordering::Relaxed)
    }

    pub(super) fn decoding(&self) -> u32 {
        self.decoding.load(Ordering::Relaxed)
    }

    pub(super) fn decode_kv_tokens(&self) -> u64 {
        self.decode_kv_tokens.load(Ordering::Relaxed)
    }

    pub(super) fn prompts(&self) -> u64 {
        self.prompts.load(Ordering::Relaxed)
    }

    /// `None` unless there are still as many requests in flight as were `seen`: so whoever sees room gets no more than
    /// that, however many saw it.
    pub(super) fn claim(&self, seen: u32, prompt_tokens: u64, uncached: u64) -> Option<Held> {
        let more = seen.checked_add(1)?;
        self.in_flight.compare_exchange(seen, more, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        self.prefilling.fetch_add(1, Ordering::Relaxed);
        self.prefill_tokens.fetch_add(uncached, Ordering::Relaxed);
        self.prompts.fetch_add(prompt_tokens, Ordering::Relaxed);
        Some(Held { stage: Stage::Prefill { uncached }, prompt_tokens })
    }

    /// From prefill to decode: the uncached tokens that were computed. `None` if it decodes already.
    pub(super) fn first_token(&self, held: &mut Held) -> Option<u64> {
        let Stage::Prefill { uncached } = held.stage else { return None };
        held.stage = Stage::Decode { kv_tokens: held.prompt_tokens };
        self.decoding.fetch_add(1, Ordering::Relaxed);
        self.decode_kv_tokens.fetch_add(held.prompt_tokens, Ordering::Relaxed);
        take_back(&self.prefilling, Ordering::Relaxed);
        take_back_tokens(&self.prefill_tokens, uncached);
        Some(uncached)
    }

    /// This many more tokens of a request that decodes.
    pub(super) fn tokens(&self, held: &mut Held, count: u64) {
        if let Stage::Decode { kv_tokens } = &mut held.stage {
            // What is added has to be what is taken back, also at the limit.
            let more = count.min(u64::MAX - *kv_tokens);
            *kv_tokens += more;
            self.decode_kv_tokens.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// Takes everything back, its place last: whoever gets that finds the rest gone.
    pub(super) fn release(&self, held: &Held) {
        match held.stage {
            Stage::Prefill { uncached } => {
                take_back(&self.prefilling, Ordering::Relaxed);
                take_back_tokens(&self.prefill_tokens, uncached);
            }
            Stage::Decode { kv_tokens } => {
                take_back(&self.decoding, Ordering::Relaxed);
                take_back_tokens(&self.decode_kv_tokens, kv_tokens);
            }
        }
        take_back_tokens(&self.prompts, held.prompt_tokens);
        take_back(&self.in_flight, Ordering::AcqRel);
    }
}

/// No count is ever below zero: the model checker runs with these assertions.
fn take_back(requests: &AtomicU32, ordering: Ordering) {
    let before = requests.fetch_sub(1, ordering);
    debug_assert!(before > 0, "a lease was released twice");
}

fn take_back_tokens(tokens: &AtomicU64, count: u64) {
    let before = tokens.fetch_sub(count, Ordering::Relaxed);
    debug_assert!(before >= count, "{count} tokens of {before} were taken back");
}
