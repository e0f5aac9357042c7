//! How the pieces of one choice become the whole: which fields grow, which are replaced.
//!
//! Pure functions over JSON objects; must never drop a field it does not know.

use serde_json::{Map, Value, json};

use super::{AnswerKind, AssembleError, INDEX_MAX};
use crate::sse::StreamFacts;

type Object = Map<String, Value>;

/// Replaces a field, but never a value by null.
pub(super) fn keep_last(target: &mut Object, key: String, value: Value) {
    if value.is_null() && target.contains_key(&key) {
        return;
    }
    target.insert(key, value);
}

/// The `index` of a choice or tool call; absent means 0.
pub(super) fn index_of(piece: &Object) -> Result<u64, AssembleError> {
    let index = piece.get("index").map_or(Some(0), Value::as_u64);
    index.filter(|i| *i < INDEX_MAX).ok_or(AssembleError::BadEvent)
}

/// The entry with this index in a list sorted by index, made if it is not there.
pub(super) fn at_index(list: &mut Vec<(u64, Object)>, index: u64) -> &mut Object {
    let at = match list.binary_search_by_key(&index, |(i, _)| *i) {
        Ok(at) => at,
        Err(at) => {
            list.insert(at, (index, Object::new()));
            at
        }
    };
    #[expect(
        clippy::indexing_slicing,
        reason = "the search returned this position, or the entry was just put there"
    )]
    &mut list[at].1
}

pub(super) fn merge_choice(choice: &mut Object, piece: Object) -> Result<(), AssembleError> {
    for (key, value) in piece {
        match (key.as_str(), value) {
            ("index", _) => {}
            ("delta", Value::Object(delta)) => {
                let message = object_at(choice, "message")?;
                merge_delta(message, delta)?;
            }
            ("delta", Value::Null) => {}
            ("delta", _) => return Err(AssembleError::BadEvent),
            ("text" | "logprobs" | "token_ids", value) => append(choice, key, value),
            (_, value) => keep_last(choice, key, value),
        }
    }
    Ok(())
}

fn merge_delta(message: &mut Object, delta: Object) -> Result<(), AssembleError> {
    for (key, value) in delta {
        match (key.as_str(), value) {
            ("tool_calls", Value::Array(calls)) => merge_tool_calls(message, calls)?,
            ("function_call", Value::Object(call)) => {
                let target = object_at(message, "function_call")?;
                call.into_iter().for_each(|(k, v)| append(target, k, v));
            }
            ("role", value) => keep_last(message, key, value),
            (_, value) => append(message, key, value),
        }
    }
    Ok(())
}

fn merge_tool_calls(message: &mut Object, pieces: Vec<Value>) -> Result<(), AssembleError> {
    let Value::Array(calls) = message.entry("tool_calls").or_insert_with(|| json!([])) else {
        return Err(AssembleError::BadEvent);
    };
    for piece in pieces {
        let Value::Object(piece) = piece else { return Err(AssembleError::BadEvent) };
        let index = index_of(&piece)?;
        let known = calls.iter().position(|call| call.get("index").and_then(Value::as_u64) == Some(index));
        let at = known.unwrap_or_else(|| {
            calls.push(json!({ "index": index }));
            calls.len() - 1
        });
        let Some(Value::Object(call)) = calls.get_mut(at) else { return Err(AssembleError::BadEvent) };
        for (key, value) in piece {
            match (key.as_str(), value) {
                ("function", Value::Object(function)) => {
                    let target = object_at(call, "function")?;
                    function.into_iter().for_each(|(k, v)| append(target, k, v));
                }
                (_, value) => keep_last(call, key, value),
            }
        }
    }
    Ok(())
}

/// Text grows, lists grow, objects grow field by field; anything else is replaced.
fn append(target: &mut Object, key: String, value: Value) {
    match (target.get_mut(&key), value) {
        (Some(Value::String(whole)), Value::String(more)) => whole.push_str(&more),
        (Some(Value::Array(whole)), Value::Array(more)) => whole.extend(more),
        (Some(Value::Object(whole)), Value::Object(more)) => {
            more.into_iter().for_each(|(k, v)| append(whole, k, v));
        }
        (_, value) => keep_last(target, key, value),
    }
}

fn object_at<'o>(target: &'o mut Object, key: &str) -> Result<&'o mut Object, AssembleError> {
    let value = target.entry(key).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut().ok_or(AssembleError::BadEvent)
}

/// The usage of all choices in the place of the last one's.
pub(super) fn sum_usage(top: &mut Object, facts: &StreamFacts, choices_per_prompt: u32) {
    let (Some(usage), Some(Value::Object(told))) = (facts.usage, top.get_mut("usage")) else { return };
    let prompt = facts.prompt_tokens(choices_per_prompt);
    if let (Some(prompt), Some(completion)) = (prompt, usage.completion_tokens) {
        told.insert("prompt_tokens".to_owned(), json!(prompt));
        told.insert("completion_tokens".to_owned(), json!(completion));
        told.insert("total_tokens".to_owned(), json!(prompt.saturating_add(completion)));
    }
}

/// The choice as it stands in a non-streaming answer.
pub(super) fn finish_choice(kind: AnswerKind, index: u64, mut choice: Object) -> Value {
    choice.insert("index".to_owned(), json!(index));
    match kind {
        AnswerKind::Completion => {
            choice.entry("text").or_insert_with(|| json!(""));
        }
        AnswerKind::Chat => {
            let message = choice.entry("message").or_insert_with(|| json!({}));
            if let Some(message) = message.as_object_mut() {
                finish_message(message);
            }
        }
    }
    Value::Object(choice)
}

fn finish_message(message: &mut Object) {
    message.entry("role").or_insert_with(|| json!("assistant"));
    message.entry("content").or_insert(Value::Null);
    // The index orders the pieces of a stream; the whole list is ordered by itself.
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.sort_by_key(|call| call.get("index").and_then(Value::as_u64));
        for call in calls.iter_mut().filter_map(Value::as_object_mut) {
            call.remove("index");
        }
    }
}
