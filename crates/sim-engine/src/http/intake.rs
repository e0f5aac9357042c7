//! From a parsed body to a request in the engine: limits, the answer's length, faults, the id.

use std::sync::Arc;

use axum::http::HeaderMap;
use aya_domain::Tokens;

use super::App;
use super::body::{Common, StreamOptions};
use super::error::ApiError;
use crate::faults::{FAULT_HEADER, Fault};
use crate::inbox::{Generation, Submission};
use crate::prompt::Prompt;
use crate::sequence::SimRequest;
use crate::text;

/// Longest `X-Request-Id` taken over, in bytes.
const REQUEST_ID_MAX_BYTES: usize = 128;

/// A generation that can be submitted.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) key: u64,
    /// The client's `X-Request-Id`, or one made here.
    pub(super) request_id: Arc<str>,
    pub(super) model: String,
    pub(super) prompt: Prompt,
    pub(super) prompt_tokens: u32,
    pub(super) output_tokens: u32,
    /// The limit ends the answer, not the model.
    pub(super) ends_by_length: bool,
    pub(super) text_seed: u64,
    pub(super) stream: bool,
    pub(super) options: StreamOptions,
    pub(super) fault: Option<Fault>,
}

/// The model to answer as; without a name it is the first one, as in vLLM.
pub(super) fn model(app: &App, asked: Option<&String>) -> Result<String, ApiError> {
    let facts = &app.facts;
    match asked {
        None => Ok(facts.model().to_owned()),
        Some(name) if facts.models.contains(name) => Ok(name.clone()),
        Some(name) => Err(ApiError::UnknownModel { model: name.clone(), known: facts.models.join(", ") }),
    }
}

/// Checks a generation against the limits and draws its answer.
pub(super) fn plan(
    app: &App,
    headers: &HeaderMap,
    prompt: Prompt,
    max_tokens: Option<u64>,
    common: &Common,
) -> Result<Plan, ApiError> {
    let model = model(app, common.model.as_ref())?;
    if common.n.is_some_and(|n| n != 1) {
        let message = "n other than 1 is not simulated".to_owned();
        return Err(ApiError::Invalid { param: Some("n"), message });
    }
    let limit = answer_limit(app, &prompt, max_tokens)?;
    let key = app.next_key();
    let drawn = match common.seed {
        // The same seed and prompt give the same answer, as far as a simulator can promise that.
        Some(seed) => prompt.hash ^ seed.cast_unsigned(),
        None => app.seed(key, 0),
    };
    let natural = text::answer_length(drawn, app.facts.mean_output_tokens);
    let ends_by_length = common.ignore_eos == Some(true) || natural > limit;
    Ok(Plan {
        key,
        request_id: request_id(app, headers, key),
        model,
        prompt_tokens: u32::try_from(prompt.tokens).unwrap_or(u32::MAX),
        prompt,
        output_tokens: if ends_by_length { limit } else { natural },
        ends_by_length,
        text_seed: app.seed(drawn, 1),
        stream: common.stream == Some(true),
        options: common.stream_options.unwrap_or_default(),
        fault: fault(app, headers, key)?,
    })
}

/// The longest answer that the client and the context allow.
fn answer_limit(app: &App, prompt: &Prompt, max_tokens: Option<u64>) -> Result<u32, ApiError> {
    let context = app.facts.context_length;
    let room = app.facts.room_after(Tokens(prompt.tokens));
    if room == 0 {
        let message = format!(
            "This model's maximum context length is {context} tokens. However, your request has {} input tokens. \
             Please reduce the length of the input prompt.",
            prompt.tokens
        );
        return Err(ApiError::TooLong { param: "input_text", message });
    }
    let limit = match max_tokens {
        None => room,
        Some(0) => {
            let message = "max_tokens must be at least 1, got 0.".to_owned();
            return Err(ApiError::Invalid { param: Some("max_tokens"), message });
        }
        Some(asked) if asked > room => {
            let message = format!(
                "max_tokens={asked} is too large: this model's maximum context length is {context} tokens and \
                 your request has {} input tokens.",
                prompt.tokens
            );
            return Err(ApiError::TooLong { param: "max_tokens", message });
        }
        Some(asked) => asked,
    };
    Ok(u32::try_from(limit).unwrap_or(u32::MAX))
}

/// The client's id if it is safe to repeat, else one made here.
pub(super) fn request_id(app: &App, headers: &HeaderMap, key: u64) -> Arc<str> {
    let told = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(|id| {
        !id.is_empty()
            && id.len() <= REQUEST_ID_MAX_BYTES
            && id.bytes().all(|b| b.is_ascii_graphic() && b != b'"')
    });
    told.map_or_else(|| format!("{:016x}", app.seed(key, 2)).into(), Into::into)
}

/// What goes wrong with this request: its own header first, then the engine's faults.
pub(super) fn fault(app: &App, headers: &HeaderMap, key: u64) -> Result<Option<Fault>, ApiError> {
    let Some(header) = headers.get(FAULT_HEADER) else {
        let draw = text::uniform(app.seed(key, 3));
        let mut struck = None;
        // Watchers are the driver, which is to wake only for a change of state.
        app.shared.faults.send_if_modified(|faults| {
            struck = faults.strike(draw);
            false
        });
        return Ok(struck);
    };
    let invalid = |message: String| ApiError::Invalid { param: Some(FAULT_HEADER), message };
    let fault: Fault = header
        .to_str()
        .map_err(|_| invalid("the header is not text".to_owned()))?
        .parse()
        .map_err(|e: crate::faults::UnknownFault| invalid(e.to_string()))?;
    match fault {
        Fault::Slow(_) | Fault::Lie | Fault::Unhealthy | Fault::DiesOnAbort => {
            Err(invalid("this fault befalls an engine, not a request: POST /sim/faults".to_owned()))
        }
        Fault::AbortProcess if !app.facts.may_abort_process => {
            Err(invalid("this engine may not end its process".to_owned()))
        }
        Fault::AbortProcess => std::process::abort(),
        Fault::Refuse(_)
        | Fault::Fail(_)
        | Fault::ErrorInStream(_)
        | Fault::DieMidStream(_)
        | Fault::Stall => Ok(Some(fault)),
    }
}

/// Puts the request into the engine's queue.
pub(super) async fn submit(app: &App, plan: &Plan) -> Result<Generation, ApiError> {
    let submission = Submission {
        request: SimRequest {
            id: plan.key,
            prompt_tokens: plan.prompt_tokens,
            prefix: Arc::clone(&plan.prompt.prefix),
            output_tokens: plan.output_tokens,
        },
        public_id: Arc::clone(&plan.request_id),
        arrived_at: app.clock.now(),
        ends_by_length: plan.ends_by_length,
    };
    Ok(Generation::submit(&app.inbox, &app.shared, submission).await?)
}
