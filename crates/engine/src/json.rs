//! The JSON pages that several kinds share: OpenAI's list of models, and a bare version.
//!
//! One odd entry costs that entry, never the page: a model whose name cannot be a name is left out.

use aya_domain::{ModelId, ServedModel, Tokens};
use serde::Deserialize;
use serde_json::Value;

use crate::finding::{Absent, Findings, PageError, count, whole};

/// More models than this of one engine are left out, in the order of the page.
const MAX_MODELS: usize = 256;
/// The longest version text taken over, in bytes.
const MAX_VERSION_BYTES: usize = 64;

#[derive(Deserialize)]
struct Models {
    data: Vec<Value>,
}

/// A page as JSON of one shape.
pub(crate) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, PageError> {
    if body.trim_ascii_start().starts_with(b"<") {
        return Err(PageError::Html);
    }
    serde_json::from_slice(body).map_err(|_| PageError::NotJson)
}

/// A value that should be a whole number of tokens above zero.
pub(crate) fn tokens(value: Option<&Value>) -> Result<Tokens, Absent> {
    let number = value.filter(|v| !v.is_null()).ok_or(Absent::Missing)?.as_f64().ok_or(Absent::Malformed)?;
    match whole(number)? {
        0 => Err(Absent::Missing),
        tokens => Ok(Tokens(tokens)),
    }
}

/// A value that should be a count.
pub(crate) fn counted(value: Option<&Value>) -> Result<u32, Absent> {
    let number = value.filter(|v| !v.is_null()).ok_or(Absent::Missing)?.as_f64().ok_or(Absent::Malformed)?;
    count(number)
}

/// A version text of reasonable length and characters.
pub(crate) fn version_text(value: Option<&Value>) -> Result<String, Absent> {
    let text = value.ok_or(Absent::Missing)?.as_str().ok_or(Absent::Malformed)?;
    let fine = !text.is_empty() && text.len() <= MAX_VERSION_BYTES && !text.contains(char::is_control);
    if fine { Ok(text.to_owned()) } else { Err(Absent::Malformed) }
}

/// `/v1/models`: ids and aliases, with the context length under vLLM's or llama.cpp's name.
pub(crate) fn models(body: &[u8]) -> Result<Findings, PageError> {
    let page: Models = read(body)?;
    let mut models: Vec<ServedModel> = Vec::new();
    for entry in &page.data {
        let context = entry.get("max_model_len").or_else(|| entry.get("meta").and_then(|m| m.get("n_ctx")));
        let context_length = tokens(context).ok();
        let aliases = entry.get("aliases").and_then(Value::as_array).into_iter().flatten();
        let parent = entry.get("parent").and_then(Value::as_str).and_then(|p| ModelId::parse(p).ok());
        for name in entry.get("id").into_iter().chain(aliases) {
            let Some(id) = name.as_str().and_then(|n| ModelId::parse(n).ok()) else { continue };
            if models.len() < MAX_MODELS && models.iter().all(|m| m.id != id) {
                // An engine that names a model as its own parent means that it has none.
                let parent = parent.clone().filter(|parent| *parent != id);
                models.push(ServedModel { id, context_length, parent });
            }
        }
    }
    lend_contexts(&mut models);
    let nothing_usable = models.is_empty() && !page.data.is_empty();
    let models = if nothing_usable { Err(Absent::Malformed) } else { Ok(models) };
    Ok(Findings { models: Some(models), ..Findings::default() })
}

/// An adapter (LoRA) has its parent's context; vLLM and SGLang leave it out of the adapter's own entry.
fn lend_contexts(models: &mut [ServedModel]) {
    let of_base = |parent: &ModelId, all: &[ServedModel]| {
        all.iter().find(|model| model.id == *parent).and_then(|model| model.context_length)
    };
    let lent: Vec<_> =
        models.iter().map(|model| model.parent.as_ref().and_then(|p| of_base(p, models))).collect();
    for (model, lent) in models.iter_mut().zip(lent) {
        model.context_length = model.context_length.or(lent);
    }
}

/// `{"version": "0.32.0"}`.
pub(crate) fn version(body: &[u8]) -> Result<Findings, PageError> {
    let page: Value = read(body)?;
    Ok(Findings { version: Some(version_text(page.get("version"))), ..Findings::default() })
}
