//! The kinds that were not run: their pages as documented, old and new names, adapters, and pages of another kind.

use aya_domain::Bytes;

use super::*;

macro_rules! page {
    ($path:literal) => {
        include_bytes!(concat!("../../../../fixtures/engines/", $path)).as_slice()
    };
}

struct Expect {
    running: u32,
    waiting: u32,
    kv_used: f64,
    kv_capacity: Option<u64>,
    max_sequences: Option<u32>,
    prefix_share: Option<f64>,
}

#[track_caller]
fn check(kind: EngineKind, page: Page, body: &[u8], expect: &Expect) {
    let got = parse(kind, page, 200, body);
    let absent = |told: bool| if told { Some(Absent::Missing) } else { None };
    assert_eq!((got.running, got.waiting), (Some(Ok(expect.running)), Some(Ok(expect.waiting))));
    assert_eq!(got.kv_used, Some(Ok(ratio(expect.kv_used))));
    match expect.kv_capacity {
        Some(tokens) => assert_eq!(got.kv_capacity, Some(Ok(Tokens(tokens)))),
        None => assert_eq!(got.kv_capacity, Some(Err(Absent::Missing))),
    }
    let told = got.max_sequences.is_some();
    assert_eq!(got.max_sequences, expect.max_sequences.map(Ok).or(absent(told).map(Err)));
    let share = got.prefix_cache.and_then(|told| told.ok()?.share());
    assert_eq!(share.map(Ratio::get), expect.prefix_share);
}

#[test]
fn every_kind_s_page_of_load_is_read() {
    let sglang = Expect {
        running: 8,
        waiting: 2,
        kv_used: 0.375,
        kv_capacity: Some(800_000),
        max_sequences: None,
        prefix_share: Some(0.25),
    };
    check(EngineKind::Sglang, Page::Metrics, page!("sglang/metrics.txt"), &sglang);
    let loads = Expect { max_sequences: Some(256), prefix_share: None, ..sglang };
    check(EngineKind::Sglang, Page::Loads, page!("sglang/loads.json"), &loads);
    let old = Expect {
        running: 7,
        waiting: 1,
        kv_used: 0.28,
        kv_capacity: None,
        max_sequences: None,
        prefix_share: Some(0.007),
    };
    check(EngineKind::Sglang, Page::Metrics, page!("sglang/metrics_old.txt"), &old);
    let vllm = Expect {
        running: 6,
        waiting: 1,
        kv_used: 0.125,
        kv_capacity: Some(432_000),
        max_sequences: None,
        prefix_share: Some(0.25),
    };
    check(EngineKind::Vllm, Page::Metrics, page!("vllm/metrics_0.8.txt"), &vllm);
    let tgi = Expect {
        running: 8,
        waiting: 3,
        kv_used: 0.25,
        kv_capacity: Some(81_920),
        max_sequences: None,
        prefix_share: Some(0.25),
    };
    check(EngineKind::Tgi, Page::Metrics, page!("tgi/metrics.txt"), &tgi);
    let trtllm = Expect {
        running: 11,
        waiting: 4,
        kv_used: 0.75,
        kv_capacity: Some(192_000),
        max_sequences: Some(64),
        prefix_share: Some(0.5),
    };
    check(EngineKind::TrtLlm, Page::Metrics, page!("trtllm/metrics.txt"), &trtllm);
    let colons = String::from_utf8(page!("trtllm/metrics.txt").to_vec()).unwrap();
    check(EngineKind::TrtLlm, Page::Metrics, colons.replace("trtllm_", "trtllm:").as_bytes(), &trtllm);
    let triton = Expect {
        running: 6,
        waiting: 1,
        kv_used: 0.25,
        kv_capacity: Some(399_360),
        max_sequences: Some(512),
        prefix_share: None,
    };
    check(EngineKind::Triton, Page::Metrics, page!("triton/metrics.txt"), &triton);
    let before = Expect { running: 1, waiting: 2, ..triton };
    check(EngineKind::Triton, Page::Metrics, page!("triton/metrics_old.txt"), &before);
}

#[test]
fn tgi_s_limits_model_and_version_are_on_its_page_of_facts() {
    let got = parse(EngineKind::Tgi, Page::Info, 200, page!("tgi/info.json"));
    assert_eq!(got.max_sequences, Some(Ok(128)), "more get 429");
    assert_eq!(got.context_length, Some(Ok(Tokens(4096))));
    assert_eq!(got.models, Some(Ok(vec![served("mistralai/Mistral-7B-Instruct-v0.3", 4096)])));
    assert_eq!(got.version, Some(Ok("3.3.4".to_owned())));
}

