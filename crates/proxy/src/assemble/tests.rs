//! Assembled answers beside the engines' own non-streaming ones.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sse::tests::recorded_body;

const LIMIT: usize = 1 << 20;

macro_rules! recorded {
    ($name:literal) => {
        recorded_body(include_bytes!(concat!("../../../../fixtures/openai/", $name)))
    };
}

fn assemble(kind: AnswerKind, stream: &[u8], choices: u32) -> Result<Value, AssembleError> {
    let mut assembler = Assembler::new(kind, LIMIT);
    assembler.feed(stream)?;
    assembler.finish(choices).map(|json| serde_json::from_slice(&json).unwrap())
}

fn events(events: &[Value]) -> Vec<u8> {
    let frames: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    format!("{frames}data: [DONE]\n\n").into_bytes()
}

/// All keys of an answer, without those that only a stream or only a whole answer has.
fn keys(value: &Value, without: &[&str]) -> Vec<String> {
    let object = value.as_object().unwrap();
    object.keys().filter(|key| !without.contains(&key.as_str())).cloned().collect()
}

#[test]
fn a_recorded_chat_stream_becomes_the_engines_own_answer() {
    let stream = recorded!("llama.cpp/chat_usage.sse");
    let own: Value = serde_json::from_slice(&recorded!("llama.cpp/chat.http")).unwrap();
    let answer = assemble(AnswerKind::Chat, &stream, 1).unwrap();
    assert_eq!(keys(&answer, &[]), keys(&own, &[]));
    assert_eq!(keys(&answer["choices"][0], &[]), keys(&own["choices"][0], &[]));
    assert_eq!(answer["object"], "chat.completion");
    let message = json!({"role": "assistant", "content": " still such years also go most"});
    assert_eq!(answer["choices"], json!([{"index": 0, "finish_reason": "length", "message": message}]));
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    assert_eq!(answer["timings"]["predicted_n"], 6);
    assert_eq!(answer["id"], "chatcmpl-yujv7AueIcbf2jBbNvRuE5fBfsGLmhTz");
}

#[test]
fn recorded_streams_of_every_kind_are_assembled() {
    for (name, kind, stream, text) in [
        ("llama chat", AnswerKind::Chat, recorded!("llama.cpp/chat.sse"), " still such years also go most"),
        ("vllm chat", AnswerKind::Chat, recorded!("vllm/chat.sse"), " other well other during still being"),
        (
            "vllm usage",
            AnswerKind::Chat,
            recorded!("vllm/chat_usage.sse"),
            " other well other during still being",
        ),
        ("llama text", AnswerKind::Completion, recorded!("llama.cpp/completion.sse"), " for us under any"),
        ("vllm text", AnswerKind::Completion, recorded!("vllm/completion.sse"), " other has other little"),
    ] {
        let answer = assemble(kind, &stream, 1).unwrap();
        let choice = &answer["choices"][0];
        let found = if kind == AnswerKind::Chat { &choice["message"]["content"] } else { &choice["text"] };
        assert_eq!((found.as_str(), &choice["finish_reason"]), (Some(text), &json!("length")), "{name}");
        assert_eq!(choice.get("delta"), None, "{name}");
    }
}

#[test]
fn choices_come_back_in_order_each_with_its_own_text() {
    let piece = |index: u64, delta: Value, reason: Value| json!({"id": "c", "choices": [{"index": index, "delta": delta, "finish_reason": reason}]});
    let stream = events(&[
        piece(1, json!({"role": "assistant", "content": "b"}), Value::Null),
        piece(0, json!({"role": "assistant", "content": "a"}), Value::Null),
        piece(1, json!({"content": "B"}), json!("stop")),
        piece(0, json!({"content": "A"}), json!("length")),
    ]);
    let answer = assemble(AnswerKind::Chat, &stream, 2).unwrap();
    let text = |at: usize| answer["choices"][at]["message"]["content"].clone();
    assert_eq!((text(0), text(1)), (json!("aA"), json!("bB")));
    assert_eq!(answer["choices"][1]["index"], 1);
    assert_eq!(assemble(AnswerKind::Chat, &stream, 3), Err(AssembleError::Truncated));
}

