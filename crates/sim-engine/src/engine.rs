//! The simulated engine itself: submit, abort, and iterations that take a modelled time.
//!
//! Pure: no clock, no randomness, no IO. A step has two halves, so that a server can show a true state while
//! the step's time passes: [`Engine::begin_step`] fills the batch and prices it, [`Engine::end_step`] makes the
//! progress and emits the tokens. [`Engine::step`] does both, for virtual clocks. Requests may be submitted and
//! aborted between the halves, as they are on a real engine.

use std::collections::VecDeque;

use aya_domain::EngineProfile;
use aya_estimate::step_time_s;

use crate::batch::Work;
use crate::invariants;
use crate::kv::{BLOCK_TOKENS, KvPool, blocks_for};
use crate::sequence::{Sequence, SimRequest};

/// Share of the pool that admission may fill while others run; the rest lets decoders grow.
pub const ADMISSION_HEADROOM: f64 = 0.995;

/// Tokens kept free per request for the rounding to blocks, when its fit is checked.
pub const ROUNDING_TOKENS: u32 = 8;

/// Why a request cannot enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// It exceeds the whole pool and would never run.
    #[error("{need} tokens do not fit into a KV pool of {capacity} tokens")]
    TooLarge { need: u64, capacity: u64 },
    /// The engine's own queue is at its limit.
    #[error("{limit} requests are waiting already")]
    QueueFull { limit: u32 },
    /// A prompt has at least one token.
    #[error("the prompt is empty")]
    EmptyPrompt,
}

/// What one iteration will take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepPlan {
    /// Modelled seconds, not scaled.
    pub duration_s: f64,
    /// Prompt tokens in the batch.
    pub prefill_tokens: u32,
    /// Decoding sequences in the batch.
    pub decode_tokens: u32,
}

/// One token, or the end of a request without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emission {
    pub id: u64,
    /// 1 for the first token of an answer; 0 for a request that has none.
    pub token: u32,
    /// The request is over.
    pub finished: bool,
    /// Prompt tokens that came from the prefix cache.
    pub cached_tokens: u32,
}

/// What one iteration did. Reuse it from step to step: it keeps its buffers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepResult {
    /// Modelled seconds, not scaled; zero if there was nothing to do.
    pub duration_s: f64,
    /// Whether there was anything to do.
    pub busy: bool,
    pub prefill_tokens: u32,
    pub decode_tokens: u32,
    /// In order of admission.
    pub emissions: Vec<Emission>,
    /// Sent back to the queue, last admitted first.
    pub preempted: Vec<u64>,
}

/// Totals since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    pub submitted: u64,
    pub finished: u64,
    pub aborted: u64,
    pub steps: u64,
    pub preemptions: u64,
    /// Prompt tokens of requests whose prefill is done, cached ones included.
    pub prompt_tokens: u64,
    /// The cached ones among them.
    pub cached_tokens: u64,
    pub generation_tokens: u64,
    /// Tokens looked up in the prefix cache, and found there.
    pub prefix_queries: u64,
    pub prefix_hits: u64,
}

/// A continuous-batching engine.
#[derive(Debug)]
pub struct Engine {
    pub(crate) profile: EngineProfile,
    pub(crate) waiting_max: u32,
    /// Blocks that admission may fill while others run.
    pub(crate) admission_limit: u32,
    pub(crate) kv: KvPool,
    /// First come, first served; preempted ones return to the head.
    pub(crate) waiting: VecDeque<Sequence>,
    /// In order of admission.
    pub(crate) running: Vec<Sequence>,
    pub(crate) preempted: Vec<u64>,
    pub(crate) counters: Counters,
    plan: Option<StepPlan>,
}

impl Engine {
    /// An empty engine. `waiting_max` bounds its queue. A profile without sequences or batch tokens gets one
    /// of each, so that every step makes progress.
    #[must_use]
    pub fn new(profile: EngineProfile, waiting_max: u32) -> Self {
        Self::with_prefix_blocks(profile, waiting_max, 1)
    }

