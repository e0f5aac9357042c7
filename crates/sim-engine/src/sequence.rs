//! One request inside the simulated engine: how far its prompt and answer are, and which KV it holds.
//!
//! A sequence never touches the pool itself; `batch` and `engine` move blocks and keep these numbers in step.

use std::sync::Arc;

/// What a request asks of the engine. Lengths are facts here: the simulator knows where an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimRequest {
    /// Chosen by the caller, unique among the requests that live at the same time.
    pub id: u64,
    /// At least one is computed, whatever the cache holds.
    pub prompt_tokens: u32,
    /// One chained hash per full block of the prompt (or per so many blocks as the engine's prefix cache counts by), from its start; may be shorter, never wrong.
    pub prefix: Arc<[u64]>,
    /// Tokens of the answer. Zero: the prompt is computed and the request ends (an embedding).
    pub output_tokens: u32,
}

/// A request that waits or runs.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    pub(crate) request: SimRequest,
    /// Tokens whose KV is in the pool.
    pub(crate) computed: u32,
    /// Tokens of the answer emitted so far; they survive preemption.
    pub(crate) generated: u32,
    /// Prefill ends at this many computed tokens: the prompt, and after a preemption the answer so far.
    pub(crate) goal: u32,
    /// Tokens of this sequence in the step that runs now.
    pub(crate) scheduled: u32,
    /// Leading hashes of the prompt whose blocks are held through the prefix cache.
    pub(crate) shared: u32,
    /// Blocks that one hash stands for.
    pub(crate) unit: u32,
    /// Blocks held alone.
    pub(crate) private: u32,
    /// Prompt tokens found in the cache at the first admission; `None` before it.
    pub(crate) cached_tokens: Option<u32>,
}

impl Sequence {
    pub(crate) const fn new(request: SimRequest, unit: u32) -> Self {
        let goal = request.prompt_tokens;
        Self {
            request,
            computed: 0,
            generated: 0,
            goal,
            scheduled: 0,
            shared: 0,
            unit,
            private: 0,
            cached_tokens: None,
        }
    }

    /// Past its prefill: it gains one token per step.
    pub(crate) const fn decodes(&self) -> bool {
        self.computed >= self.goal
    }

    /// Blocks it holds, shared ones included.
    pub(crate) const fn blocks(&self) -> u32 {
        self.shared.saturating_mul(self.unit).saturating_add(self.private)
    }

    /// The hashes of the blocks it holds through the prefix cache.
    pub(crate) fn shared_hashes(&self) -> &[u64] {
        self.request.prefix.get(..self.shared as usize).unwrap_or_default()
    }
}