#[test]
fn tool_calls_are_merged_by_index_and_lose_it() {
    let piece = |delta: Value, reason: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let call = |index: u64, rest: Value| {
        let mut call = rest;
        call["index"] = json!(index);
        json!({ "tool_calls": [call] })
    };
    let answer = assemble(
        AnswerKind::Chat,
        &events(&[
            piece(json!({"role": "assistant", "content": null, "reasoning_content": "hm"}), Value::Null),
            piece(json!({"reasoning_content": "m"}), Value::Null),
            piece(
                call(0, json!({"id": "x", "type": "function", "function": {"name": "f", "arguments": ""}})),
                Value::Null,
            ),
            piece(
                call(1, json!({"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}})),
                Value::Null,
            ),
            piece(call(0, json!({"function": {"arguments": "{\"a\":"}})), Value::Null),
            piece(call(0, json!({"function": {"arguments": "1}"}})), json!("tool_calls")),
        ]),
        1,
    )
    .unwrap();
    assert_eq!(
        answer["choices"][0]["message"],
        json!({"role": "assistant", "content": null, "reasoning_content": "hmm", "tool_calls": [
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
            {"id": "y", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ]})
    );
}

#[test]
fn log_probabilities_are_joined_and_unknown_fields_kept() {
    let stream = events(&[
        json!({"system_fingerprint": "a", "extra": 1, "choices": [{"delta": {"content": "x"}, "logprobs": {"content": [1]}}]}),
        json!({"system_fingerprint": null, "extra": 2, "choices": [
            {"delta": {"content": "y"}, "logprobs": {"content": [2, 3]}, "stop_reason": 7, "finish_reason": "stop"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 1}, "service_tier": "z"}),
    ]);
    let answer = assemble(AnswerKind::Chat, &stream, 1).unwrap();
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": [1, 2, 3]}));
    assert_eq!(answer["choices"][0]["stop_reason"], 7);
    assert_eq!((&answer["system_fingerprint"], &answer["extra"]), (&json!("a"), &json!(2)));
    assert_eq!((&answer["usage"]["prompt_tokens"], &answer["service_tier"]), (&json!(1), &json!("z")));

    let stream = events(&[
        json!({"choices": [{"index": 0, "text": "x", "logprobs": {"tokens": ["x"], "token_logprobs": [-1.5]}}]}),
        json!({"choices": [{"index": 0, "text": "y", "logprobs": {"tokens": ["y"], "token_logprobs": [-2.5]}, "finish_reason": "stop"}]}),
    ]);
    let answer = assemble(AnswerKind::Completion, &stream, 1).unwrap();
    assert_eq!(
        answer["choices"][0]["logprobs"],
        json!({"tokens": ["x", "y"], "token_logprobs": [-1.5, -2.5]})
    );
}

#[test]
fn an_old_style_function_call_grows_too() {
    let piece = |call: Value, reason: Value| json!({"choices": [{"delta": {"function_call": call}, "finish_reason": reason}]});
    let stream = events(&[
        piece(json!({"name": "f", "arguments": "{"}), Value::Null),
        piece(json!({"arguments": "}"}), json!("function_call")),
    ]);
    let answer = assemble(AnswerKind::Chat, &stream, 1).unwrap();
    assert_eq!(answer["choices"][0]["message"]["function_call"], json!({"name": "f", "arguments": "{}"}));
}

#[test]
fn a_stream_that_failed_or_ended_early_never_becomes_an_answer() {
    let killed = recorded!("llama.cpp/chat_killed_excerpt.sse");
    assert_eq!(assemble(AnswerKind::Chat, &killed, 1), Err(AssembleError::Truncated));
    let refused = assemble(AnswerKind::Chat, &recorded!("vllm/err_overload_in_stream_200.sse"), 1);
    assert!(matches!(refused, Err(AssembleError::Engine(error)) if error.code == Some(503)));
    for (stream, expect) in [
        (events(&[]), AssembleError::Truncated),
        (
            events(&[json!({"choices": [{"delta": {"content": "x"}, "finish_reason": "abort"}]})]),
            AssembleError::Truncated,
        ),
        (events(&[json!([1])]), AssembleError::BadEvent),
        (events(&[json!({"choices": [1]})]), AssembleError::BadEvent),
        (events(&[json!({"choices": [{"index": 128}]})]), AssembleError::BadEvent),
        (events(&[json!({"choices": [{"index": -1}]})]), AssembleError::BadEvent),
        (b"data: <html>\n\n".to_vec(), AssembleError::BadEvent),
    ] {
        assert_eq!(
            assemble(AnswerKind::Chat, &stream, 1),
            Err(expect),
            "{}",
            String::from_utf8_lossy(&stream)
        );
    }
}

#[test]
fn several_prompts_are_put_together_though_llama_cpp_opens_their_stream_with_null() {
    let stream = recorded!("llama.cpp/completion_two_prompts.sse");
    assert!(stream.starts_with(b"data: null\n"));
    let answer = assemble(AnswerKind::Completion, &stream, 2).unwrap();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| &c["index"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
    assert!(choices.iter().all(|c| c["finish_reason"] == "length" && c["text"] != ""), "{answer}");
    assert_eq!(assemble(AnswerKind::Completion, b"data: null\n\n", 1), Err(AssembleError::Truncated));
}

#[test]
fn an_answer_is_bounded_by_the_bytes_of_its_stream() {
    let stream = recorded!("llama.cpp/chat.sse");
    let mut assembler = Assembler::new(AnswerKind::Chat, stream.len() - 1);
    assert_eq!(assembler.feed(&stream), Err(AssembleError::TooLarge { limit: stream.len() - 1 }));
}

#[test]
fn any_split_gives_the_same_answer() {
    let stream = recorded!("vllm/chat_usage.sse");
    let whole = assemble(AnswerKind::Chat, &stream, 1).unwrap();
    for size in 1..300 {
        let mut assembler = Assembler::new(AnswerKind::Chat, LIMIT);
        stream.chunks(size).for_each(|piece| {
            assembler.feed(piece).unwrap();
        });
        let answer: Value = serde_json::from_slice(&assembler.finish(1).unwrap()).unwrap();
        assert_eq!(answer, whole, "pieces of {size}");
    }
}

#[test]
fn what_comes_after_done_is_ignored() {
    let mut stream = recorded!("vllm/chat.sse");
    let whole = assemble(AnswerKind::Chat, &stream, 1).unwrap();
    stream.extend_from_slice(
        b"data: {\"id\":\"other\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"more\"}}]}\n\n",
    );
    assert_eq!(assemble(AnswerKind::Chat, &stream, 1).unwrap(), whole);
}

/// Chunks that are JSON, with our keys at every place and of every type.
fn hostile_event() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "choices",
        "index",
        "delta",
        "content",
        "tool_calls",
        "function",
        "function_call",
        "logprobs",
        "text",
        "finish_reason",
        "role",
        "name",
        "arguments",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i8>().prop_map(Value::from),
        Just(json!("stop")),
        Just(json!(true))
    ];
    let inner = leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..5).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
            )),
        ]
    });
    inner.prop_map(|choice| json!({ "choices": [choice] }))
}

