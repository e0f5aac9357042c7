//! Every parser on the answers of real engines.

use aya_domain::{EngineKind, ModelId, MonoTime, PrefixCache, Ratio, ServedModel, Tokens};
use proptest::prelude::*;

use super::*;

/// Status and body of a recorded response.
fn recorded(raw: &str) -> (u16, Vec<u8>) {
    let status = raw.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    let body = raw.split_once("\r\n\r\n").or_else(|| raw.split_once("\n\n")).unwrap().1;
    (status, body.as_bytes().to_vec())
}

macro_rules! fixture {
    ($path:literal) => {
        recorded(include_str!(concat!("../../../fixtures/engines/", $path)))
    };
}

fn read(kind: EngineKind, page: Page, (status, body): (u16, Vec<u8>)) -> Findings {
    parse(kind, page, status, &body)
}

fn counters(asked: u64, hit: u64) -> Finding<PrefixCache> {
    Some(Ok(PrefixCache::Counters { asked: Tokens(asked), hit: Tokens(hit) }))
}

fn ratio(value: f64) -> Ratio {
    Ratio::new(value).unwrap()
}

fn served(id: &str, context: u64) -> ServedModel {
    ServedModel { id: ModelId::parse(id).unwrap(), context_length: Some(Tokens(context)), parent: None }
}

#[test]
fn vllm_metrics_as_recorded() {
    for (name, raw, running, waiting, kv, capacity, asked, work) in [
        ("idle", fixture!("vllm/metrics_idle.txt"), 0, 0, 0.0, 1_048_576, 0, 0),
        (
            "20 on 4 seats",
            fixture!("vllm/metrics_under_20.txt"),
            4,
            12,
            0.000_976_681_723_843_242_4,
            1_048_576,
            388,
            388 + 1419 + 378,
        ),
        (
            "KV pressure",
            fixture!("vllm/metrics_kv_pressure.txt"),
            12,
            0,
            0.521_739_130_434_782_6,
            3_072,
            422,
            422 + 1069 + 90,
        ),
    ] {
        let got = read(EngineKind::Vllm, Page::Metrics, raw);
        let expect = Findings {
            running: Some(Ok(running)),
            waiting: Some(Ok(waiting)),
            kv_used: Some(Ok(ratio(kv))),
            kv_capacity: Some(Ok(Tokens(capacity))),
            prefix_cache: counters(asked, 0),
            work: Some(Ok(work)),
            ..Findings::default()
        };
        assert_eq!(got, expect, "{name}");
    }
}

#[test]
fn vllm_ranks_add_up_and_older_names_are_understood() {
    let page = "vllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"1\"} 4\n\
                vllm:gpu_cache_usage_perc{engine=\"0\"} 0.2\nvllm:gpu_cache_usage_perc{engine=\"1\"} 0.4\n\
                vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\",engine=\"0\"} 1\n\
                vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"100\",engine=\"1\"} 1\n";
    let got = parse(EngineKind::Vllm, Page::Metrics, 200, page.as_bytes());
    assert_eq!(got.running, Some(Ok(7)));
    assert_eq!(got.waiting, Some(Err(Absent::Missing)));
    assert!((got.kv_used.unwrap().unwrap().get() - 0.3).abs() < 1e-9);
    assert_eq!(got.kv_capacity, Some(Ok(Tokens(3200))));
}

#[test]
fn an_impossible_number_is_absent_with_its_reason_and_spoils_nothing_else() {
    for (value, running, kv) in [
        ("NaN", Absent::NotFinite, Absent::NotFinite),
        ("-1", Absent::Negative, Absent::Negative),
        ("+Inf", Absent::NotFinite, Absent::NotFinite),
        ("5e9", Absent::TooLarge, Absent::TooLarge),
        ("1.5", Absent::Malformed, Absent::TooLarge),
        ("x", Absent::Malformed, Absent::Malformed),
        ("", Absent::Malformed, Absent::Malformed),
    ] {
        let page = format!(
            "vllm:num_requests_running {value}\nvllm:kv_cache_usage_perc {value}\nvllm:num_requests_waiting 2\n"
        );
        let got = parse(EngineKind::Vllm, Page::Metrics, 200, page.as_bytes());
        assert_eq!(got.running, Some(Err(running)), "{value}");
        assert_eq!(got.kv_used, Some(Err(kv)), "{value}");
        assert_eq!(got.waiting, Some(Ok(2)), "{value}");
    }
}

