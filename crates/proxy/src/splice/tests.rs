//! Splices compared with the original: the edited keys change, every other byte stays.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::scan::{ScanLimits, scan};

const RELAY: Edits<'_> = Edits { stream: Some(true), include_usage: true, model: None };

fn spliced(body: &str, edits: Edits<'_>) -> String {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let view = scan(&bytes, ScanLimits::DEFAULT).unwrap();
    let result = splice(&bytes, &view, edits);
    let whole = result.to_vec();
    assert_eq!(result.len(), whole.len(), "{body}");
    assert!(result.parts().iter().all(|part| !part.is_empty()), "{body}");
    String::from_utf8(whole).unwrap()
}

#[test]
fn keys_are_replaced_where_they_stand_and_inserted_where_they_are_missing() {
    let renamed = Edits { model: Some("b\"\\\n\u{e4}"), ..Edits::default() };
    for (body, edits, expect) in [
        (r#"{"a":1}"#, Edits::default(), r#"{"a":1}"#),
        (r#"{ "stream" : false }"#, RELAY, r#"{"stream_options":{"include_usage":true}, "stream" : true }"#),
        (r#"{"stream":null}"#, Edits { stream: Some(false), ..Edits::default() }, r#"{"stream":false}"#),
        (r#"{}"#, RELAY, r#"{"stream":true,"stream_options":{"include_usage":true}}"#),
        (r#"{"a":1}"#, RELAY, r#"{"stream":true,"stream_options":{"include_usage":true},"a":1}"#),
        (
            r#"{"stream_options":{"x":1},"stream":true}"#,
            RELAY,
            r#"{"stream_options":{"include_usage":true,"x":1},"stream":true}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{ }}"#,
            RELAY,
            r#"{"stream":true,"stream_options":{"include_usage":true }}"#,
        ),
        (
            r#"{"stream":true,"stream_options":{"include_usage":false,"x":1}}"#,
            RELAY,
            r#"{"stream":true,"stream_options":{"include_usage":true,"x":1}}"#,
        ),
        (
            r#"{"stream_options":null,"stream":false}"#,
            RELAY,
            r#"{"stream_options":{"include_usage":true},"stream":true}"#,
        ),
        (r#"{"model": "a","x":"a"}"#, renamed, r#"{"model": "b\"\\\u000aä","x":"a"}"#),
        (r#"{"x":"a"}"#, renamed, r#"{"model":"b\"\\\u000aä","x":"a"}"#),
    ] {
        assert_eq!(spliced(body, edits), expect, "{body}");
    }
}

#[test]
fn what_needs_no_change_goes_on_as_one_slice_of_the_same_memory() {
    let body = Bytes::from_static(br#"{"stream":true,"stream_options":{"include_usage":true},"model":"m"}"#);
    let view = scan(&body, ScanLimits::DEFAULT).unwrap();
    let same = splice(&body, &view, RELAY);
    assert_eq!(same.parts().len(), 1);
    assert_eq!(same.parts()[0].as_ptr(), body.as_ptr());
}

#[test]
fn the_untouched_bytes_are_never_copied() {
    let body = Bytes::from_static(br#"{"messages":["long"],"model":"a","stream":false,"tail":1}"#);
    let view = scan(&body, ScanLimits::DEFAULT).unwrap();
    let edits = Edits { model: Some("b"), ..RELAY };
    let result = splice(&body, &view, edits);
    let range = body.as_ptr_range();
    let kept: usize =
        result.parts().iter().filter(|part| range.contains(&part.as_ptr())).map(Bytes::len).sum();
    assert_eq!(kept, body.len() - r#""a""#.len() - "false".len());
}

#[test]
fn a_vectored_write_can_go_on_from_any_byte() {
    let body = Bytes::from_static(
        br#"{"messages":["long"],"model":"a","stream":false,"stream_options":{},"tail":1}"#,
    );
    let view = scan(&body, ScanLimits::DEFAULT).unwrap();
    let result = splice(&body, &view, Edits { model: Some("b"), ..RELAY });
    let whole = result.to_vec();
    for skip in 0..=whole.len() {
        let mut slices = [IoSlice::new(&[]); PARTS_MAX];
        let used = result.io_slices(skip, &mut slices);
        let rest: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        assert_eq!(rest, whole[skip..], "from {skip}");
    }
}

proptest! {
    #[test]
    fn only_the_edited_keys_differ(
        before in prop::collection::btree_map("[a-l]{1,3}", any::<i32>(), 0..3),
        model in prop::option::of("\\PC{0,6}"),
        stream in prop::sample::select(vec![None, Some(json!(null)), Some(json!(true)), Some(json!(false))]),
        options in prop::sample::select(vec![
            None,
            Some(json!(null)),
            Some(json!({})),
            Some(json!({"include_usage": false})),
            Some(json!({"include_usage": null, "continuous_usage_stats": true})),
            Some(json!({"include_usage": true, "z": [{"include_usage": 3}]})),
        ]),
        wanted in prop::option::of(any::<bool>()),
        include_usage in any::<bool>(),
        alias in prop::option::of("\\PC{0,6}"),
        order in any::<u64>(),
        pretty in any::<bool>(),
    ) {
        let mut fields: Vec<(String, Value)> = before.into_iter().map(|(k, v)| (k, json!(v))).collect();
        fields.extend(model.map(|m| ("model".to_owned(), json!(m))));
        fields.extend(stream.map(|s| ("stream".to_owned(), s)));
        fields.extend(options.map(|o| ("stream_options".to_owned(), o)));
        fields.sort_by_key(|(key, _)| key.bytes().fold(order, |h, b| h.wrapping_mul(31) ^ u64::from(b)));
        let space = if pretty { "\n " } else { "" };
        let written: Vec<_> = fields.iter().map(|(k, v)| format!("{space}{}:{space}{v}", json!(k))).collect();
        let body = format!("{{{}{space}}}", written.join(","));

        let edits = Edits { stream: wanted, include_usage, model: alias.as_deref() };
        let result = spliced(&body, edits);

        let mut expect: Value = serde_json::from_str(&body).unwrap();
        if let Some(alias) = &alias {
            expect["model"] = json!(alias);
        }
        if let Some(wanted) = wanted {
            expect["stream"] = json!(wanted);
        }
        if include_usage {
            if !expect.get("stream_options").is_some_and(Value::is_object) {
                expect["stream_options"] = json!({});
            }
            expect["stream_options"]["include_usage"] = json!(true);
        }
        prop_assert_eq!(serde_json::from_str::<Value>(&result).unwrap(), expect, "{} -> {}", body, result);
    }
}
