//! Which kind of engine listens on an unknown port: at most three pages, read only, and a verdict. Pure.
//!
//! OpenAI's list of models comes first: every kind that can be placed on serves it, it costs nothing, and its `owned_by`
//! mostly names the program. Where that names a publisher instead, one or two pages that only one kind has decide. Never
//! a page of metrics (some are emptied by reading), of health (SGLang's generates), or anything that is not a GET.
//! What is no engine is told apart by whether asking again may help.

use std::fmt;

use aya_domain::EngineKind;
use serde_json::Value;

/// The first page asked of a port.
const MODELS: &str = "/v1/models";
/// TGI's own facts.
const TGI_INFO: &str = "/info";
const OLLAMA_VERSION: &str = "/api/version";
/// The KServe protocol's description of a server.
const KSERVE: &str = "/v2";
/// The longest foreign word that a verdict repeats, in characters.
const WORD_MAX: usize = 64;

/// One page as it was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard<'a> {
    pub path: &'static str,
    pub status: u16,
    pub body: &'a [u8],
}

/// What to do after what was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextProbe {
    Ask(&'static str),
    Done(Result<EngineKind, NoEngine>),
}

/// Why a port is not taken for an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoEngine {
    /// Nothing usable was heard; an engine that is still starting looks like this.
    Silent(String),
    /// It wants a key before it says anything.
    WantsKey,
    /// It serves OpenAI's list of models, and is of no known kind.
    UnknownKind { owned_by: Option<String> },
    /// A Triton without its OpenAI frontend: requests cannot be sent there.
    NoOpenAiApi,
    /// A scheduler of a farm, not an engine of one.
    Scheduler,
    /// It speaks HTTP and has no list of models.
    Other { status: u16 },
}

impl NoEngine {
    /// The name used in the API.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Silent(_) => "silent",
            Self::WantsKey => "wants_key",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::NoOpenAiApi => "no_openai_api",
            Self::Scheduler => "scheduler",
            Self::Other { .. } => "no_engine",
        }
    }
}

impl fmt::Display for NoEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(why) => write!(f, "{why}"),
            Self::WantsKey => f.write_str("it wants an API key: list it under [[engine]] with api_key_file"),
            Self::UnknownKind { owned_by: Some(owner) } => {
                write!(f, "its models are owned by {owner:?}, which is no known kind of engine")
            }
            Self::UnknownKind { owned_by: None } => {
                f.write_str("it serves models and does not say what it is")
            }
            Self::NoOpenAiApi => f.write_str("a Triton without its OpenAI frontend, which requests need"),
            Self::Scheduler => f.write_str("a scheduler, no engine"),
            Self::Other { status } => write!(f, "no engine: its list of models answers {status}"),
        }
    }
}

/// The next page to ask of a port of which so much was heard, or the verdict.
///
/// The caller gets the pages, with limits on time and bytes, and gives up by itself where one cannot be got.
#[must_use]
pub fn fingerprint(heard: &[Heard<'_>]) -> NextProbe {
    let Some(models) = heard.iter().find(|page| page.path == MODELS) else {
        return NextProbe::Ask(MODELS);
    };
    let list = match listed(models) {
        Ok(list) => list,
        Err(verdict) => return NextProbe::Done(verdict),
    };
    let Some(list) = list else {
        return ask_in_turn(heard, &[TGI_INFO, KSERVE], NoEngine::Other { status: models.status });
    };
    let first = list.first();
    let text = |key: &str| first.and_then(|model| model.get(key)).and_then(Value::as_str);
    let owner = text("owned_by");
    match owner {
        Some("vllm") => done(EngineKind::Vllm),
        Some("sglang") => done(EngineKind::Sglang),
        Some("llamacpp") => done(EngineKind::LlamaCpp),
        Some("tensorrt_llm") => done(EngineKind::TrtLlm),
        Some("Triton Inference Server") => done(EngineKind::Triton),
        Some("aya-sim") => done(EngineKind::Simulated),
        Some("aya") => NextProbe::Done(Err(NoEngine::Scheduler)),
        _ => {
            let owned_by = owner.map(|owner| owner.chars().take(WORD_MAX).collect());
            // TGI calls every model its own owner; Ollama tells the publisher, or no models at all.
            let pages = if owner.is_some() && owner == text("id") {
                [TGI_INFO, OLLAMA_VERSION]
            } else {
                [OLLAMA_VERSION, TGI_INFO]
            };
            ask_in_turn(heard, &pages, NoEngine::UnknownKind { owned_by })
        }
    }
}

/// The models of a list; `None` where there is no such page, and a verdict where the answer already is one.
fn listed(page: &Heard<'_>) -> Result<Option<Vec<Value>>, Result<EngineKind, NoEngine>> {
    let json = serde_json::from_slice::<Value>(page.body).ok();
    let field = |at: &str| json.as_ref().and_then(|json| json.pointer(at));
    match page.status {
        // llama.cpp alone answers every page so while it loads its model.
        503 if field("/error/message").and_then(Value::as_str) == Some("Loading model") => {
            Err(Ok(EngineKind::LlamaCpp))
        }
        401 | 403 => Err(Err(NoEngine::WantsKey)),
        500..=599 => Err(Err(NoEngine::Silent(format!("its list of models answers {}", page.status)))),
        // An Ollama without a model yet says null.
        200 => Ok(field("/data").and_then(|data| data.as_array().cloned().or(data.is_null().then(Vec::new)))),
        _ => Ok(None),
    }
}

/// Asks the first page that was not heard yet, unless one that was heard decides.
fn ask_in_turn(heard: &[Heard<'_>], pages: &[&'static str], otherwise: NoEngine) -> NextProbe {
    for path in pages {
        let Some(page) = heard.iter().find(|page| page.path == *path) else {
            return NextProbe::Ask(path);
        };
        if let Some(verdict) = told_by(page) {
            return NextProbe::Done(verdict);
        }
    }
    NextProbe::Done(Err(otherwise))
}

/// What a page decides that only one kind has.
fn told_by(page: &Heard<'_>) -> Option<Result<EngineKind, NoEngine>> {
    let json: Value = serde_json::from_slice(page.body).ok().filter(|_| page.status == 200)?;
    let is_text = |key: &str| json.get(key).is_some_and(Value::is_string);
    match page.path {
        TGI_INFO => {
            let tgi = is_text("model_id") && json.get("max_concurrent_requests").is_some_and(Value::is_u64);
            tgi.then_some(Ok(EngineKind::Tgi))
        }
        OLLAMA_VERSION => is_text("version").then_some(Ok(EngineKind::Ollama)),
        KSERVE => is_text("name").then_some(Err(NoEngine::NoOpenAiApi)),
        _ => None,
    }
}

const fn done(kind: EngineKind) -> NextProbe {
    NextProbe::Done(Ok(kind))
}

#[cfg(test)]
mod tests;