#[test]
fn a_useless_page_makes_everything_it_would_tell_absent() {
    let huge = vec![b'#'; MAX_PAGE_BYTES + 1];
    for (name, status, body, expect) in [
        ("HTML", 200, &b"<html>vllm:num_requests_running 1\n"[..], PageError::Html),
        ("empty", 200, b"", PageError::NoSeries),
        ("too large", 200, &huge, PageError::TooLarge),
        ("no key", 401, b"{}", PageError::Status(401)),
        ("metrics are off", 501, b"{}", PageError::Status(501)),
    ] {
        let got = parse(EngineKind::Vllm, Page::Metrics, status, body);
        let gone = Absent::Page(expect);
        assert_eq!((got.running, got.waiting), (Some(Err(gone)), Some(Err(gone))), "{name}");
        assert_eq!((got.kv_used, got.kv_capacity), (Some(Err(gone)), Some(Err(gone))), "{name}");
    }
}

#[test]
fn vllm_models_and_version_as_recorded() {
    let got = read(EngineKind::Vllm, Page::Models, fixture!("vllm/models.http"));
    assert_eq!(got.models, Some(Ok(vec![served("tiny-random", 2048)])));
    let got = read(EngineKind::Vllm, Page::Version, fixture!("vllm/version.http"));
    assert_eq!(got.version, Some(Ok("0.32.0".to_owned())));
    let got = read(EngineKind::Vllm, Page::Models, fixture!("vllm/err_404.http"));
    assert_eq!(got.models, Some(Err(Absent::Page(PageError::Status(404)))));
}

