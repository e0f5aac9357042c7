//! The scan against a table of bodies, and against `serde_json` on generated and damaged documents.

use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn view(body: &str) -> Result<BodyView, ScanError> {
    scan(body.as_bytes(), ScanLimits::DEFAULT)
}

fn ok(body: &str) -> BodyView {
    view(body).unwrap_or_else(|error| panic!("{body}: {error}"))
}

#[test]
fn a_chat_body_gives_what_placement_needs() {
    let body = r#"{"model":"llama-8b","messages":[{"role":"system","content":"be \"brief\"\n"},
        {"role":"user","content":[{"type":"text","text":"what is it?"},
        {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]}],
        "stream":true,"stream_options":{"include_usage":true},"max_tokens":16,"max_completion_tokens":12,"n":2,
        "tools":[{"x":1}]}"#;
    let view = ok(body);
    assert_eq!(view.model(body.as_bytes()).as_deref(), Some("llama-8b"));
    assert_eq!((view.stream, view.wants_stream(), view.wants_usage()), (Some(true), true, true));
    assert_eq!((view.max_tokens, view.output_limit(), view.n), (Some(16), Some(12), Some(2)));
    assert_eq!(view.messages, Some(2));
    assert_eq!(view.prompt_bytes, ("be \"brief\"\n".len() + "what is it?".len()) as u64);
    assert_eq!((view.media_items, view.media_bytes), (1, "data:image/png;base64,AAAA".len() as u64));
    assert_eq!(view.tools_bytes, r#"[{"x":1}]"#.len() as u64);
    assert_eq!(view.stream_span.unwrap().of(body.as_bytes()), b"true");
    assert_eq!(view.stream_options.unwrap().span.of(body.as_bytes()), br#"{"include_usage":true}"#);
    assert_eq!(view.prompts, None);
}

#[test]
fn prompts_are_counted_as_text_as_token_ids_and_as_lists() {
    for (body, prompts, bytes, ids) in [
        (r#"{"prompt":"abc"}"#, 1, 3, 0),
        (r#"{"prompt":["abc","de"]}"#, 2, 5, 0),
        (r#"{"prompt":[1,2,3]}"#, 1, 0, 3),
        (r#"{"prompt":[[1,2],[3]]}"#, 2, 0, 3),
        (r#"{"input":[]}"#, 1, 0, 0),
        (r#"{"input":"\u00e4\ud83d\ude00\n"}"#, 1, 7, 0),
        (r#"{"input":"x","unread":{"prompt":"yyy"}}"#, 1, 1, 0),
    ] {
        let view = ok(body);
        assert_eq!(
            (view.prompts, view.prompt_bytes, view.prompt_token_ids),
            (Some(prompts), bytes, ids),
            "{body}"
        );
    }
}

#[test]
fn absent_and_null_are_the_same_and_not_zero() {
    for body in [
        r#"{}"#,
        r#"{"stream":null,"max_tokens":null,"max_completion_tokens":null,"n":null,"messages":null,"prompt":null}"#,
    ] {
        let view = ok(body);
        assert_eq!((view.stream, view.max_tokens, view.max_completion_tokens), (None, None, None), "{body}");
        assert_eq!(
            (view.n, view.messages, view.prompts, view.model_span),
            (None, None, None, None),
            "{body}"
        );
    }
    assert!(ok("{ }").is_empty);
    assert!(!ok(r#"{"a":1}"#).is_empty);
}

#[test]
fn a_name_is_unescaped_and_its_key_found_however_it_is_written() {
    let body = r#" { "mod\u0065l" : "a\/b\u00e9" } "#;
    assert_eq!(ok(body).model(body.as_bytes()).as_deref(), Some("a/b\u{e9}"));
}

#[test]
fn a_key_of_ours_deeper_down_means_nothing() {
    let body = r#"{"a":{"model":1,"model":2,"stream":"x","n":-1},"b":[{"max_tokens":"x"}],"model":"m"}"#;
    assert_eq!(ok(body).model(body.as_bytes()).as_deref(), Some("m"));
}

#[test]
fn what_the_engine_could_read_differently_is_refused_with_its_key() {
    use ScanError::{DuplicateKey, MiscasedKey, OutOfRange, WrongType};
    let tokens = 1 << 31;
    let bool_type = "true or false";
    for (body, expect) in [
        (r#"{"model":"a","model":"b"}"#, DuplicateKey { key: "model" }),
        (r#"{"model":"a","x":1,"mod\u0065l":"b"}"#, DuplicateKey { key: "model" }),
        (r#"{"stream":true,"stream":false}"#, DuplicateKey { key: "stream" }),
        (
            r#"{"stream_options":{"include_usage":true,"include\u005fusage":false}}"#,
            DuplicateKey { key: "include_usage" },
        ),
        (r#"{"Model":"a"}"#, MiscasedKey { key: "model" }),
        (r#"{"stream_options":{"Include_Usage":true}}"#, MiscasedKey { key: "include_usage" }),
        (r#"{"model":"a","MODEL":"b"}"#, MiscasedKey { key: "model" }),
        ("{\"\u{17f}tream\":true}", MiscasedKey { key: "stream" }),
        ("{\"max_to\u{212a}ens\":1}", MiscasedKey { key: "max_tokens" }),
        (r#"{"model":7}"#, WrongType { key: "model", expected: "a string" }),
        (r#"{"model":null}"#, WrongType { key: "model", expected: "a string" }),
        (r#"{"stream":"true"}"#, WrongType { key: "stream", expected: bool_type }),
        (r#"{"stream":1}"#, WrongType { key: "stream", expected: bool_type }),
        (r#"{"stream_options":true}"#, WrongType { key: "stream_options", expected: "an object" }),
        (
            r#"{"stream_options":{"include_usage":1}}"#,
            WrongType { key: "include_usage", expected: bool_type },
        ),
        (r#"{"max_tokens":"5"}"#, WrongType { key: "max_tokens", expected: "an integer" }),
        (r#"{"max_tokens":5.0}"#, WrongType { key: "max_tokens", expected: "an integer" }),
        (r#"{"max_tokens":1e3}"#, WrongType { key: "max_tokens", expected: "an integer" }),
        (r#"{"max_tokens":-1}"#, OutOfRange { key: "max_tokens", min: 0, max: tokens }),
        (r#"{"max_tokens":-0}"#, OutOfRange { key: "max_tokens", min: 0, max: tokens }),
        (
            r#"{"max_completion_tokens":2147483649}"#,
            OutOfRange { key: "max_completion_tokens", min: 0, max: tokens },
        ),
        (r#"{"max_tokens":99999999999999999999}"#, OutOfRange { key: "max_tokens", min: 0, max: tokens }),
        (r#"{"n":0}"#, OutOfRange { key: "n", min: 1, max: 128 }),
        (r#"{"n":1000000000}"#, OutOfRange { key: "n", min: 1, max: 128 }),
        (r#"{"messages":"x"}"#, WrongType { key: "messages", expected: "an array" }),
        (r#"{"prompt":{}}"#, WrongType { key: "prompt", expected: "a string or an array" }),
    ] {
        assert_eq!(view(body), Err(expect), "{body}");
        assert!(expect.param().is_some() && expect.to_string().contains(expect.param().unwrap()), "{expect}");
    }
    assert_eq!(ok(r#"{"max_tokens":2147483648}"#).max_tokens, Some(1 << 31));
}

#[test]
fn what_is_no_json_object_is_refused() {
    use ScanError::{ByteOrderMark, Empty, InvalidJson, NotAnObject};
    for (body, expect) in [
        ("", Empty),
        (" \n", Empty),
        ("\u{feff}{}", ByteOrderMark),
        ("[]", NotAnObject),
        ("null", NotAnObject),
        ("{} x", InvalidJson { at: 3 }),
        ("{}{}", InvalidJson { at: 2 }),
        ("{", InvalidJson { at: 1 }),
        (r#"{"a":NaN}"#, InvalidJson { at: 5 }),
        (r#"{"a":nul}"#, InvalidJson { at: 5 }),
        (r#"{"a":01}"#, InvalidJson { at: 7 }),
        (r#"{"a":1e999}"#, InvalidJson { at: 5 }),
        (r#"{"a":"\ud800x"}"#, InvalidJson { at: 6 }),
        (r#"{"a":"\ud800\u0041"}"#, InvalidJson { at: 6 }),
        (r#"{"a":"\udc00"}"#, InvalidJson { at: 6 }),
        (r#"{"a":"\u00g0"}"#, InvalidJson { at: 8 }),
        (r#"{"a":"\x41"}"#, InvalidJson { at: 6 }),
        ("{\"a\":\"x\ny\"}", InvalidJson { at: 7 }),
        (r#"{"a":[1}"#, InvalidJson { at: 7 }),
        (r#"{"a":{]}"#, InvalidJson { at: 6 }),
        (r#"{"a":1,}"#, InvalidJson { at: 7 }),
        (r#"{,"a":1}"#, InvalidJson { at: 1 }),
        (r#"{"a" 1}"#, InvalidJson { at: 5 }),
        (r#"{'a':1}"#, InvalidJson { at: 1 }),
    ] {
        assert_eq!(view(body), Err(expect), "{body}");
    }
    assert_eq!(scan(b"{\"a\":\"\xff\"}", ScanLimits::DEFAULT), Err(ScanError::NotUtf8 { at: 6 }));
    assert_eq!(scan(b"{\"a\":\"\xed\xa0\x80\"}", ScanLimits::DEFAULT), Err(ScanError::NotUtf8 { at: 6 }));
}

#[test]
fn depth_is_limited_and_a_bomb_costs_no_stack() {
    let nested = |depth: usize| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(view(&nested(128)).is_ok());
    assert_eq!(view(&nested(129)), Err(ScanError::TooDeep { limit: 128 }));
    assert_eq!(view(&nested(100_000)), Err(ScanError::TooDeep { limit: 128 }));
    let shallow = ScanLimits { depth_max: 3, ..ScanLimits::DEFAULT };
    assert!(scan(nested(3).as_bytes(), shallow).is_ok());
    assert_eq!(scan(nested(4).as_bytes(), shallow), Err(ScanError::TooDeep { limit: 3 }));
}

#[test]
fn a_million_messages_are_refused_at_the_limit() {
    let body = format!(r#"{{"messages":[{}0]}}"#, "0,".repeat(1_000_000));
    assert_eq!(view(&body), Err(ScanError::TooManyMessages { limit: 100_000 }));
}

// === Against serde_json ===

/// Documents whose top level uses our keys and whose strings need every kind of escape.
fn document() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~]{0,12}", "\\PC{0,8}", "[\"\\\\\n\t\u{1}\u{7f}\u{e4}\u{1f600}]{0,6}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no infinity", |f| f.is_finite()).prop_map(Value::from),
        text.clone().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(4, 32, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text.clone(), inner), 0..5)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    let key = prop_oneof![
        Just("model".to_owned()),
        Just("stream".to_owned()),
        Just("max_tokens".to_owned()),
        Just("n".to_owned()),
        Just("prompt".to_owned()),
        Just("messages".to_owned()),
        "[a-z\"]{0,4}".prop_map(|s| s),
    ];
    prop::collection::vec((key, value), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

/// Writes every character of every string as an escape, which must change nothing.
fn escaped(value: &Value, out: &mut String) {
    let quote = |text: &str, out: &mut String| {
        out.push('"');
        text.encode_utf16().for_each(|unit| write!(out, "\\u{unit:04x}").unwrap());
        out.push('"');
    };
    match value {
        Value::String(text) => quote(text, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at == 0 { " " } else { "\t, " });
                escaped(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (at, (key, item)) in fields.iter().enumerate() {
                out.push_str(if at == 0 { "\r\n" } else { " ,\n" });
                quote(key, out);
                out.push_str(" : ");
                escaped(item, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => write!(out, "{value}").unwrap(),
    }
}

/// Whether the keys that we read have the types that we want; `scan` refuses them otherwise.
fn is_well_typed(value: &Value) -> bool {
    let Value::Object(top) = value else { return false };
    let known = |key: &str, fits: &dyn Fn(&Value) -> bool| top.get(key).is_none_or(fits);
    let up_to =
        |max: u64| move |v: &Value| v.is_null() || v.as_u64().is_some_and(|n| n <= max && n <= 1 << 31);
    known("model", &Value::is_string)
        && known("stream", &|v| v.is_null() || v.is_boolean())
        && known("max_tokens", &up_to(1 << 31))
        && known("n", &|v| up_to(128)(v) && v.as_u64() != Some(0))
        && known("prompt", &|v| v.is_null() || v.is_string() || v.is_array())
        && known("messages", &|v| v.is_null() || v.is_array())
}

/// Text bytes by the tree, to compare with those of the walk; `None` if a key says that a string is no text.
fn text_bytes(value: &Value) -> Option<u64> {
    const NO_TEXT: [&str; 11] = [
        "role",
        "type",
        "id",
        "tool_call_id",
        "detail",
        "format",
        "url",
        "image_url",
        "data",
        "file_data",
        "file_id",
    ];
    match value {
        Value::String(text) => Some(text.len() as u64),
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) if fields.keys().any(|key| NO_TEXT.contains(&key.as_str())) => None,
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(0),
    }
}

fn agrees(body: &[u8]) {
    let parsed: Result<Value, _> = serde_json::from_slice(body);
    let text = String::from_utf8_lossy(body);
    match (scan(body, ScanLimits::DEFAULT), parsed) {
        (Ok(view), Ok(value)) => {
            let field = |key: &str| value.get(key).filter(|v| !v.is_null());
            assert_eq!(view.model(body).as_deref(), field("model").and_then(Value::as_str), "{text}");
            assert_eq!(view.stream, field("stream").and_then(Value::as_bool), "{text}");
            assert_eq!(view.max_tokens.map(u64::from), field("max_tokens").and_then(Value::as_u64), "{text}");
            assert_eq!(view.n.map(u64::from), field("n").and_then(Value::as_u64), "{text}");
            let messages = field("messages").and_then(Value::as_array).map(Vec::len);
            assert_eq!(view.messages.map(|m| m as usize), messages, "{text}");
        }
        // Types, duplicates and case are our own rules on top of the grammar.
        (
            Err(
                ScanError::WrongType { .. }
                | ScanError::OutOfRange { .. }
                | ScanError::DuplicateKey { .. }
                | ScanError::MiscasedKey { .. }
                | ScanError::NotAnObject,
            ),
            _,
        ) => {}
        (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("accepted, but serde_json says {error}: {text}"),
        (Err(error), Ok(_)) => panic!("refused with {error}, but serde_json accepts: {text}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn generated_documents_are_read_as_serde_json_reads_them(value in document()) {
        let mut spaced = String::new();
        escaped(&value, &mut spaced);
        for body in [value.to_string(), serde_json::to_string_pretty(&value).unwrap(), spaced] {
            agrees(body.as_bytes());
            prop_assert_eq!(view(&body).is_ok(), is_well_typed(&value), "{}", body);
            let text = ["messages", "prompt"].map(|key| value.get(key).map_or(Some(0), text_bytes));
            if let (Ok(view), [Some(messages), Some(prompt)]) = (view(&body), text) {
                prop_assert_eq!(view.prompt_bytes, messages + prompt, "{}", body);
            }
        }
    }

    #[test]
    fn damaged_documents_are_refused_where_serde_json_refuses_them(
        value in document(),
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![
            prop::sample::select(b"{}[]\",:\\-+.eE019untf \n\x01\x80\xff".to_vec()).prop_map(Some),
            Just(None),
        ],
        insert in any::<bool>(),
    ) {
        let mut body = value.to_string().into_bytes();
        let at = at.index(body.len());
        match (damage, insert) {
            (Some(byte), true) => body.insert(at, byte),
            (Some(byte), false) => body[at] = byte,
            (None, true) => body.truncate(at),
            (None, false) => { body.remove(at); }
        }
        agrees(&body);
    }
}