    /// The same with a prefix cache that counts by so many blocks at once: one hash per
    /// `blocks * BLOCK_TOKENS` prompt tokens. Traces tell hashes of 512 tokens.
    #[must_use]
    pub fn with_prefix_blocks(profile: EngineProfile, waiting_max: u32, blocks_per_hash: u32) -> Self {
        let blocks = profile.kv_capacity.get() / u64::from(BLOCK_TOKENS);
        let total = u32::try_from(blocks).unwrap_or(u32::MAX);
        Self {
            profile: EngineProfile {
                max_batched_tokens: profile.max_batched_tokens.max(1),
                max_sequences: profile.max_sequences.max(1),
                ..profile
            },
            waiting_max,
            admission_limit: headroom(total),
            kv: KvPool::new(total, blocks_per_hash),
            waiting: VecDeque::new(),
            running: Vec::new(),
            preempted: Vec::new(),
            counters: Counters::default(),
            plan: None,
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`SubmitError`]; the engine is unchanged then.
    pub fn submit(&mut self, mut request: SimRequest) -> Result<(), SubmitError> {
        if request.prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let tokens = u64::from(request.prompt_tokens) + u64::from(request.output_tokens);
        let need = tokens + u64::from(ROUNDING_TOKENS);
        let capacity = self.kv_capacity_tokens();
        if need > capacity {
            return Err(SubmitError::TooLarge { need, capacity });
        }
        if self.waiting.len() >= self.waiting_max as usize {
            return Err(SubmitError::QueueFull { limit: self.waiting_max });
        }
        let full_blocks = (request.prompt_tokens / self.tokens_per_hash()) as usize;
        if let Some(excess) = request.prefix.get(..full_blocks).filter(|p| p.len() < request.prefix.len()) {
            request.prefix = excess.into();
        }
        debug_assert!(!self.contains(request.id), "request {} lives already", request.id);
        self.counters.submitted += 1;
        self.waiting.push_back(Sequence::new(request, self.kv.unit));
        Ok(())
    }

    /// Removes a request and frees what it holds; false if it is not (or no longer) here.
    pub fn abort(&mut self, id: u64) -> bool {
        if let Some(at) = self.running.iter().position(|s| s.request.id == id) {
            let sequence = self.running.remove(at);
            self.kv.release(sequence.shared_hashes(), sequence.private);
        } else if let Some(at) = self.waiting.iter().position(|s| s.request.id == id) {
            self.waiting.remove(at);
        } else {
            return false;
        }
        self.counters.aborted += 1;
        true
    }

    /// Fills the next iteration and prices it; `None` if there is nothing to do. Repeated calls before
    /// [`Engine::end_step`] give the same plan.
    pub fn begin_step(&mut self) -> Option<StepPlan> {
        if self.plan.is_some() {
            return self.plan;
        }
        if self.is_idle() {
            return None;
        }
        let work = self.schedule();
        debug_assert!(work.tokens() > 0, "a step without progress would repeat for ever");
        self.plan = Some(StepPlan {
            duration_s: self.price(&work),
            prefill_tokens: work.prefill_tokens,
            decode_tokens: work.decode_tokens,
        });
        self.plan
    }

    /// Ends the iteration: its tokens are computed, the finished requests leave. Nothing happens if none began.
    pub fn end_step(&mut self, result: &mut StepResult) {
        result.emissions.clear();
        result.preempted.clear();
        let plan = self.plan.take();
        result.busy = plan.is_some();
        result.duration_s = plan.map_or(0.0, |p| p.duration_s);
        result.prefill_tokens = plan.map_or(0, |p| p.prefill_tokens);
        result.decode_tokens = plan.map_or(0, |p| p.decode_tokens);
        if plan.is_none() {
            return;
        }
        self.counters.steps += 1;
        std::mem::swap(&mut result.preempted, &mut self.preempted);
        let Self { running, kv, counters, .. } = self;
        running.retain_mut(|sequence| {
            let emission = progress(sequence, kv, counters);
            result.emissions.extend(emission);
            emission.is_none_or(|e| !e.finished)
        });
        debug_assert_eq!(invariants::cheap(self), Ok(()));
    }

    /// A whole iteration into a buffer that is used again.
    pub fn step_into(&mut self, result: &mut StepResult) {
        self.begin_step();
        self.end_step(result);
    }

    /// A whole iteration.
    pub fn step(&mut self) -> StepResult {
        let mut result = StepResult::default();
        self.step_into(&mut result);
        result
    }

    /// Nothing runs or waits.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    /// Sequences in the batch.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Requests in the engine's own queue, preempted ones included.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a request waits or runs here.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.running.iter().chain(&self.waiting).any(|s| s.request.id == id)
    }

