//! The bytes of an answer: server-sent events and the bodies of non-streaming answers, as vLLM writes them.
//!
//! An event is put together from parts escaped once per answer; the words themselves need no escaping.

use std::fmt::Write as _;

use axum::body::Bytes;
use serde_json::{Value, json};

use super::intake::Plan;
use crate::text;

/// Which of the two generating endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Text,
}

impl Shape {
    const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Text => "cmpl-",
        }
    }

    const fn chunk_object(self) -> &'static str {
        match self {
            Self::Chat => "chat.completion.chunk",
            Self::Text => "text_completion",
        }
    }
}

/// The end of every stream that an engine ends itself.
pub(super) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// What is the same in every event of an answer.
#[derive(Debug)]
pub(super) struct Frames {
    shape: Shape,
    /// `data: {"id":...,"model":"..",` ready to be followed by `"choices"`.
    head: String,
    id: String,
    created: u64,
    model: String,
    prompt_tokens: u32,
    text_seed: u64,
    finish_reason: &'static str,
    continuous_usage: bool,
}

impl Frames {
    pub(super) fn new(shape: Shape, created: u64, plan: &Plan) -> Self {
        let id = format!("{}{}", shape.id_prefix(), plan.request_id);
        let head = format!(
            "data: {{\"id\":{},\"object\":\"{}\",\"created\":{created},\"model\":{},",
            Value::from(id.as_str()),
            shape.chunk_object(),
            Value::from(plan.model.as_str()),
        );
        Self {
            shape,
            head,
            id,
            created,
            model: plan.model.clone(),
            prompt_tokens: plan.prompt_tokens,
            text_seed: plan.text_seed,
            finish_reason: if plan.ends_by_length { "length" } else { "stop" },
            continuous_usage: plan.options.continuous_usage_stats == Some(true),
        }
    }

    /// The event before the first token; text completions have none.
    pub(super) fn role(&self) -> Option<Bytes> {
        (self.shape == Shape::Chat).then(|| {
            let choice = "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null";
            self.event(choice, 0)
        })
    }

    /// The event of one token, from 1.
    pub(super) fn token(&self, ordinal: u32, last: bool) -> Bytes {
        let mut choice = String::with_capacity(128);
        choice.push_str(if self.shape == Shape::Chat { "\"delta\":{\"content\":\"" } else { "\"text\":\"" });
        text::push_word(&mut choice, self.text_seed, ordinal);
        choice.push_str(if self.shape == Shape::Chat { "\"}" } else { "\"" });
        choice.push_str(",\"logprobs\":null,\"finish_reason\":");
        if last {
            // Writing to a String cannot fail.
            let _ = write!(choice, "\"{}\",\"stop_reason\":null", self.finish_reason);
        } else {
            choice.push_str("null");
        }
        self.event(&choice, ordinal)
    }

    /// The event with the usage and without a choice.
    pub(super) fn usage(&self, tokens: u32, cached: u32) -> Bytes {
        format!("{}\"choices\":[],\"usage\":{}}}\n\n", self.head, self.usage_json(tokens, cached)).into()
    }

    /// The whole answer of a non-streaming request.
    pub(super) fn whole(&self, tokens: u32, cached: u32) -> Value {
        let text = text::words(self.text_seed, tokens);
        let (object, choice) = match self.shape {
            Shape::Chat => (
                "chat.completion",
                json!({
                    "index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": null, "finish_reason": self.finish_reason, "stop_reason": null,
                }),
            ),
            Shape::Text => (
                "text_completion",
                json!({
                    "index": 0, "text": text, "logprobs": null, "finish_reason": self.finish_reason,
                    "stop_reason": null,
                }),
            ),
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": [choice], "usage": self.usage_json(tokens, cached),
        })
    }

    fn event(&self, choice: &str, tokens: u32) -> Bytes {
        let mut event = String::with_capacity(self.head.len() + choice.len() + 128);
        let _ = write!(event, "{}\"choices\":[{{\"index\":0,{choice}}}]", self.head);
        if self.continuous_usage {
            let total = self.prompt_tokens.saturating_add(tokens);
            let _ = write!(
                event,
                ",\"usage\":{{\"prompt_tokens\":{},\"total_tokens\":{total},\"completion_tokens\":{tokens}}}",
                self.prompt_tokens
            );
        }
        event.push_str("}\n\n");
        event.into()
    }

    fn usage_json(&self, tokens: u32, cached: u32) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens.saturating_add(tokens),
            "completion_tokens": tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        })
    }
}
