//! What a scheduler sees of an engine's iterations while it relays their tokens.
//!
//! The ledger watches, because it knows the batch: it notes the time between two tokens of a stream if nothing was
//! dispatched and no prefill ran or ended in between, and the time to the first token of a prompt that met an
//! idle engine. Everything else would take interference for slowness.

/// Iterations of one endpoint, as its streams showed them. Only what nothing disturbed is in it: no prompt was in
/// flight between two tokens, and a prompt was alone until its first token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObservedSteps {
    pub decode: Option<DecodeSteps>,
    pub prompts: Vec<PromptAlone>,
}

/// Iterations that only decoded, as means over a short time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeSteps {
    /// Seconds per iteration.
    pub seconds: f64,
    /// Requests of ours that streamed.
    pub decoding: f64,
    /// KV tokens they held.
    pub kv_tokens: f64,
}

/// A prompt that met an idle engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PromptAlone {
    /// Tokens that had to be computed.
    pub uncached: u64,
    /// Seconds to the first token.
    pub seconds: f64,
}

/// Prompts noted between two events; more are as good as none.
pub const PROMPTS_MAX: usize = 4;

/// Undisturbed iterations as sums.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepSums {
    count: u32,
    seconds: f64,
    decoding: f64,
    kv_tokens: f64,
}

impl StepSums {
    /// Notes one iteration and the batch that it computed.
    pub fn add(&mut self, seconds: f64, decoding: u32, kv_tokens: u64) {
        self.count = self.count.saturating_add(1);
        self.seconds += seconds;
        self.decoding += f64::from(decoding);
        self.kv_tokens += aya_domain::Tokens(kv_tokens).as_f64();
    }

    /// The means since the last call; `None` if there was no iteration.
    pub fn take(&mut self) -> Option<DecodeSteps> {
        let Self { count, seconds, decoding, kv_tokens } = std::mem::take(self);
        let mean = |sum: f64| sum / f64::from(count);
        (count > 0).then(|| DecodeSteps {
            seconds: mean(seconds),
            decoding: mean(decoding),
            kv_tokens: mean(kv_tokens),
        })
    }
}