    /// Blocks of the pool.
    #[must_use]
    pub const fn kv_blocks(&self) -> u32 {
        self.kv.total()
    }

    /// Blocks held by running sequences; what is only cached is free.
    #[must_use]
    pub fn kv_blocks_used(&self) -> u32 {
        self.kv.used()
    }

    /// Tokens that fit into the pool.
    #[must_use]
    pub fn kv_capacity_tokens(&self) -> u64 {
        u64::from(self.kv.total()) * u64::from(BLOCK_TOKENS)
    }

    /// Totals since the start.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The cost of a step and the limits of the batch.
    #[must_use]
    pub const fn profile(&self) -> &EngineProfile {
        &self.profile
    }

    /// Prompt tokens that one hash of the prefix cache stands for.
    pub(crate) const fn tokens_per_hash(&self) -> u32 {
        self.kv.unit.saturating_mul(BLOCK_TOKENS)
    }

    fn price(&self, work: &Work) -> f64 {
        let kv_tokens = aya_domain::Tokens(work.kv_tokens).as_f64();
        step_time_s(&self.profile.cost, f64::from(work.tokens()), kv_tokens, work.attention_pairs)
    }
}

/// Moves one sequence to the end of the step; `Some` if it gains a token or ends.
fn progress(sequence: &mut Sequence, kv: &mut KvPool, counters: &mut Counters) -> Option<Emission> {
    if sequence.scheduled == 0 {
        return None;
    }
    let decoded = sequence.decodes();
    sequence.computed = sequence.computed.saturating_add(sequence.scheduled);
    sequence.scheduled = 0;
    publish_prompt(sequence, kv);
    if !sequence.decodes() {
        return None;
    }
    let cached_tokens = sequence.cached_tokens.unwrap_or(0);
    if !decoded && sequence.generated == 0 {
        counters.prompt_tokens += u64::from(sequence.request.prompt_tokens);
        counters.cached_tokens += u64::from(cached_tokens);
    }
    if sequence.generated < sequence.request.output_tokens {
        sequence.generated += 1;
        counters.generation_tokens += 1;
    }
    let finished = sequence.generated >= sequence.request.output_tokens;
    if finished {
        kv.release(sequence.shared_hashes(), sequence.private);
        counters.finished += 1;
    }
    Some(Emission { id: sequence.request.id, token: sequence.generated, finished, cached_tokens })
}

/// Offers the prompt blocks completed in this step to later prompts.
fn publish_prompt(sequence: &mut Sequence, kv: &mut KvPool) {
    let tokens_per_hash = sequence.unit.saturating_mul(BLOCK_TOKENS);
    let complete = sequence.computed.min(sequence.request.prompt_tokens) / tokens_per_hash;
    while sequence.shared < complete && sequence.private >= sequence.unit {
        let Some(hash) = sequence.request.prefix.get(sequence.shared as usize) else { break };
        kv.publish(*hash);
        sequence.shared += 1;
        sequence.private -= sequence.unit;
    }
    debug_assert!(sequence.blocks() >= blocks_for(sequence.computed), "KV without a block");
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a u32 is one")]
fn headroom(total: u32) -> u32 {
    (f64::from(total) * ADMISSION_HEADROOM).floor() as u32
}

#[cfg(test)]
mod tests;