proptest! {
    #[test]
    fn hostile_chunks_give_an_answer_or_an_error_and_never_a_panic(
        hostile in prop::collection::vec(hostile_event(), 0..5),
        chat in any::<bool>(),
    ) {
        let kind = if chat { AnswerKind::Chat } else { AnswerKind::Completion };
        if let Ok(answer) = assemble(kind, &events(&hostile), 1) {
            prop_assert!(answer["choices"].as_array().unwrap().iter().all(|c| c["finish_reason"].is_string()));
        }
    }
}

#[test]
fn choices_that_were_counted_one_by_one_are_told_together() {
    let event = |index: u32, finish: &str, usage: &str| {
        format!(
            "data: {{\"choices\":[{{\"text\":\"a\",\"index\":{index},\"finish_reason\":{finish}}}]{usage}}}\n\n"
        )
    };
    let own = |tokens: u32| {
        format!(
            ",\"usage\":{{\"completion_tokens\":{tokens},\"prompt_tokens\":6,\"total_tokens\":{}}},\"timings\":{{\"predicted_n\":{tokens}}}",
            tokens + 6
        )
    };
    let stream = [event(1, "\"stop\"", &own(5)), event(0, "\"stop\"", &own(3))].concat();
    for (per_prompt, prompt) in [(2, 6), (1, 12)] {
        let mut assembler = Assembler::new(AnswerKind::Completion, 1 << 20).choices_per_prompt(per_prompt);
        assembler.feed(stream.as_bytes()).unwrap();
        let answer: Value = serde_json::from_slice(&assembler.finish(2).unwrap()).unwrap();
        let expect = json!({"completion_tokens": 8, "prompt_tokens": prompt, "total_tokens": 8 + prompt});
        assert_eq!(answer["usage"], expect);
    }
}
