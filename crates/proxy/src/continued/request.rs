//! The request for the rest of an answer: the client's own, with the text so far behind its prompt and as many tokens less.
//!
//! It is parsed and written anew, which no other request is: this is rare, and asked for. A list names what would make
//! the parts of two engines no sound answer; everything else goes along unseen.

use serde_json::{Map, Value, json};

use super::NotContinued;

/// How an engine is told to go on with an unfinished message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `continue_final_message` and `add_generation_prompt`: vLLM, SGLang.
    Fields,
    /// It goes on with a final message of the assistant by itself: llama.cpp.
    Prefill,
}

/// What a body may say only in a way that asks for nothing.
const REFUSED: [&str; 24] = [
    "tools",
    "functions",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "structured_outputs",
    "structural_tag",
    "grammar",
    "json_schema",
    "regex",
    "ebnf",
    "echo",
    "suffix",
    "audio",
    "modalities",
    "use_beam_search",
    "prompt_embeds",
    "return_token_ids",
    "continue_final_message",
    "prefix",
];

/// Limits that the first part has used up in part.
const LIMITS: [&str; 4] = ["max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens"];

/// The body that asks for the rest after `text`, which has `tokens`.
///
/// # Errors
/// Why there is no such body.
pub fn rest_of(body: &[u8], text: &str, tokens: u64, dialect: Dialect) -> Result<Vec<u8>, NotContinued> {
    let mut asked: Map<String, Value> = serde_json::from_slice(body).map_err(|_| NotContinued::BadBody)?;
    refuse(&asked)?;
    for key in LIMITS {
        let Some(limit) = asked.get(key).and_then(Value::as_u64) else { continue };
        let left = limit.checked_sub(tokens).filter(|left| *left > 0).ok_or(NotContinued::NothingLeft)?;
        asked.insert(key.to_owned(), left.into());
    }
    if let Some(least) = asked.get("min_tokens").and_then(Value::as_u64) {
        asked.insert("min_tokens".to_owned(), least.saturating_sub(tokens).into());
    }
    if !text.is_empty() {
        append(&mut asked, text, dialect)?;
    }
    serde_json::to_vec(&asked).map_err(|_| NotContinued::BadBody)
}

fn refuse(asked: &Map<String, Value>) -> Result<(), NotContinued> {
    let asks = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Number(number) => number.as_f64().is_some_and(|number| number > 0.0),
        Value::Bool(true) | Value::String(_) | Value::Object(_) => true,
    };
    if let Some(key) = REFUSED.into_iter().find(|key| asked.get(*key).is_some_and(asks)) {
        return Err(NotContinued::Asks(key));
    }
    for key in ["n", "best_of"] {
        if asked.get(key).and_then(Value::as_u64).is_some_and(|choices| choices > 1) {
            return Err(NotContinued::Asks(if key == "n" { "n" } else { "best_of" }));
        }
    }
    let format = asked.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    if format.is_some_and(|format| format != "text") {
        return Err(NotContinued::Asks("response_format"));
    }
    Ok(())
}

fn append(asked: &mut Map<String, Value>, text: &str, dialect: Dialect) -> Result<(), NotContinued> {
    if let Some(Value::Array(messages)) = asked.get_mut("messages") {
        // A prefill of the client's own is not told from what the engine wrote.
        if messages.last().and_then(|last| last.get("role")).and_then(Value::as_str) == Some("assistant") {
            return Err(NotContinued::Asks("messages"));
        }
        messages.push(json!({"role": "assistant", "content": text}));
        if dialect == Dialect::Fields {
            asked.insert("continue_final_message".to_owned(), true.into());
            asked.insert("add_generation_prompt".to_owned(), false.into());
        }
        return Ok(());
    }
    let prompt = match asked.get_mut("prompt") {
        Some(Value::Array(prompts)) if prompts.len() == 1 => prompts.first_mut(),
        prompt => prompt,
    };
    let Some(Value::String(prompt)) = prompt else { return Err(NotContinued::Asks("prompt")) };
    prompt.push_str(text);
    Ok(())
}
