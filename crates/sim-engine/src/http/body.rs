//! Request bodies as far as the simulator reads them; what it does not know it ignores, as engines do.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::prompt::PromptReader;

/// `POST /v1/chat/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct ChatBody {
    pub(super) messages: Vec<Message>,
    #[serde(default)]
    pub(super) max_completion_tokens: Option<u64>,
    #[serde(flatten)]
    pub(super) common: Common,
}

/// `POST /v1/completions`.
#[derive(Debug, Deserialize)]
pub(super) struct TextBody {
    pub(super) prompt: Input,
    #[serde(flatten)]
    pub(super) common: Common,
}

/// `POST /v1/embeddings`.
#[derive(Debug, Deserialize)]
pub(super) struct EmbeddingBody {
    pub(super) input: Input,
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) encoding_format: Option<Encoding>,
}

/// What both kinds of generation share.
#[derive(Debug, Deserialize)]
pub(super) struct Common {
    #[serde(default)]
    pub(super) model: Option<String>,
    #[serde(default)]
    pub(super) stream: Option<bool>,
    #[serde(default)]
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(default)]
    pub(super) max_tokens: Option<u64>,
    #[serde(default)]
    pub(super) ignore_eos: Option<bool>,
    #[serde(default)]
    pub(super) seed: Option<i64>,
    #[serde(default)]
    pub(super) n: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: Option<bool>,
    #[serde(default)]
    pub(super) continuous_usage_stats: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Message {
    pub(super) role: String,
    #[serde(default)]
    pub(super) content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

/// Parts without text (images) cost nothing here.
#[derive(Debug, Deserialize)]
pub(super) struct Part {
    #[serde(default)]
    pub(super) text: Option<String>,
}

/// One text, several, or the same as tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Input {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Encoding {
    Float,
    Base64,
}

impl Message {
    pub(super) fn read(&self, reader: &mut PromptReader) {
        reader.message(&self.role);
        match &self.content {
            None => {}
            Some(Content::Text(text)) => reader.text(text),
            Some(Content::Parts(parts)) => {
                parts.iter().filter_map(|p| p.text.as_deref()).for_each(|text| reader.text(text));
            }
        }
    }
}

impl Input {
    /// Each prompt in it, read by a reader of its own.
    pub(super) fn read<'a>(&'a self, model: &'a str) -> Vec<PromptReader> {
        let text = |text: &String| {
            let mut reader = PromptReader::new(model);
            reader.text(text);
            reader
        };
        let tokens = |tokens: &Vec<u32>| {
            let mut reader = PromptReader::new(model);
            tokens.iter().for_each(|t| reader.token(*t));
            reader
        };
        match self {
            Self::Text(one) => vec![text(one)],
            Self::Tokens(one) => vec![tokens(one)],
            Self::Texts(many) => many.iter().map(text).collect(),
            Self::TokenLists(many) => many.iter().map(tokens).collect(),
        }
    }
}

/// Parses a body, saying what is wrong in vLLM's words.
pub(super) fn parse<T: DeserializeOwned>(body: Result<Bytes, BytesRejection>) -> Result<T, ApiError> {
    let bytes = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::BodyTooLarge,
        _ => ApiError::Invalid { param: None, message: "The body could not be read.".to_owned() },
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let (param, kind) =
            if error.is_data() { (None, "value_error") } else { (Some("body"), "json_invalid") };
        // The error names types, fields and positions, but may quote a string value of the client's.
        let place = format!("line {} column {}", error.line(), error.column());
        let message = if error.is_data() { error.to_string() } else { "JSON decode error".to_owned() };
        ApiError::Invalid { param, message: format!("1 validation error: {kind} at {place}: {message}") }
    })
}
