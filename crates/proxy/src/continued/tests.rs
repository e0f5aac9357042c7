//! Texts that break off, requests for the rest of them, and the two parts as one answer.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn event(delta: &Value) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": null});
    format!("data: {}\n\n", json!({"id": "a", "created": 7, "choices": [choice]}))
}

fn text_of(stream: &str) -> Result<String, NotContinued> {
    let mut all = TextSoFar::default();
    let mut bytewise = TextSoFar::default();
    all.note(stream.as_bytes());
    stream.as_bytes().chunks(1).for_each(|byte| bytewise.note(byte));
    assert_eq!(all.get(), bytewise.get(), "{stream}");
    all.get().map(str::to_owned)
}

#[test]
fn the_text_is_what_the_events_carried() {
    let role = event(&json!({"role": "assistant", "content": ""}));
    let stream = [
        role.as_str(),
        &event(&json!({"content": "Hel"})),
        ": ping\n\n",
        &event(&json!({"content": "lo \"you\""})),
    ];
    assert_eq!(text_of(&stream.concat()), Ok("Hello \"you\"".to_owned()));
    assert_eq!(text_of(&role), Ok(String::new()));
    let completion = "data: {\"choices\":[{\"text\":\" a\",\"index\":0,\"finish_reason\":null}]}\n\n";
    assert_eq!(text_of(&completion.repeat(3)), Ok(" a a a".to_owned()));
    let failed =
        [&event(&json!({"content": "a"})), "data: {\"error\":{\"code\":500}}\n\n", "data: [DONE]\n\n"];
    assert_eq!(text_of(&failed.concat()), Ok("a".to_owned()), "the engine's last words are no text");
}

#[test]
fn what_is_more_than_plain_text_is_not_continued() {
    for delta in [
        json!({"tool_calls": [{"index": 0}]}),
        json!({"reasoning_content": "hm"}),
        json!({"function_call": {"name": "f"}}),
        json!({"refusal": "no"}),
    ] {
        assert_eq!(text_of(&event(&delta)), Err(NotContinued::NotPlainText), "{delta}");
    }
    let empty = json!({"content": "a", "tool_calls": [], "reasoning_content": null, "refusal": ""});
    assert_eq!(text_of(&event(&empty)), Ok("a".to_owned()));
    let second = "data: {\"choices\":[{\"text\":\"a\",\"index\":1}]}\n\n";
    assert_eq!(text_of(second), Err(NotContinued::NotPlainText));
    let ended = "data: {\"choices\":[{\"text\":\"a\",\"index\":0,\"finish_reason\":\"stop\"}]}\n\n";
    assert_eq!(text_of(ended), Err(NotContinued::NothingLeft));
    assert_eq!(text_of("data: <html>\n\n"), Err(NotContinued::NotPlainText));
    let mut long = TextSoFar::default();
    let piece = event(&json!({"content": "x".repeat(TEXT_MAX / 2)}));
    (0..3).for_each(|_| long.note(piece.as_bytes()));
    assert_eq!(long.get(), Err(NotContinued::TooLong));
    assert_eq!(long.text.len(), TEXT_MAX, "and no more of it is kept");
}

#[track_caller]
fn check_rest(body: &Value, dialect: Dialect, expect: &Value) {
    let rest = rest_of(body.to_string().as_bytes(), "so far", 4, dialect).unwrap();
    assert_eq!(&serde_json::from_slice::<Value>(&rest).unwrap(), expect, "{body}");
}

#[test]
fn the_rest_is_asked_for_behind_the_text_and_with_fewer_tokens() {
    let asks = json!({"role": "user", "content": "hi"});
    let so_far = json!({"role": "assistant", "content": "so far"});
    check_rest(
        &json!({"model": "m", "messages": [asks], "max_tokens": 10, "temperature": 0.5, "stream": true, "min_tokens": 2}),
        Dialect::Fields,
        &json!({"model": "m", "messages": [asks, so_far], "max_tokens": 6, "temperature": 0.5, "stream": true,
            "min_tokens": 0, "continue_final_message": true, "add_generation_prompt": false}),
    );
    check_rest(
        &json!({"messages": [asks], "n": 1, "tools": [], "logprobs": false, "response_format": {"type": "text"}}),
        Dialect::Prefill,
        &json!({"messages": [asks, so_far], "n": 1, "tools": [], "logprobs": false, "response_format": {"type": "text"}}),
    );
    for prompt in [json!("hi "), json!(["hi "])] {
        let expect = if prompt.is_array() { json!(["hi so far"]) } else { json!("hi so far") };
        check_rest(
            &json!({"prompt": prompt, "max_tokens": 5}),
            Dialect::Fields,
            &json!({"prompt": expect, "max_tokens": 1}),
        );
    }
    let nothing_came = rest_of(b"{\"prompt\":[1,2]}", "", 0, Dialect::Fields).unwrap();
    assert_eq!(nothing_came, b"{\"prompt\":[1,2]}");
}

