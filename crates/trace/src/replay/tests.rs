//! What a replay says of files that are whole, changed, cut, foreign or of another version.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use super::*;
use crate::inputs::tests::World;
use crate::log::DecisionLog;
use crate::segments::segments_in;

/// One segment of so many decisions.
fn segment(decisions: usize) -> (tempfile::TempDir, PathBuf, String) {
    let dir = tempfile::tempdir().unwrap();
    let mut log = DecisionLog::open(dir.path(), 1 << 24, 4).unwrap();
    let mut world = World::new(11, 6);
    for _ in 0..decisions {
        world.step();
        let _ = world.decide(&mut log);
    }
    let path = segments_in(dir.path()).unwrap().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    (dir, path, text)
}

/// Replays this text: what was seen and what differs, or what is wrong.
fn replay(text: impl AsRef<[u8]>) -> Result<(Seen, Vec<Difference>), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, text).unwrap();
    let mut found = Vec::new();
    let seen = visit(&path, |_, case| found.extend(differences(case)));
    let prefix = format!("{}, ", path.display());
    seen.map(|seen| (seen, found)).map_err(|error| error.to_string().replace(&prefix, ""))
}

/// The line whose decision placed, changed by `edit`, in the text.
fn edited(text: &str, edit: impl Fn(&mut serde_json::Value)) -> (String, serde_json::Value) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let placed = |line: &String| line.contains("\"result\":\"placed\"") && !line.contains("\"base\":true");
    let at = lines.iter().rposition(placed).unwrap();
    let before: serde_json::Value = serde_json::from_str(&lines[at]).unwrap();
    let mut after = before.clone();
    edit(&mut after);
    lines[at] = after.to_string();
    (lines.join("\n") + "\n", before)
}

#[test]
fn one_changed_number_of_the_outcome_is_named_with_both_values() {
    let (_dir, _path, text) = segment(60);
    for (field, value) in [("total", serde_json::json!(0.125)), ("ties", serde_json::json!(9))] {
        let (changed, before) = edited(&text, |line| line["outcome"][field] = value.clone());
        let (_, found) = replay(changed).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].field, found[0].decision_id.as_str()),
            (field, before["decision_id"].as_str().unwrap())
        );
        assert_eq!(found[0].recorded, Some(value.to_string()));
        assert_eq!(found[0].replayed, before["outcome"][field].to_string());
    }
}

#[test]
fn one_changed_input_is_named_by_candidate_and_field() {
    let (_dir, _path, text) = segment(60);
    let (changed, before) = edited(&text, |line| {
        let tokens = line["request"]["prompt"].as_u64().unwrap();
        line["request"]["prompt"] = (tokens / 2).into();
    });
    let (_, found) = replay(changed).unwrap();
    let chosen = before["outcome"]["endpoint"].as_str().unwrap();
    let named =
        |field: &str| found.iter().any(|d| d.field == field && d.candidate.as_deref() == Some(chosen));
    assert!(named("predicted_ttft_s"), "{found:?}");
    assert!(found.iter().all(|d| d.decision_id == before["decision_id"].as_str().unwrap()));
    assert!(!named("age_ns") && !named("in_flight"), "what did not change is not named: {found:?}");
}

#[test]
fn a_changed_digest_is_seen_too() {
    let (_dir, _path, text) = segment(60);
    let swap = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    for (field, at, expect) in [("rows", 3, "digest"), ("columns", 8, "total")] {
        let (changed, _) = edited(&text, |line| line[field] = swap(line[field].as_str().unwrap(), at).into());
        let (_, found) = replay(changed).unwrap();
        assert_eq!(found.iter().map(|d| d.field).collect::<Vec<_>>(), [expect], "{found:?}");
    }
}

#[test]
fn a_torn_last_line_is_passed_over_and_told_wherever_it_tore() {
    let (_dir, _path, text) = segment(4);
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    for cut in (last + 1..text.len()).step_by(7) {
        let (seen, found) = replay(text.get(..cut).unwrap()).unwrap();
        assert_eq!((seen.decisions, seen.torn_bytes, found.len()), (3, Some(cut - last), 0));
    }
}

#[test]
fn what_cannot_be_replayed_is_refused_with_its_line() {
    let (_dir, _path, text) = segment(4);
    let without_base: String = text.lines().skip(2).map(|line| format!("{line}\n")).collect();
    let broken_middle = text.replacen("\"generation\":", "\"generation\":x", 2).replacen(
        "\"generation\":x",
        "\"generation\":",
        1,
    );
    for (bad, expect) in [
        ("TIMESTAMP,ContextTokens\n", "line 1: this is no decision log of aya"),
        ("{\"a\":1}\n", "line 1: this is no decision log of aya"),
        ("\u{1f}\u{2}\n", "line 1: this is no decision log of aya"),
        (
            "{\"line\":\"segment\",\"format\":2,\"aya\":\"9.0\"}\n",
            "line 1: it was written by aya 9.0 in format 2",
        ),
        (&without_base, "line 1: it holds only changes, and the line with everything is missing before it"),
        (&broken_middle, "line 3: "),
        (&text.replacen("\"loads\":\"", "\"loads\":\"!", 1), "loads: not base64"),
        (&text.replacen("\"base\":", "\"new_input\":1,\"base\":", 1), "line 2: unknown field `new_input`"),
    ] {
        let said = replay(bad).unwrap_err();
        assert!(said.contains(expect), "{said:?} has no {expect:?}");
    }
    assert_eq!(replay("").unwrap().0, Seen::default());
}

#[test]
fn a_compressed_segment_is_read_and_a_cut_one_is_an_error_with_its_line() {
    let (_dir, _path, text) = segment(40);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    assert_eq!(replay(&packed).unwrap().0.decisions, 40);
    let said = replay(&packed[..packed.len() / 2]).unwrap_err();
    assert!(said.starts_with("line "), "{said}");
}

proptest::proptest! {
    #[test]
    fn no_damage_breaks_the_reader(at in 0..20_000_usize, with: Vec<u8>) {
        static WHOLE: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| segment(6).2);
        let mut bytes = WHOLE.clone().into_bytes();
        let at = at % bytes.len();
        let end = bytes.len().min(at + with.len());
        bytes.splice(at..end, with);
        let _ = replay(bytes);
    }
}

/// A file of format 1 as it was once written: it must stay readable, whatever decisions come to later. If this fails, a
/// change of the lines needs a reader for the old ones, or a new format and a new golden beside this one.
#[test]
fn the_golden_of_format_1_is_still_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/decisions/format-1.jsonl");
    let mut last = None;
    let seen = visit(&path, |_, case| {
        let loads: Vec<u32> = case.loads.iter().map(|load| load.in_flight).collect();
        assert_eq!(case.decide().candidates.len(), case.snapshot.endpoints.len());
        last = Some((case.recorded.decision_id.clone(), case.snapshot.generation, loads));
    });
    assert_eq!(seen.unwrap(), Seen { decisions: 40, records: 1, torn_bytes: None });
    assert_eq!(last, Some(("d40".to_owned(), 125, vec![41, 0, 17, 41, 3, 30, 0])));
}
