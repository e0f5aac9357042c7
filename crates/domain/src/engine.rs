//! What an engine is: its kind, and the facts about that kind that placement and relay rely on.

use std::fmt;
use std::str::FromStr;

use crate::{ModelId, Ratio, Tokens};

/// An inference server program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineKind {
    Vllm,
    Sglang,
    LlamaCpp,
    Tgi,
    TrtLlm,
    Triton,
    Ollama,
    Simulated,
}

/// A text that names no engine kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownEngineKind(pub String);

impl fmt::Display for UnknownEngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<_> = EngineKind::ALL.iter().map(|k| k.as_str()).collect();
        write!(f, "unknown engine kind {:?}; known: {}", self.0, known.join(", "))
    }
}

impl std::error::Error for UnknownEngineKind {}

impl EngineKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Vllm,
        Self::Sglang,
        Self::LlamaCpp,
        Self::Tgi,
        Self::TrtLlm,
        Self::Triton,
        Self::Ollama,
        Self::Simulated,
    ];

    /// The name used in flags, configuration, the wire and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llama.cpp",
            Self::Tgi => "tgi",
            Self::TrtLlm => "trtllm",
            Self::Triton => "triton",
            Self::Ollama => "ollama",
            Self::Simulated => "simulated",
        }
    }

    /// What this kind of engine does, as measured on the real one or read in its source.
    ///
    /// Measured: vLLM 0.32 and llama.cpp of October 2026. Read: SGLang 0.5.23 (`entrypoints/http_server.py`), TGI 3
    /// (`router/src`), TensorRT-LLM (`serve/openai_server.py`), Triton's OpenAI frontend (`python/openai`,
    /// `engine/triton_engine.py`), Ollama (`server/routes.go`, source of August 2026).
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        let base = Capabilities {
            kv: KvAllocation::Preallocated,
            headers: HeadersWhen::AtOnce,
            first_event: FirstEvent::WithFirstToken,
            abort: AbortPolicy::Cancel,
            notices_disconnect_without_stream: true,
            checks_model: Some(true),
            in_flight_beyond_slots: None,
            overload: Overload::Waits,
            health_path: "/health",
        };
        match self {
            Self::Vllm | Self::Simulated => base,
            // Its /health generates a token. A disconnect is noticed after 2 s of a stream, or 4 s without an event.
            Self::Sglang => Capabilities {
                checks_model: None,
                overload: Overload::Refuses(503),
                health_path: "/ready",
                ..base
            },
            // Serves whatever name it is asked for. Beyond `max_concurrent_requests` it refuses.
            Self::Tgi => Capabilities { checks_model: Some(false), overload: Overload::Refuses(429), ..base },
            // Looks once a second whether its client is still there, and then aborts.
            Self::TrtLlm => Capabilities { checks_model: None, ..base },
            // The first event names the role and is sent before anything is scheduled. Nothing cancels a request whose
            // client has gone: it runs to its end unseen, and with some versions of the backend it ends the process
            // (tensorrtllm_backend #176).
            Self::Triton => Capabilities {
                first_event: FirstEvent::BeforeWork,
                abort: AbortPolicy::Drain,
                notices_disconnect_without_stream: false,
                health_path: "/health/ready",
                ..base
            },
            // Headers wait for the first token, a non-streaming disconnect may go unnoticed, any model name is
            // served, and every open request holds one of slots + 4 HTTP threads, the health endpoint's included.
            Self::LlamaCpp => Capabilities {
                kv: KvAllocation::Slots,
                headers: HeadersWhen::FirstToken,
                notices_disconnect_without_stream: false,
                checks_model: Some(false),
                in_flight_beyond_slots: Some(0),
                ..base
            },
            // The first write of a stream comes with the first token, after the model was loaded if need be.
            Self::Ollama => Capabilities {
                kv: KvAllocation::OnDemand,
                headers: HeadersWhen::FirstToken,
                overload: Overload::Refuses(503),
                health_path: "/api/version",
                ..base
            },
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for EngineKind {
    type Err = UnknownEngineKind;

    fn from_str(text: &str) -> Result<Self, UnknownEngineKind> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| UnknownEngineKind(text.to_owned()))
    }
}

/// When an engine claims memory for the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvAllocation {
    /// One pool at start (vLLM, SGLang, TensorRT-LLM): the pool's size and use decide.
    Preallocated,
    /// Context x slots at load (llama.cpp): free slots decide, and the context of one slot.
    Slots,
    /// While it runs (Ollama loading a model): free VRAM decides.
    OnDemand,
}

/// When response headers arrive, which decides what a header timeout means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadersWhen {
    /// Before the request is scheduled: a 200 says nothing about admission.
    AtOnce,
    /// With the first token: a header timeout is a TTFT timeout.
    FirstToken,
}

/// What the first event of a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstEvent {
    /// The engine has begun: it comes with the first token, or right before it.
    WithFirstToken,
    /// Nothing: it is sent before the request is scheduled, so failures come after it.
    BeforeWork,
}