#[test]
fn one_odd_model_costs_that_model_only() {
    let model = |body: &str| parse(EngineKind::Vllm, Page::Models, 200, body.as_bytes()).models.unwrap();
    let without_context =
        |id: &str| ServedModel { id: ModelId::parse(id).unwrap(), context_length: None, parent: None };
    for (body, expect) in [
        (r#"{"data":[{"id":"a b"},{"id":"org/m"}]}"#, Ok(vec![without_context("org/m")])),
        (r#"{"data":[{"id":"m","max_model_len":"9"}]}"#, Ok(vec![without_context("m")])),
        (r#"{"data":[{"id":"m","max_model_len":-4}]}"#, Ok(vec![without_context("m")])),
        (r#"{"data":[{"id":"m","max_model_len":8}]}"#, Ok(vec![served("m", 8)])),
        (
            r#"{"data":[{"id":"m","aliases":["m","n",3]}]}"#,
            Ok(vec![without_context("m"), without_context("n")]),
        ),
        (r#"{"data":[]}"#, Ok(vec![])),
        (r#"{"data":[{"id":7}]}"#, Err(Absent::Malformed)),
        (r#"{"data":7}"#, Err(Absent::Page(PageError::NotJson))),
        (r#"{"data":[{"id":"m"#, Err(Absent::Page(PageError::NotJson))),
        ("<html>", Err(Absent::Page(PageError::Html))),
    ] {
        assert_eq!(model(body), expect, "{body}");
    }
}

#[test]
fn a_depth_bomb_is_not_json() {
    let bomb = "[".repeat(1_000_000);
    let got = parse(EngineKind::LlamaCpp, Page::Slots, 200, bomb.as_bytes());
    assert_eq!(got.running, Some(Err(Absent::Page(PageError::NotJson))));
}

#[test]
fn llama_cpp_metrics_as_recorded() {
    for (raw, running, waiting, (asked, hit), work) in [
        (fixture!("llama.cpp/metrics_idle.http"), 0, 0, (0, 0), 0),
        (fixture!("llama.cpp/metrics_busy.http"), 2, 2, (54, 0), 66),
        (fixture!("llama.cpp/metrics_after.http"), 0, 0, (114, 65), 34),
    ] {
        let got = read(EngineKind::LlamaCpp, Page::Metrics, raw);
        let expect = Findings {
            running: Some(Ok(running)),
            waiting: Some(Ok(waiting)),
            prefix_cache: counters(asked, hit),
            work: Some(Ok(work)),
            ..Findings::default()
        };
        assert_eq!(got, expect);
    }
}

#[test]
fn llama_cpp_slots_as_recorded() {
    for (name, raw, running, held, capacity, slots) in [
        ("never used", fixture!("llama.cpp/slots_idle.http"), 0, 0.0, 8192, 4),
        ("two running", fixture!("llama.cpp/slots_busy.http"), 2, 174.0, 8192, 2),
        ("idle with a cache", fixture!("llama.cpp/slots_after.http"), 0, 0.0, 8192, 4),
    ] {
        let got = read(EngineKind::LlamaCpp, Page::Slots, raw);
        assert_eq!(got.running, Some(Ok(running)), "{name}");
        assert_eq!(got.kv_capacity, Some(Ok(Tokens(capacity))), "{name}");
        assert_eq!(got.kv_used, Some(Ok(ratio(held / Tokens(capacity).as_f64()))), "{name}");
        assert_eq!(got.max_sequences, Some(Ok(slots)), "{name}");
    }
}

#[test]
fn llama_cpp_properties_models_and_refusals_as_recorded() {
    let got = read(EngineKind::LlamaCpp, Page::Props, fixture!("llama.cpp/props.http"));
    assert_eq!(got.max_sequences, Some(Ok(4)));
    assert_eq!(got.context_length, Some(Ok(Tokens(2048))));
    assert_eq!(got.version, Some(Ok("b0-unknown".to_owned())));
    let got = read(EngineKind::LlamaCpp, Page::Models, fixture!("llama.cpp/models.http"));
    assert_eq!(got.models, Some(Ok(vec![served("tiny-random", 2048)])));
    let got = read(EngineKind::LlamaCpp, Page::Metrics, fixture!("llama.cpp/err_401_metrics.http"));
    assert_eq!(got.running, Some(Err(Absent::Page(PageError::Status(401)))));
    let got = read(EngineKind::LlamaCpp, Page::Slots, fixture!("llama.cpp/slots_no_slot.http"));
    assert_eq!(got.kv_used, Some(Err(Absent::Page(PageError::Status(503)))));
}

#[test]
fn a_simulated_engine_tells_its_cost_and_its_activity() {
    let (status, body) = (200, include_bytes!("../../../fixtures/engines/simulated/metrics.txt"));
    let got = parse(EngineKind::Simulated, Page::Metrics, status, body);
    assert_eq!((got.running, got.waiting), (Some(Ok(3)), Some(Ok(1))));
    assert_eq!(got.max_sequences, Some(Ok(256)));
    let profile = got.profile.unwrap().unwrap();
    assert!((profile.cost.base_s - 0.0065).abs() < 1e-12);
    assert_eq!((profile.kv_capacity, profile.max_batched_tokens), (Tokens(400_000), 8192));
    let activity = got.activity.unwrap().unwrap();
    assert_eq!((activity.gpu_name.as_deref(), activity.gpus), (Some("NVIDIA H100 80GB HBM3"), Some(1)));
    assert_eq!(activity.busy, ratio(0.75));
}

#[test]
fn a_simulated_engine_without_its_cost_has_no_profile() {
    let got = parse(EngineKind::Simulated, Page::Metrics, 200, b"vllm:num_requests_running 1\n");
    assert_eq!(got.running, Some(Ok(1)));
    assert_eq!(got.profile, Some(Err(Absent::Missing)));
    assert_eq!(got.max_sequences, Some(Err(Absent::Missing)));
}

#[test]
fn a_reading_grows_old_but_a_page_that_dropped_it_takes_it_away() {
    let at = MonoTime::from_millis;
    let mut readings = EngineReadings::new(EngineKind::LlamaCpp);
    let told = |running| Findings { running: Some(running), ..Findings::default() };
    readings.merge(Page::Metrics, told(Ok(3)), at(1));
    readings.merge(Page::Models, Findings::default(), at(2));
    assert_eq!(readings.running.reading().unwrap().sampled_at, at(1), "another page does not refresh it");
    readings.merge(Page::Slots, told(Err(Absent::Missing)), at(3));
    assert_eq!(readings.running.value(), Some(&3), "another page's silence does not remove it");
    readings.merge(Page::Metrics, told(Err(Absent::NotFinite)), at(4));
    assert_eq!(readings.running.absent(), Some(Absent::NotFinite));
    readings.merge(Page::Slots, told(Ok(0)), at(5));
    assert_eq!(readings.running.value(), Some(&0));
}

#[test]
fn a_kind_without_load_pages_says_so_from_the_start() {
    let readings = EngineReadings::new(EngineKind::Ollama);
    let reasons: Vec<_> = readings.absences().collect();
    assert!(reasons.contains(&("running", Absent::NotRead)), "{reasons:?}");
    assert_eq!(readings.running.reading(), None);
    let absences: Vec<_> = EngineReadings::new(EngineKind::Vllm).absences().collect();
    assert_eq!(absences, [("max_sequences", Absent::NotRead)], "only its command line knows");
}

#[test]
fn full_means_no_sequence_left_or_somebody_waiting() {
    for (running, max, waiting, expect) in
        [(2, 2, 0, true), (1, 2, 0, false), (0, 0, 0, false), (1, 2, 1, true), (3, 2, 0, true)]
    {
        let mut readings = EngineReadings::new(EngineKind::LlamaCpp);
        let told = Findings {
            running: Some(Ok(running)),
            max_sequences: Some(Ok(max)),
            waiting: Some(Ok(waiting)),
            ..Findings::default()
        };
        readings.merge(Page::Metrics, told, MonoTime::ZERO);
        assert_eq!(readings.full(), expect, "{running} of {max}, {waiting} waiting");
    }
    assert!(!EngineReadings::new(EngineKind::LlamaCpp).full(), "unknown is not full");
}

#[test]
fn models_take_the_engine_s_context_where_they_have_none() {
    let mut readings = EngineReadings::new(EngineKind::LlamaCpp);
    let body = br#"{"data":[{"id":"m"}]}"#;
    readings.merge(Page::Models, parse(EngineKind::LlamaCpp, Page::Models, 200, body), MonoTime::ZERO);
    let context = Findings { context_length: Some(Ok(Tokens(512))), ..Findings::default() };
    readings.merge(Page::Props, context, MonoTime::ZERO);
    assert_eq!(readings.served_models().unwrap().value, vec![served("m", 512)]);
}

proptest! {
    #[test]
    fn no_bytes_break_a_parser(body in proptest::collection::vec(any::<u8>(), 0..512)) {
        for kind in EngineKind::ALL {
            for page in Page::ALL {
                let _ = parse(kind, page, 200, &body);
            }
        }
    }

    #[test]
    fn a_torn_page_never_tells_another_number(cut in 0_usize..60_000) {
        let (_, body) = fixture!("vllm/metrics_under_20.txt");
        let torn = body.get(..cut.min(body.len())).unwrap();
        let got = parse(EngineKind::Vllm, Page::Metrics, 200, torn);
        prop_assert!(matches!(got.running, Some(Ok(4) | Err(_))), "{:?}", got.running);
        prop_assert!(matches!(got.waiting, Some(Ok(12) | Err(_))), "{:?}", got.waiting);
    }

    #[test]
    fn no_label_text_breaks_the_scanner(text in "[ -~]{0,64}") {
        let page = format!("vllm:num_requests_running{text}\nvllm:num_requests_waiting 2\n");
        let got = parse(EngineKind::Vllm, Page::Metrics, 200, page.as_bytes());
        prop_assert_eq!(got.waiting, Some(Ok(2)));
    }
}

mod kinds;