#[test]
fn what_no_two_engines_can_answer_together_is_refused() {
    for (extra, expect) in [
        (json!({"tools": [{}]}), NotContinued::Asks("tools")),
        (json!({"response_format": {"type": "json_object"}}), NotContinued::Asks("response_format")),
        (json!({"guided_regex": "a*"}), NotContinued::Asks("guided_regex")),
        (json!({"structured_outputs": {"json": {}}}), NotContinued::Asks("structured_outputs")),
        (json!({"logprobs": true}), NotContinued::Asks("logprobs")),
        (json!({"logprobs": 3}), NotContinued::Asks("logprobs")),
        (json!({"n": 2}), NotContinued::Asks("n")),
        (json!({"echo": true}), NotContinued::Asks("echo")),
        (json!({"max_tokens": 4}), NotContinued::NothingLeft),
        (json!({"max_completion_tokens": 3}), NotContinued::NothingLeft),
        (json!({"prompt": ["a", "b"]}), NotContinued::Asks("prompt")),
        (json!({"prompt": [1, 2]}), NotContinued::Asks("prompt")),
        (json!({"messages": [{"role": "assistant", "content": "I"}]}), NotContinued::Asks("messages")),
    ] {
        let mut body = json!({"prompt": "hi"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let rest = rest_of(body.to_string().as_bytes(), "so far", 4, Dialect::Fields);
        assert_eq!(rest, Err(expect), "{extra}");
    }
    assert_eq!(rest_of(b"[]", "a", 1, Dialect::Fields), Err(NotContinued::BadBody));
}

#[test]
fn both_parts_are_one_answer_with_one_name_and_all_tokens() {
    let mut part = TextSoFar::default();
    part.note(event(&json!({"content": "a"})).as_bytes());
    let continued = Continued::after(&part, 5);
    let second = concat!(
        "data: {\"id\":\"b\",\"created\":9,\"choices\":[]}\n\n: ping\n\n",
        "data: {\"id\":\"b\",\"created\":9,\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15}}\n\n",
        "data: [DONE]\n\n"
    );
    let expect = concat!(
        "data: {\"choices\":[],\"created\":7,\"id\":\"a\"}\n\n",
        "data: {\"choices\":[],\"created\":7,\"id\":\"a\",\"usage\":{\"completion_tokens\":8,\"prompt_tokens\":7,\"total_tokens\":15}}\n\n",
        "data: [DONE]\n\n"
    );
    assert_eq!(continued.rewrite(second.as_bytes()), expect.as_bytes());
}

#[test]
fn only_sound_events_pass_before_a_failure() {
    let good = event(&json!({"content": "a"}));
    for bad in
        ["data: {\"error\":{\"code\":500}}\n\n", "data: [DONE]\n\n", "data: {\"object\":\"error\"}\n\n"]
    {
        let chunk = [good.as_str(), bad, &good].concat();
        let sound = sound_part(chunk.as_bytes());
        assert_eq!(text_of(std::str::from_utf8(&sound).unwrap()), Ok("a".to_owned()), "{bad}");
    }
    assert!(sound_part(b": ping\n\ndata: [DONE]\n\n").is_empty());
}

proptest! {
    #[test]
    fn no_bytes_break_what_is_kept_or_rewritten(pieces in prop::collection::vec(prop::sample::select(vec![
        "data: ", "\n\n", "\n", "\r\n", "{\"choices\":[", "{\"delta\":{\"content\":\"", "a\\u00e9", "\"}}]}", "null", "[DONE]",
        "{\"error\":1}", "\u{feff}", ": c", "{\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":18446744073709551615}}", "\0",
    ]), 0..40), cut in 0_usize..400) {
        let stream = pieces.concat().into_bytes();
        let (mut whole, mut cut_up) = (TextSoFar::default(), TextSoFar::default());
        whole.note(&stream);
        let (first, second) = stream.split_at(cut.min(stream.len()));
        cut_up.note(first);
        cut_up.note(second);
        prop_assert_eq!(whole.get(), cut_up.get());
        prop_assert!(whole.text.len() <= TEXT_MAX);
        let rewritten = Continued::after(&whole, u64::MAX).rewrite(&stream);
        let sound = sound_part(&stream);
        prop_assert!(rewritten.is_empty() || rewritten.ends_with(b"\n\n"));
        prop_assert!(sound.is_empty() || sound.ends_with(b"\n\n"));
        let _ = rest_of(&stream, "text", 3, Dialect::Fields);
    }
}
