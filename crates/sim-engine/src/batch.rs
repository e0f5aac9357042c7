//! What goes into one iteration: decoders first, then running prefills in chunks, then admission.
//!
//! Rules of a vLLM-like scheduler. It only fills the batch; costs and progress belong to `engine`. Once a
//! step has preempted somebody nobody is admitted in it, or the two would swap places for ever.

use aya_estimate::prefill_attention;

use crate::engine::Engine;
use crate::kv::blocks_for;
use crate::sequence::Sequence;

/// The load of one iteration, as the cost model counts it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Work {
    pub(crate) decode_tokens: u32,
    pub(crate) prefill_tokens: u32,
    /// KV tokens that the decoders read.
    pub(crate) kv_tokens: u64,
    /// Query-key pairs of the prefill chunks.
    pub(crate) attention_pairs: f64,
}

impl Work {
    pub(crate) const fn tokens(&self) -> u32 {
        self.decode_tokens.saturating_add(self.prefill_tokens)
    }

    fn add_chunk(&mut self, context: u32, chunk: u32) {
        self.attention_pairs += prefill_attention(f64::from(chunk), f64::from(context));
        self.prefill_tokens += chunk;
    }
}

impl Engine {
    /// Fills the next iteration.
    pub(crate) fn schedule(&mut self) -> Work {
        let mut work = Work::default();
        let preempted = self.schedule_decoders(&mut work);
        self.schedule_prefills(&mut work);
        if !preempted {
            self.admit(&mut work);
        }
        work
    }

    const fn budget(&self, work: &Work) -> u32 {
        self.profile.max_batched_tokens.saturating_sub(work.tokens())
    }

    /// One token for every decoder, each growing its KV; true if somebody had to make room.
    fn schedule_decoders(&mut self, work: &mut Work) -> bool {
        let mut preempted = false;
        let mut at = 0;
        while let Some(sequence) = self.running.get(at) {
            if !sequence.decodes() || self.budget(work) == 0 {
                at += 1;
                continue;
            }
            let grows = sequence.blocks() < blocks_for(sequence.computed.saturating_add(1));
            if grows && !self.kv.take(1) {
                // The victim stands at or behind `at`, so it has no token in this step yet.
                preempted |= self.preempt_last();
                continue;
            }
            let Some(sequence) = self.running.get_mut(at) else { break };
            sequence.private += u32::from(grows);
            sequence.scheduled = 1;
            work.decode_tokens += 1;
            work.kv_tokens += u64::from(sequence.computed) + 1;
            at += 1;
        }
        preempted
    }

    fn schedule_prefills(&mut self, work: &mut Work) {
        for sequence in &mut self.running {
            let budget = self.profile.max_batched_tokens.saturating_sub(work.tokens());
            if budget == 0 {
                break;
            }
            if sequence.decodes() {
                continue;
            }
            let chunk = sequence.goal.saturating_sub(sequence.computed).min(budget);
            sequence.scheduled = chunk;
            work.add_chunk(sequence.computed, chunk);
        }
    }

    fn admit(&mut self, work: &mut Work) {
        while self.budget(work) > 0 && self.running.len() < self.profile.max_sequences as usize {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            if !self.allocate_prompt(&mut sequence) {
                self.waiting.push_front(sequence);
                break;
            }
            let chunk = sequence.goal.saturating_sub(sequence.computed).min(self.budget(work));
            sequence.scheduled = chunk;
            work.add_chunk(sequence.computed, chunk);
            self.running.push(sequence);
        }
    }

    /// Gives a waiting sequence the blocks of its whole prompt; all or none.
    fn allocate_prompt(&mut self, sequence: &mut Sequence) -> bool {
        // One token at least is computed, or there would be nothing to sample from.
        let reusable = (sequence.goal.saturating_sub(1) / self.tokens_per_hash()) as usize;
        let hashes = &sequence.request.prefix;
        let hashes = hashes.get(..hashes.len().min(reusable)).unwrap_or_default();
        let hits = self.kv.prefix.leading_hits(hashes);
        let cached = hashes.get(..hits).unwrap_or_default();
        let shared = u32::try_from(hits).unwrap_or(u32::MAX);
        let new = blocks_for(sequence.goal).saturating_sub(shared.saturating_mul(sequence.unit));

        let demand = self.kv.demand(cached, new);
        // Alone it may use the headroom too: nobody else can give any back.
        let limit = if self.running.is_empty() { self.kv.total() } else { self.admission_limit };
        if self.kv.used().saturating_add(demand) > limit {
            return false;
        }
        for hash in cached {
            self.kv.prefix.acquire(*hash);
        }
        if !self.kv.take(new) {
            debug_assert!(false, "the demand was checked before");
            self.kv.prefix.release_all(cached);
            return false;
        }
        sequence.shared = shared;
        sequence.private = new;
        sequence.computed = shared.saturating_mul(self.tokens_per_hash());
        if sequence.cached_tokens.is_none() {
            sequence.cached_tokens = Some(sequence.computed);
            self.counters.prefix_queries += u64::from(sequence.goal);
            self.counters.prefix_hits += u64::from(sequence.computed);
        }
        true
    }

    /// Sends the most recently admitted sequence back to the head of the queue, to be recomputed later.
    fn preempt_last(&mut self) -> bool {
        let Some(mut sequence) = self.running.pop() else { return false };
        self.kv.release(sequence.shared_hashes(), sequence.private);
        sequence.shared = 0;
        sequence.private = 0;
        sequence.computed = 0;
        sequence.scheduled = 0;
        sequence.goal = sequence.request.prompt_tokens.saturating_add(sequence.generated);
        self.counters.preemptions += 1;
        self.preempted.push(sequence.request.id);
        self.waiting.push_front(sequence);
        true
    }
}
