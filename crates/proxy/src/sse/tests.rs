//! Recorded and hostile streams, whole and cut at every byte.

use proptest::prelude::*;

use super::*;

/// The body of a recorded answer: `curl --raw` output with its head and chunk sizes.
pub(crate) fn recorded_body(raw: &[u8]) -> Vec<u8> {
    let head = memchr::memmem::find(raw, b"\r\n\r\n").unwrap() + 4;
    let chunked =
        memchr::memmem::find(&raw[..head].to_ascii_lowercase(), b"transfer-encoding: chunked").is_some();
    let mut rest = &raw[head..];
    if !chunked {
        return rest.to_vec();
    }
    let mut body = Vec::new();
    while let Some(line) = memchr::memmem::find(rest, b"\r\n") {
        let size = std::str::from_utf8(&rest[..line]).unwrap();
        let Ok(size) = usize::from_str_radix(size, 16) else { break };
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
    body
}

macro_rules! recorded {
    ($name:literal) => {
        recorded_body(include_bytes!(concat!("../../../../fixtures/openai/", $name)))
    };
}

fn facts(stream: &[u8]) -> StreamFacts {
    let mut scanner = SseScanner::default();
    scanner.feed(stream).unwrap().clone()
}

#[test]
fn an_event_that_says_null_is_no_event() {
    let facts = facts(b"data: null\n\n");
    assert_eq!((facts.events, facts.comments), (0, 1), "the client's response would begin before the answer");
}

#[test]
fn recorded_streams_give_their_tokens_and_their_end() {
    let usage = |prompt, completion, cached| {
        Some(Usage {
            prompt_tokens: Some(prompt),
            completion_tokens: Some(completion),
            cached_tokens: cached,
        })
    };
    let length = Some(FinishReason::Length);
    for (name, stream, content, finish, used, tokens) in [
        ("llama chat", recorded!("llama.cpp/chat.sse"), 6, length, None, 6),
        ("llama usage", recorded!("llama.cpp/chat_usage.sse"), 6, length, usage(25, 6, Some(24)), 6),
        ("llama text", recorded!("llama.cpp/completion.sse"), 4, length, usage(6, 4, Some(0)), 4),
        ("vllm chat", recorded!("vllm/chat.sse"), 6, length, None, 6),
        ("vllm usage", recorded!("vllm/chat_usage.sse"), 6, length, usage(25, 6, None), 6),
        ("vllm text", recorded!("vllm/completion.sse"), 4, length, None, 4),
        ("vllm queued", recorded!("vllm/chat_queued_keepalive.sse"), 2, length, None, 2),
    ] {
        let facts = facts(&stream);
        assert_eq!(facts.content_events, content, "{name}");
        assert_eq!((facts.finish, facts.finished), (finish, 1), "{name}");
        assert_eq!(facts.usage, used, "{name}");
        assert_eq!(facts.completion_tokens(), Some(tokens), "{name}");
        assert!(facts.done && facts.is_success(1) && facts.error.is_none(), "{name}");
        assert!(!facts.is_success(2), "{name}: one choice is not two");
    }
    assert_eq!(facts(&recorded!("vllm/chat_queued_keepalive.sse")).comments, 3);
}

#[test]
fn llama_cpp_measures_the_request_in_its_last_chunk() {
    let timings = facts(&recorded!("llama.cpp/chat.sse")).timings.unwrap();
    assert_eq!((timings.prompt_n, timings.cache_n, timings.predicted_n), (Some(1), Some(24), Some(6)));
    assert_eq!((timings.prompt_ms, timings.predicted_ms), (Some(0.319), Some(0.824)));
}

#[test]
fn a_refusal_inside_a_200_stream_is_an_overload_and_done_is_no_success() {
    let facts = facts(&recorded!("vllm/err_overload_in_stream_200.sse"));
    let error = facts.error.as_ref().unwrap();
    assert_eq!((error.code, error.kind.as_deref()), (Some(503), Some("Service Unavailable")));
    assert!(error.is_overload() && error.is_retryable());
    assert!(facts.done && !facts.is_success(1));
    assert_eq!((facts.events, facts.content_events), (2, 0));
}

#[test]
fn a_stream_that_just_ends_is_no_success() {
    let facts = facts(&recorded!("llama.cpp/chat_killed_excerpt.sse"));
    assert!(!facts.done && !facts.is_success(1) && facts.finish.is_none());
    assert!(facts.content_events > 0);
}

#[test]
fn errors_come_in_several_shapes() {
    let check = |data: &str, expect: Option<(Option<u16>, Option<&str>, bool, bool)>| {
        let stream = format!("data: {data}\n\n");
        let facts = facts(stream.as_bytes());
        let got =
            facts.error.as_ref().map(|e| (e.code, e.kind.as_deref(), e.is_overload(), e.is_retryable()));
        assert_eq!(got, expect, "{data}");
    };
    check(
        r#"{"error":{"message":"dead","type":"InternalServerError","code":500}}"#,
        Some((Some(500), Some("InternalServerError"), false, true)),
    );
    check(
        r#"{"error":{"message":"Loading model","type":"unavailable_error","code":"503"}}"#,
        Some((Some(503), Some("unavailable_error"), true, true)),
    );
    check(
        r#"{ "error" : {"message":"too long","type":"invalid_request_error","code":null}}"#,
        Some((None, Some("invalid_request_error"), false, false)),
    );
    check(r#"{"error":"cut","error_type":"generation"}"#, Some((None, Some("generation"), false, true)));
    check(
        r#"{"object":"error","message":"bad","type":"BadRequestError","code":400}"#,
        Some((Some(400), Some("BadRequestError"), false, false)),
    );
    check(r#"{"choices":[],"error":{"message":"m","code":429}}"#, Some((Some(429), None, true, true)));
    check(r#"{"error":null,"choices":[]}"#, None);
    check(r#"{"choices":[{"delta":{"content":"{\"error\":{\"code\":500}}"}}]}"#, None);
    check(r#"{"choices":[{"delta":{"content":"x"},"note":"error"}]}"#, None);
}

#[test]
fn a_long_error_message_is_cut_at_a_character() {
    let data = format!(r#"{{"error":{{"message":"{}"}}}}"#, "\u{e4}".repeat(5_000));
    let error = StreamError::from_json(data.as_bytes()).unwrap();
    assert_eq!(error.message, "\u{e4}".repeat(512));
}

#[test]
fn what_a_model_writes_is_never_taken_for_a_key() {
    let sneaky = r#"data: {"choices":[{"delta":{"content":"\"finish_reason\":\"stop\",\"usage\":{\"completion_tokens\":9}"},"finish_reason":null}]}"#;
    let facts = facts(format!("{sneaky}\n\n").as_bytes());
    assert_eq!((facts.finish, facts.finished, facts.usage, facts.content_events), (None, 0, None, 1));
    // A string that is the key's name, but no key.
    let named = facts_of_data(r#"{"a":"finish_reason","b":["usage","text"]}"#);
    assert_eq!((named.finish, named.usage, named.content_events), (None, None, 0));
}

fn facts_of_data(data: &str) -> StreamFacts {
    facts(format!("data: {data}\n\n").as_bytes())
}

#[test]
fn content_is_text_reasoning_or_a_tool_call_and_never_an_empty_string() {
    for (data, content) in [
        (r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#, 0),
        (r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#, 0),
        (r#"{"choices":[{"delta":{"content" : "x"}}]}"#, 1),
        (r#"{"choices":[{"delta":{"reasoning_content":"x","content":null}}]}"#, 1),
        (r#"{"choices":[{"delta":{"reasoning":"x"}}]}"#, 1),
        (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, 1),
        (r#"{"choices":[{"delta":{"tool_calls":[]}}]}"#, 0),
        (r#"{"choices":[{"delta":{"function_call":{"arguments":"{"}}}]}"#, 1),
        (r#"{"choices":[{"text":"x","index":0}]}"#, 1),
        (r#"{"choices":[{"text":"","index":0},{"text":"y","index":1}]}"#, 1),
        (r#"{"choices":[]}"#, 0),
    ] {
        assert_eq!(facts_of_data(data).content_events, content, "{data}");
    }
}

#[test]
fn every_choice_must_finish_and_an_abort_is_no_success() {
    let both = facts_of_data(r#"{"choices":[{"finish_reason":"stop"},{"finish_reason" : "tool_calls"}]}"#);
    assert_eq!((both.finished, both.finish), (2, Some(FinishReason::ToolCalls)));
    assert!(both.is_success(2));
    let one_cut = facts_of_data(r#"{"choices":[{"finish_reason":"abort"},{"finish_reason":"stop"}]}"#);
    assert!(!one_cut.is_success(2), "a choice that was cut is not forgotten");
    for reason in ["abort", "error"] {
        assert!(!facts_of_data(&format!(r#"{{"choices":[{{"finish_reason":"{reason}"}}]}}"#)).is_success(1));
    }
}

#[test]
fn impossible_counts_are_unknown() {
    for bad in ["-1", "1.5", "99999999999999999999", "\"7\"", "null", "NaN"] {
        let facts = facts_of_data(&format!(r#"{{"usage":{{"prompt_tokens":{bad},"completion_tokens":3}}}}"#));
        let usage = facts.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (None, Some(3)), "{bad}");
    }
    assert_eq!(facts_of_data(r#"{"usage":null}"#).usage, None);
}

#[test]
fn a_whole_answer_is_read_with_the_same_eyes() {
    let answer = StreamFacts::of_answer(&recorded!("llama.cpp/chat.http"));
    assert!(answer.is_success(1));
    assert_eq!(answer.usage.unwrap().prompt_tokens, Some(25));
    assert_eq!((answer.completion_tokens(), answer.timings.unwrap().cache_n), (Some(8), Some(0)));
    let busy = StreamFacts::of_answer(&recorded!("vllm/err_overload_503.http")).error.unwrap();
    assert!(busy.is_overload() && busy.is_retryable());
    let too_long = StreamFacts::of_answer(&recorded!("llama.cpp/err_too_long_stream.http")).error.unwrap();
    assert_eq!((too_long.code, too_long.kind.as_deref()), (Some(400), Some("exceed_context_size_error")));
    assert!(!too_long.is_retryable());
}

// === Splitting ===

/// Items as text, fed in pieces of the given lengths (the last one repeats).
fn items(stream: &[u8], cuts: &[usize], limit: usize) -> Vec<String> {
    let mut splitter = Splitter::new(limit);
    let mut found = Vec::new();
    let mut rest = stream;
    let mut cuts = cuts.iter().copied().cycle();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(cuts.next().unwrap().clamp(1, rest.len()));
        rest = tail;
        let outcome = splitter.feed(piece, |item| {
            found.push(match item {
                Item::Comment => "#".to_owned(),
                Item::Data(data) => String::from_utf8_lossy(data).into_owned(),
            });
        });
        if outcome.is_err() {
            found.push("too long".to_owned());
            break;
        }
    }
    found
}

#[test]
fn a7_events_are_cut_as_the_standard_says_wherever_the_network_cuts() {
    for (stream, expect) in [
        ("data: a\n\n", vec!["a"]),
        ("data: a\r\n\r\ndata: b\r\rdata:c\n\n", vec!["a", "b", "c"]),
        ("data: a\r\n\ndata: b\n\r\n", vec!["a", "b"]),
        ("\u{feff}data: a\n\n", vec!["a"]),
        ("\u{feff}\u{feff}data: a\n\n", vec![]),
        (": hi\n\ndata: a\n:\n\n", vec!["#", "#", "a"]),
        ("data: a\ndata: b\n\n", vec!["a\nb"]),
        ("data: a\ndata\ndata: b\n\n", vec!["a\n\nb"]),
        ("event: x\nid: 1\nretry: 5\ndata: a\n\n", vec!["a"]),
        ("data: a", vec![]),
        ("data: a\n", vec![]),
        ("data:\n\ndata\n\n\n\n", vec![]),
        ("data:  a\n\n", vec![" a"]),
        ("Data: a\n\ndatax: b\n\n", vec![]),
        ("data: \u{1f600}\u{e4}\n\n", vec!["\u{1f600}\u{e4}"]),
    ] {
        for size in 1..=stream.len() {
            assert_eq!(
                items(stream.as_bytes(), &[size], EVENT_MAX),
                expect,
                "{stream:?} in pieces of {size}"
            );
        }
    }
}

#[test]
fn an_endless_line_or_event_is_cut_at_the_limit() {
    let line = format!("data: {}\n\n", "x".repeat(100));
    let lines = "data: xxxxxxxxxx\n".repeat(10) + "\n";
    for size in [1, 7, 64, 1_000] {
        assert_eq!(items(line.as_bytes(), &[size], 64), ["too long"], "line in pieces of {size}");
        assert_eq!(items(lines.as_bytes(), &[size], 64), ["too long"], "event in pieces of {size}");
        assert_eq!(items(line.as_bytes(), &[size], 106).len(), 1, "within the limit in pieces of {size}");
    }
    let mut scanner = SseScanner::default();
    let piece = vec![b'x'; 64 * 1024];
    let error = (0..64).find_map(|_| scanner.feed(&piece).err());
    assert_eq!(error, Some(SseError::EventTooLong { limit: EVENT_MAX }));
}

/// What goes on after each piece, fed in pieces of one size; and what is left.
fn relayed(stream: &str, size: usize) -> (Vec<String>, String) {
    let mut scanner = SseScanner::default();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let passed = stream
        .as_bytes()
        .chunks(size)
        .map(|piece| text(&scanner.feed_whole(&Bytes::copy_from_slice(piece)).unwrap()))
        .filter(|passed| !passed.is_empty())
        .collect();
    (passed, text(&scanner.take_held()))
}

#[test]
fn a7_only_whole_events_go_on_and_none_of_their_bytes_is_lost() {
    for (stream, left) in [
        ("data: a\n\ndata: b\n\n", ""),
        ("data: a\n\ndata: b", "data: b"),
        (": hi\n\ndata: a\ndata: b\n\nid: 1\n", "id: 1\n"),
        ("data: a\r\n\r\ndata: b\r\n", "data: b\r\n"),
        ("data", "data"),
        ("\n\ndata: a\r\r", ""),
    ] {
        for size in 1..=stream.len() {
            let (passed, held) = relayed(stream, size);
            assert_eq!(passed.concat() + &held, stream, "{stream:?} in pieces of {size}");
            // A line feed behind a carriage return may come one chunk late: it ends nothing.
            assert_eq!(held.trim_start_matches('\n'), left, "{stream:?} in pieces of {size}");
            for piece in &passed {
                let ends = piece.ends_with("\n\n") || piece.ends_with("\r\r") || piece.ends_with("\r\n\r");
                let ends = ends || piece.ends_with("\r\n\r\n") || piece.chars().all(|c| c == '\n');
                assert!(ends, "{piece:?} of {stream:?} in pieces of {size}");
            }
        }
    }
}

#[test]
fn a_chunk_of_whole_events_goes_on_uncopied() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
    let passed = SseScanner::default().feed_whole(&chunk).unwrap();
    assert_eq!((passed.as_ptr(), passed.len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn an_event_of_ignored_lines_is_bounded_too() {
    let ids = "id: 1\n".repeat(100);
    for size in [1, 7, 1_000] {
        assert_eq!(items(ids.as_bytes(), &[size], 64), ["too long"], "in pieces of {size}");
    }
    let comments = ":\n\n".repeat(100);
    assert_eq!(items(comments.as_bytes(), &[3], 64).len(), 100);
}

proptest! {
    #[test]
    fn a7_any_split_gives_the_same_items(
        stream in prop::collection::vec(
            prop::sample::select(vec!["data: ", "data:", "\n", "\r", "\r\n", "\n\n", ":", "x", "\u{e4}", "\u{feff}", " "]),
            0..40,
        ),
        cuts in prop::collection::vec(1usize..9, 1..8),
    ) {
        let stream = stream.concat();
        let whole = items(stream.as_bytes(), &[stream.len().max(1)], EVENT_MAX);
        prop_assert_eq!(items(stream.as_bytes(), &cuts, EVENT_MAX), whole);
    }

    #[test]
    fn a7_any_split_of_a_recorded_stream_gives_the_same_facts(cuts in prop::collection::vec(1usize..700, 1..8)) {
        for stream in [recorded!("llama.cpp/chat_usage.sse"), recorded!("vllm/chat_usage.sse")] {
            let whole = facts(&stream);
            let mut scanner = SseScanner::default();
            let mut rest = stream.as_slice();
            let mut sizes = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*sizes.next().unwrap()).min(rest.len()));
                scanner.feed(piece).unwrap();
                rest = tail;
            }
            prop_assert_eq!(scanner.facts(), &whole);
        }
    }

    #[test]
    fn hostile_events_are_looked_at_without_harm(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "\"finish_reason\"", "\"usage\"", "\"prompt_tokens\"", "\"timings\"", "\"error\"", "\"content\"",
                    ":", "{", "}", "[", "\"", "-", "1e999", "18446744073709551616", "[DONE]", "\\", " ",
                ]).prop_map(|s| s.as_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..4),
            ],
            0..12,
        ),
    ) {
        let facts = StreamFacts::of_answer(&pieces.concat());
        prop_assert_eq!(facts.events, 1);
        let known = facts.timings.and_then(|t| t.prompt_ms);
        prop_assert!(known.is_none_or(f64::is_finite));
    }
}

/// Events of an answer with two choices as llama.cpp writes them: each choice has a usage of its own beside its timings.
const TWO_CHOICES: &str = concat!(
    "data: {\"choices\":[{\"text\":\" off\",\"index\":1,\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"text\":\" we\",\"index\":0,\"finish_reason\":null}]}\n\n",
    "data: {\"choices\":[{\"text\":\"\",\"index\":1,\"finish_reason\":\"length\"}],\"usage\":{\"completion_tokens\":5,",
    "\"prompt_tokens\":6,\"total_tokens\":11,\"prompt_tokens_details\":{\"cached_tokens\":0}},\"timings\":{\"cache_n\":0,",
    "\"prompt_n\":6,\"predicted_n\":5}}\n\n",
    "data: {\"choices\":[{\"text\":\"\",\"index\":0,\"finish_reason\":\"stop\"}],\"usage\":{\"completion_tokens\":3,",
    "\"prompt_tokens\":6,\"total_tokens\":9,\"prompt_tokens_details\":{\"cached_tokens\":4}},\"timings\":{\"cache_n\":4,",
    "\"prompt_n\":2,\"predicted_n\":3}}\n\ndata: [DONE]\n\n",
);

#[test]
fn an_engine_that_counts_each_choice_for_itself_is_added_up() {
    let seen = facts(TWO_CHOICES.as_bytes());
    assert_eq!((seen.completion_tokens(), seen.usage_parts), (Some(8), 2));
    // Two choices of one prompt, or one of each of two prompts.
    assert_eq!((seen.prompt_tokens(2), seen.prompt_tokens(1)), (Some(6), Some(12)));
    assert_eq!(seen.cached_tokens(2), Some(2));
    // Without a usage that was asked for, its timings count.
    let timed = TWO_CHOICES.replace("\"usage\"", "\"other\"");
    assert_eq!(facts(timed.as_bytes()).completion_tokens(), Some(8));
    // An engine whose usage is of the whole answer so far is not added up.
    let running = TWO_CHOICES.replace("\"timings\"", "\"other\"");
    let running = facts(running.as_bytes());
    assert_eq!((running.completion_tokens(), running.prompt_tokens(2)), (Some(3), Some(6)));
}