#[test]
fn ollama_tells_what_it_holds_and_the_context_it_holds_it_with() {
    let got = parse(EngineKind::Ollama, Page::Loaded, 200, page!("ollama/ps.json"));
    let loaded = got.loaded.clone().unwrap().unwrap();
    let expect = LoadedModel {
        id: ModelId::parse("llama3.1:8b").unwrap(),
        size: Some(Bytes(6_654_289_920)),
        vram: Some(Bytes(5_654_289_920)),
        context_length: Some(Tokens(8192)),
        expires_at: Some("2026-11-21T07:05:00.318635-08:00".to_owned()),
    };
    assert_eq!(loaded, [expect]);
    let mut readings = EngineReadings::new(EngineKind::Ollama);
    readings.merge(Page::Loaded, got, MonoTime::ZERO);
    let models = parse(EngineKind::Ollama, Page::Models, 200, page!("ollama/models.json"));
    readings.merge(Page::Models, models, MonoTime::ZERO);
    let models = readings.served_models().unwrap().value;
    let contexts: Vec<_> = models.iter().map(|m| (m.id.as_str(), m.context_length)).collect();
    assert_eq!(contexts, [("llama3.1:8b", Some(Tokens(8192))), ("qwen3:4b", None)]);
}

#[test]
fn an_adapter_is_a_model_with_the_context_of_its_parent() {
    for (kind, body, base, context) in [
        (EngineKind::Vllm, page!("vllm/models_lora.json"), "llama", 8192),
        (EngineKind::Sglang, page!("sglang/models.json"), "qwen", 32_768),
    ] {
        let models = parse(kind, Page::Models, 200, body).models.unwrap().unwrap();
        let parent = Some(ModelId::parse(base).unwrap());
        let adapter = ServedModel { parent, ..served("sql-adapter", context) };
        assert_eq!(models, [served(base, context), adapter], "{kind}");
    }
}

#[test]
fn a_page_of_another_kind_is_known_as_foreign() {
    let pages = [
        (EngineKind::Vllm, page!("vllm/metrics_0.8.txt")),
        (EngineKind::Sglang, page!("sglang/metrics.txt")),
        (EngineKind::Tgi, page!("tgi/metrics.txt")),
        (EngineKind::TrtLlm, page!("trtllm/metrics.txt")),
        (EngineKind::Triton, page!("triton/metrics.txt")),
        (EngineKind::LlamaCpp, b"llamacpp:requests_processing 1\n"),
    ];
    for (kind, _) in pages {
        for (other, body) in pages {
            let got = parse(kind, Page::Metrics, 200, body).running;
            let foreign = got == Some(Err(Absent::Page(PageError::Foreign)));
            assert_eq!(foreign, kind != other, "{kind} reading a page of {other}: {got:?}");
        }
    }
}

#[test]
fn no_kind_takes_an_impossible_number_for_a_load() {
    let json = |v: &str| {
        format!("{{\"loads\":[{{\"num_running_reqs\":{v},\"num_waiting_reqs\":1,\"token_usage\":{v}}}]}}")
    };
    for (value, running, kv) in [
        ("NaN", Absent::NotFinite, Absent::NotFinite),
        ("-1", Absent::Negative, Absent::Negative),
        ("18446744073709551615", Absent::TooLarge, Absent::TooLarge),
        ("1e400", Absent::NotFinite, Absent::NotFinite),
        ("2.5", Absent::Malformed, Absent::TooLarge),
    ] {
        for (kind, page) in [
            (EngineKind::Sglang, format!("sglang:num_running_reqs {value}\nsglang:token_usage {value}\n")),
            (
                EngineKind::TrtLlm,
                format!("trtllm_num_requests_running {value}\ntrtllm_kv_cache_utilization {value}\n"),
            ),
            (
                EngineKind::Triton,
                format!(
                    "nv_trt_llm_request_metrics{{request_type=\"scheduled\"}} {value}\n\
                     nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type=\"fraction\"}} {value}\n"
                ),
            ),
        ] {
            let got = parse(kind, Page::Metrics, 200, page.as_bytes());
            assert_eq!((got.running, got.kv_used), (Some(Err(running)), Some(Err(kv))), "{kind} {value}");
        }
        let got = parse(EngineKind::Sglang, Page::Loads, 200, json(value).as_bytes());
        match value {
            // JSON has no such numbers: the page is none.
            "NaN" | "1e400" => assert_eq!(got.running, Some(Err(Absent::Page(PageError::NotJson)))),
            _ => assert_eq!((got.running, got.waiting), (Some(Err(running)), Some(Ok(1))), "{value}"),
        }
    }
}

#[test]
fn more_found_in_the_prefix_cache_than_asked_is_a_miscount() {
    let page = b"vllm:prefix_cache_queries_total 10\nvllm:prefix_cache_hits_total 11\n";
    let got = parse(EngineKind::Vllm, Page::Metrics, 200, page);
    assert_eq!(got.prefix_cache, Some(Err(Absent::TooLarge)));
}

#[test]
fn what_moves_with_every_step_is_read_where_a_kind_has_it() {
    for (kind, body, expect) in [
        (EngineKind::Sglang, page!("sglang/metrics.txt"), Some(Ok(8_500))),
        (EngineKind::Sglang, page!("sglang/metrics_old.txt"), Some(Err(Absent::Missing))),
        (EngineKind::Tgi, page!("tgi/metrics.txt"), Some(Ok(4_197))),
        (EngineKind::Triton, page!("triton/metrics.txt"), Some(Ok(15_678))),
        (EngineKind::TrtLlm, page!("trtllm/metrics.txt"), None),
    ] {
        assert_eq!(parse(kind, Page::Metrics, 200, body).work, expect, "{kind}");
    }
}