/// What an engine does with more requests than it can work on, unless told otherwise by its flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overload {
    /// They wait inside, without a limit.
    Waits,
    /// It answers with this status from a limit on.
    Refuses(u16),
}

/// What to do with the upstream request when the client has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortPolicy {
    /// Close the connection; the engine cancels.
    Cancel,
    /// Read to the end: this engine does not survive an abort, or works on without a client.
    Drain,
}

impl AbortPolicy {
    /// The name used in configuration and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Drain => "drain",
        }
    }
}

impl fmt::Display for AbortPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for AbortPolicy {
    type Err = UnknownAbortPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownAbortPolicy> {
        let found = [Self::Cancel, Self::Drain].into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| UnknownAbortPolicy(text.to_owned()))
    }
}

/// A text that names no abort policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownAbortPolicy(pub String);

impl fmt::Display for UnknownAbortPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown abort policy {:?}; known: cancel, drain", self.0)
    }
}

impl std::error::Error for UnknownAbortPolicy {}

/// Facts about an engine kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub kv: KvAllocation,
    pub headers: HeadersWhen,
    pub first_event: FirstEvent,
    /// Unless the engine's configuration says otherwise.
    pub abort: AbortPolicy,
    /// Whether a client's disconnect cancels a non-streaming request too.
    pub notices_disconnect_without_stream: bool,
    /// Whether the engine itself refuses a model it does not serve; `None`: not known.
    pub checks_model: Option<bool>,
    /// How many requests beyond its slots the engine may hold without harm; `None`: no such limit.
    pub in_flight_beyond_slots: Option<u32>,
    pub overload: Overload,
    /// Tells whether it is up, and costs it no token.
    pub health_path: &'static str,
}

/// A model as one engine serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedModel {
    pub id: ModelId,
    /// Prompt and answer together, of one request; `None` if the engine does not say.
    pub context_length: Option<Tokens>,
    /// The model an adapter (LoRA) rests on; `None` for a model of its own.
    pub parent: Option<ModelId>,
}

/// How well an engine's prefix cache serves, since its start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PrefixCache {
    /// Prompt tokens looked up, and those of them that were found.
    Counters { asked: Tokens, hit: Tokens },
    /// The engine tells only a share, over a window of its own choice.
    Share(Ratio),
}

impl PrefixCache {
    /// The share of prompt tokens that was found; `None` before the first prompt.
    #[must_use]
    pub fn share(self) -> Option<Ratio> {
        match self {
            Self::Counters { asked: Tokens(0), .. } => None,
            Self::Counters { asked, hit } => Some(Ratio::clamped(hit.as_f64() / asked.as_f64())),
            Self::Share(share) => Some(share),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kv, headers, first event, abort, notices a disconnect, checks the model, beyond slots, overload.
    #[test]
    fn what_each_kind_does() {
        use AbortPolicy::{Cancel, Drain};
        use FirstEvent::{BeforeWork, WithFirstToken};
        use HeadersWhen::{AtOnce, FirstToken};
        use KvAllocation::{OnDemand, Preallocated, Slots};
        use Overload::{Refuses, Waits};
        let (yes, no) = (Some(true), Some(false));
        for (kind, expect) in [
            (EngineKind::Vllm, (Preallocated, AtOnce, WithFirstToken, Cancel, true, yes, None, Waits)),
            (
                EngineKind::Sglang,
                (Preallocated, AtOnce, WithFirstToken, Cancel, true, None, None, Refuses(503)),
            ),
            (EngineKind::LlamaCpp, (Slots, FirstToken, WithFirstToken, Cancel, false, no, Some(0), Waits)),
            (EngineKind::Tgi, (Preallocated, AtOnce, WithFirstToken, Cancel, true, no, None, Refuses(429))),
            (EngineKind::TrtLlm, (Preallocated, AtOnce, WithFirstToken, Cancel, true, None, None, Waits)),
            (EngineKind::Triton, (Preallocated, AtOnce, BeforeWork, Drain, false, yes, None, Waits)),
            (
                EngineKind::Ollama,
                (OnDemand, FirstToken, WithFirstToken, Cancel, true, yes, None, Refuses(503)),
            ),
            (EngineKind::Simulated, (Preallocated, AtOnce, WithFirstToken, Cancel, true, yes, None, Waits)),
        ] {
            let is = kind.capabilities();
            let got = (
                is.kv,
                is.headers,
                is.first_event,
                is.abort,
                is.notices_disconnect_without_stream,
                is.checks_model,
                is.in_flight_beyond_slots,
                is.overload,
            );
            assert_eq!(got, expect, "{kind}");
        }
    }

    #[test]
    fn every_kind_is_parsed_from_its_own_name() {
        for kind in EngineKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        let error = "vLLM".parse::<EngineKind>().unwrap_err().to_string();
        assert!(error.contains("known: vllm, sglang, llama.cpp"), "{error}");
    }
}
