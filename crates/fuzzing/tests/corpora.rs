#![cfg(test)]
//! The fuzz targets' corpora and seeded damage to them, as ordinary tests.
//!
//! `AYA_FUZZ_SEED=7` damages in another way and recorded pages too, `AYA_FUZZ_ROUNDS=1000000` for longer. A failure prints the target, the
//! seed and the input; put the input into the target's corpus with the fix.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use aya_fuzzing::{Mutator, TARGETS, Target};

/// Damaged inputs per target: a second or two each without optimisation.
const ROUNDS: u64 = 10_000;
/// Recorded pages and streams larger than this are left to the parsers' own tests.
const SEED_BYTES_MAX: u64 = 24 * 1024;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn number(name: &str, otherwise: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "a switch of this test alone")]
    let given = std::env::var(name);
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

/// Every file below a folder, by path.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap();
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if entry.metadata().unwrap().len() <= SEED_BYTES_MAX {
            found.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let all = files(&root().join("tests/fuzz/corpus").join(target.name));
    assert!(all.len() >= 5, "{} has a corpus of {} inputs", target.name, all.len());
    all
}

/// What engines really sent, kept in one place only.
fn recorded(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    match target.name {
        "engine_page" => files(&root().join("fixtures/engines")),
        "event_stream" => files(&root().join("fixtures/openai")),
        "config" => files(&root().join("fixtures/config")),
        _ => Vec::new(),
    }
}

fn check(target: &Target, input: &[u8], from: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.check)(input))).is_err() {
        panic!("{} breaks its promise on {from}:\n{}", target.name, input.escape_ascii());
    }
}

fn attack(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let (mut corpus, recorded) = (corpus(target), recorded(target));
    for (path, input) in corpus.iter().chain(&recorded) {
        check(target, input, &path.display().to_string());
    }
    let wanted = number("AYA_FUZZ_SEED", 0);
    if wanted != 0 {
        // By default a recording that is added elsewhere changes no input here.
        corpus.extend(recorded);
    }
    let inputs: Vec<_> = corpus.into_iter().map(|(_, input)| input).collect();
    let (seed, rounds) = (wanted.max(1), number("AYA_FUZZ_ROUNDS", ROUNDS));
    eprintln!("{name}: seed {seed}, {rounds} rounds");
    let mut mutator = Mutator::new(seed, &inputs, target.words);
    for round in 0..rounds {
        check(target, &mutator.input(), &format!("round {round} of seed {seed}"));
    }
}

#[test]
fn f9_a_request_body_is_read_as_serde_json_reads_it() {
    attack("request_body");
}

#[test]
fn f9_an_event_stream_goes_out_as_it_came_in() {
    attack("event_stream");
}

#[test]
fn f9_no_page_of_an_engine_becomes_an_impossible_number() {
    attack("engine_page");
}

#[test]
fn f9_a_message_of_an_agent_is_refused_or_says_the_same_again() {
    attack("telemetry");
}

#[test]
fn f9_a_configuration_is_taken_or_refused_with_a_place() {
    attack("config");
}

#[test]
fn f9_a_requests_head_can_be_read_in_one_way_only() {
    attack("request_head");
}

#[test]
fn f9_an_answers_head_can_be_read_in_one_way_only() {
    attack("response_head");
}

#[test]
fn f9_a_chunked_body_has_one_end() {
    attack("chunked_body");
}

#[test]
fn every_target_has_its_fuzzer() {
    let manifest = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    for target in TARGETS {
        let file = format!("fuzz_targets/{}.rs", target.name);
        let text = std::fs::read_to_string(root().join("tests/fuzz").join(&file)).unwrap();
        assert!(text.contains(&format!("aya_fuzzing::run({:?}", target.name)), "{file}");
        assert!(manifest.contains(&format!("path = {file:?}")), "{file} is not in tests/fuzz/Cargo.toml");
    }
    let folders = std::fs::read_dir(root().join("tests/fuzz/corpus")).unwrap();
    for folder in folders {
        let name = folder.unwrap().file_name();
        assert!(TARGETS.iter().any(|target| target.name == name), "{} is nobody's corpus", name.display());
    }
}
