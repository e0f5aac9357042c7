//! `/v1/embeddings`: the prompts are computed like any other, the vectors are pseudo-random and of length one.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use aya_domain::splitmix64;
use serde_json::{Value, json};

use super::App;
use super::body::{EmbeddingBody, Encoding, parse};
use super::error::ApiError;
use super::intake;
use crate::faults::Fault;
use crate::inbox::{Generation, Submission};
use crate::prompt::Prompt;
use crate::sequence::SimRequest;
use crate::text::uniform;

/// Numbers in a vector.
const DIMENSIONS: u64 = 64;

/// Prompts in one request; more get a 400.
const INPUTS_MAX: usize = 2048;

pub(super) async fn embed(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body: EmbeddingBody = parse(body)?;
    let model = intake::model(&app, body.model.as_ref())?;
    let prompts: Vec<Prompt> = body.input.read(&model).into_iter().map(|reader| reader.finish()).collect();
    check(&app, &prompts)?;
    let key = app.next_key();
    match intake::fault(&app, &headers, key)? {
        Some(Fault::Stall) => return app.stall().await,
        Some(Fault::Refuse(_) | Fault::ErrorInStream(_)) => return Err(ApiError::Busy),
        Some(_) | None => {}
    }
    let request_id = intake::request_id(&app, &headers, key);
    let tokens: u64 = prompts.iter().map(|p| p.tokens).sum();
    compute(&app, key, &request_id, &prompts).await?;

    let vector = |prompt: &Prompt| match body.encoding_format {
        Some(Encoding::Base64) => Value::from(base64(&bytes_of(&embedding(prompt.hash)))),
        Some(Encoding::Float) | None => Value::from(embedding(prompt.hash)),
    };
    let data: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| json!({"object": "embedding", "index": index, "embedding": vector(prompt)}))
        .collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0});
    let answer = json!({
        "id": format!("embd-{request_id}"), "object": "list", "created": app.created(), "model": model,
        "data": data, "usage": usage,
    });
    Ok(axum::Json(answer).into_response())
}

fn check(app: &App, prompts: &[Prompt]) -> Result<(), ApiError> {
    if prompts.is_empty() || prompts.len() > INPUTS_MAX {
        let message = format!("input must hold 1 to {INPUTS_MAX} texts");
        return Err(ApiError::Invalid { param: Some("body.input"), message });
    }
    let context = app.facts.context_length;
    if prompts.iter().any(|p| p.tokens > context) {
        let message = format!("This model's maximum context length is {context} tokens.");
        return Err(ApiError::TooLong { param: "input_text", message });
    }
    Ok(())
}

/// All prompts side by side; the books show the later ones with a number behind the id.
async fn compute(app: &App, first: u64, id: &Arc<str>, prompts: &[Prompt]) -> Result<(), ApiError> {
    let mut generations = Vec::with_capacity(prompts.len());
    for (nth, prompt) in prompts.iter().enumerate() {
        let (key, public_id) = if nth == 0 {
            (first, Arc::clone(id))
        } else {
            (app.next_key(), Arc::from(format!("{id}-{nth}")))
        };
        let submission = Submission {
            request: SimRequest {
                id: key,
                prompt_tokens: u32::try_from(prompt.tokens).unwrap_or(u32::MAX),
                prefix: Arc::clone(&prompt.prefix),
                output_tokens: 0,
            },
            public_id,
            arrived_at: app.clock.now(),
            ends_by_length: false,
        };
        generations.push(Generation::submit(&app.inbox, &app.shared, submission).await?);
    }
    for mut generation in generations {
        generation.end().await.ok_or(ApiError::Dead)?;
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "embeddings are single precision")]
fn embedding(hash: u64) -> Vec<f32> {
    let raw: Vec<f64> = (0..DIMENSIONS).map(|i| uniform(splitmix64(hash ^ i)) - 0.5).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    raw.iter().map(|x| (x / length) as f32).collect()
}

fn bytes_of(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// RFC 4648 with padding: what the openai client asks for unless told otherwise.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0_u32, |bits, i| bits << 8 | u32::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let six = (bits >> (18 - 6 * i)) & 63;
            let letter = ALPHABET.get(six as usize).copied().unwrap_or(b'=');
            out.push(if i <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_the_vectors_of_the_standard() {
        let check = |text: &str, encoded: &str| assert_eq!(base64(text.as_bytes()), encoded);
        check("", "");
        check("f", "Zg==");
        check("fo", "Zm8=");
        check("foo", "Zm9v");
        check("foobar", "Zm9vYmFy");
    }

    #[test]
    fn an_embedding_has_length_one_and_depends_on_its_text() {
        let vector = embedding(7);
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
        assert_ne!(vector, embedding(8));
    }
}
