//! Traces in a few lines.

use std::io::Write as _;

use super::*;

const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
    2023-11-16 23:59:59.5000000,374,44\n2023-11-17 00:00:00.7500000,396,109\n2023-11-17 00:00:02.5000000,9,1\n";
const MOONCAKE: &str = "{\"timestamp\": 0, \"input_length\": 1030, \"output_length\": 5, \"hash_ids\": [0, 1, 2]}\n\
    {\"timestamp\": 0, \"input_length\": 100, \"output_length\": 6, \"hash_ids\": [0]}\n\
    {\"timestamp\": 0, \"input_length\": 100, \"output_length\": 7, \"hash_ids\": [0]}\n\
    {\"timestamp\": 3000, \"input_length\": 7, \"output_length\": 0, \"hash_ids\": [9]}\n";

/// `seconds prompt output blocks` of every arrival.
fn check(text: &str, selection: &Selection, expect: &str) {
    let workload = Workload::parse(text.as_bytes(), selection).unwrap();
    let rows = workload
        .arrivals
        .iter()
        .map(|a| format!("{:.3} {} {} {}", a.at_s, a.prompt_tokens, a.output_tokens, a.blocks.len()));
    assert_eq!(rows.collect::<Vec<_>>().join(" | "), expect);
}

#[test]
fn every_format_gives_offsets_and_lengths() {
    let plain = Selection::default();
    check(AZURE, &plain, "0.000 374 44 0 | 1.250 396 109 0 | 3.000 9 1 0");
    check(MOONCAKE, &plain, "0.000 1030 5 3 | 0.000 100 6 1 | 0.000 100 7 1 | 3.000 7 1 1");
    let decisions = "{\"decision_id\":\"d\",\"time\":\"2026-11-21T04:24:34.123Z\",\
        \"outcome\":{\"status\":\"completed\",\"prompt_tokens\":12,\"completion_tokens\":34}}\n\
        {\"time\":\"2026-11-21T04:24:34.200Z\",\"outcome\":{\"prompt_tokens\":null}}\n\
        {\"line\":\"decided\",\"decision_id\":\"d\",\"outcome\":{\"result\":\"placed\"}}\n\
        {\"time\":\"2026-11-21T04:24:35.123Z\",\"outcome\":{\"prompt_tokens\":1,\"completion_tokens\":2}}\n\
        {\"time\":\"2026-11-21T04:24:36.1";
    check(decisions, &plain, "0.000 12 34 0 | 1.000 1 2 0");
    let untold = "{\"line\":\"decided\",\"decision_id\":\"d\",\"request\":{\"id\":\"r\",\"prompt\":240,\"prompt_min\":20}}\n\
        {\"decision_id\":\"d\",\"time\":\"2026-11-21T04:24:34.000Z\",\"outcome\":{\"completion_tokens\":20}}\n\
        {\"decision_id\":\"e\",\"time\":\"2026-11-21T04:24:34.500Z\",\"request\":{\"kind\":\"chat\",\
        \"prompt_tokens_estimate\":7},\"outcome\":{\"completion_tokens\":3}}\n\
        {\"decision_id\":\"f\",\"time\":\"2026-11-21T04:24:34.600Z\",\"outcome\":{\"completion_tokens\":3}}\n";
    check(untold, &plain, "0.000 240 20 0 | 0.500 7 3 0");
}

#[test]
fn a_part_can_be_chosen_and_sped_up() {
    check(
        AZURE,
        &Selection { speed: 2.0, ..Selection::default() },
        "0.000 374 44 0 | 0.625 396 109 0 | 1.500 9 1 0",
    );
    check(AZURE, &Selection { limit: Some(1), ..Selection::default() }, "0.000 374 44 0");
    check(AZURE, &Selection { from_s: 1.0, ..Selection::default() }, "0.000 396 109 0 | 1.750 9 1 0");
}

#[test]
fn ties_are_spread_inside_their_cell_by_the_seed() {
    let spread = |seed| {
        let selection = Selection { jitter: true, seed, ..Selection::default() };
        Workload::parse(MOONCAKE.as_bytes(), &selection).unwrap()
    };
    let times: Vec<f64> = spread(1).arrivals.iter().map(|a| a.at_s).collect();
    assert!(times.is_sorted() && times[2] > times[1] && times[2] < 3.0, "{times:?}");
    assert_eq!(spread(1), spread(1));
    assert_ne!(spread(1), spread(2));
    // Exact timestamps stay.
    check(
        AZURE,
        &Selection { jitter: true, ..Selection::default() },
        "0.000 374 44 0 | 1.250 396 109 0 | 3.000 9 1 0",
    );
}

#[test]
fn gzip_is_recognised() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut gz = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
    gz.write_all(AZURE.as_bytes()).unwrap();
    gz.finish().unwrap();
    let workload = Workload::read(file.path(), &Selection::default()).unwrap();
    assert_eq!(workload.arrivals.len(), 3);
    assert!(!workload.has_prefixes());
}

#[test]
fn what_cannot_be_read_names_its_line() {
    for (text, expect) in [
        ("", "it has no requests"),
        ("2023-11-16 18:15:46.1,5", "line 1: no GeneratedTokens"),
        ("TIMESTAMP,a,b\n2023-11-16 18:15:46.1,5,x", "line 2: \"x\""),
        ("yesterday,5,5", "line 1: \"yesterday\""),
        ("{\"timestamp\": 0}", "line 1: "),
    ] {
        let error = Workload::parse(text.as_bytes(), &Selection::default()).unwrap_err().to_string();
        assert!(error.contains(expect), "{text}: {error}");
    }
}
