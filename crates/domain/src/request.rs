//! A request as placement sees it: classified and body-free. Prompts never come this far.

use crate::{EndpointId, ModelId, MonoTime, Priority, PromptPrefix, RequestId, Slo, TenantId, Tokens};

/// What is asked of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    Chat,
    Completion,
    Embedding,
}

impl RequestKind {
    /// The name used in records and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "completion",
            Self::Embedding => "embedding",
        }
    }
}

/// The view of a request that decides where it goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub id: RequestId,
    /// Counts the model's requests: the round-robin position, and part of the seed.
    pub sequence: u64,
    pub model: ModelId,
    pub kind: RequestKind,
    pub stream: bool,
    /// Bytes of prompt text in the body.
    pub prompt_bytes: u64,
    /// The estimate that costs are computed with.
    pub prompt_tokens: Tokens,
    /// No tokenizer makes fewer tokens of this prompt; only this refuses a request for good.
    pub prompt_tokens_min: Tokens,
    /// The client's limit on the answer, if it set one.
    pub max_tokens: Option<Tokens>,
    /// The answer's expected length in tokens: a running mean, at most `max_tokens`.
    pub expected_output: f64,
    /// Mean remaining output of a request that is already running, in tokens: `E[o^2] / (2 E[o])`.
    pub expected_residual: f64,
    pub arrived_at: MonoTime,
    pub priority: Priority,
    pub tenant: TenantId,
    /// Not dispatched at or after this instant; `None`: only the configured waits end it.
    pub deadline: Option<MonoTime>,
    /// What it was promised; `None`: the objectives of the policy.
    pub slo: Option<Slo>,
    /// How its prompt begins; empty where nobody keeps account of caches.
    pub prefix: PromptPrefix,
    /// Endpoints that already failed this request; never chosen again.
    pub tried: Vec<EndpointId>,
}
