//! Rules about source files: a purpose at the top, a length that can be read in one sitting, no forbidden words.

/// Lines of production code in one file.
const LINES_MAX: usize = 400;

/// Words that appear nowhere. Written in two halves, so that this file does not hold them itself.
const BANNED: &[(&str, &str)] = &[
    (concat!("to", "do!("), "finish it or leave it out"),
    (concat!("unimple", "mented!("), "finish it or leave it out"),
    (concat!("#[al", "low("), "use #[expect(lint, reason = \"...\")]"),
    (concat!("#![al", "low("), "use #![expect(lint, reason = \"...\")]"),
    (concat!("unbounded_", "channel("), "every queue has a limit"),
];

/// Words that layers 0 and 1 do without: they are pure.
const IMPURE: &[&str] = &[
    "std::time::Instant",
    "std::time::SystemTime",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "HashMap",
    "HashSet",
];

/// Tests that may wait on the clock: what they test is real processes and their time.
const MAY_SLEEP: &[&str] = &["tests/"];

/// The broken rules of one file.
pub(crate) fn check(path: &str, text: &str, layer: u8) -> Vec<String> {
    let mut found = Vec::new();
    if !opens_with_purpose(text) {
        found.push(format!("{path}:1: does not open with //! and its purpose"));
    }
    let production = production_lines(path, text);
    if production > LINES_MAX {
        found.push(format!(
            "{path}: {production} lines of production code, at most {LINES_MAX} can be read at once"
        ));
    }
    let may_sleep = MAY_SLEEP.iter().any(|prefix| path.starts_with(prefix));
    for (at, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", at + 1);
        let code = without_comment(line);
        for (word, instead) in BANNED.iter().filter(|(word, _)| code.contains(word)) {
            found.push(format!("{place}: {word} is not used here; {instead}"));
        }
        if code.contains("sleep(") && !may_sleep && in_test(path, text, at) {
            found.push(format!(
                "{place}: a test that sleeps is slow or flaky; pause the time or wait for the event"
            ));
        }
        let impure = IMPURE.iter().find(|word| code.contains(*word));
        if let Some(word) = impure.filter(|_| layer <= 1 && !in_test(path, text, at)) {
            found.push(format!("{place}: {word} has no place in layers 0 and 1"));
        }
    }
    found
}

fn opens_with_purpose(text: &str) -> bool {
    text.starts_with("//!") || text.starts_with("#![cfg(test)]\n//!")
}

/// Files that hold nothing but tests or measurements.
fn is_test(path: &str) -> bool {
    let parts = || path.split('/');
    path.ends_with("/tests.rs")
        || path.ends_with("/testkit.rs")
        || parts().any(|p| p == "tests" || p == "benches")
}

/// The first line of a file's own test module; what is behind it is not production.
fn tests_begin(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |pair: &[&str]| matches!(pair, [attribute, item] if attribute.starts_with("#[cfg(test)]") && item.contains("mod ") && item.ends_with('{'));
    lines.windows(2).position(begins).unwrap_or(lines.len())
}

fn production_lines(path: &str, text: &str) -> usize {
    if is_test(path) { 0 } else { tests_begin(text) }
}

fn in_test(path: &str, text: &str, line: usize) -> bool {
    is_test(path) || line >= tests_begin(text)
}

/// Rough, and good enough for words that no sane text holds.
fn without_comment(line: &str) -> &str {
    line.find("//").and_then(|at| line.get(..at)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_file(path: &str, layer: u8, text: &str, expect: &[&str]) {
        assert_eq!(check(path, text, layer), expect);
    }

    #[test]
    fn a_file_opens_with_its_purpose() {
        check_file("agent/src/a.rs", 4, "//! Reads.\n", &[]);
        check_file(
            "agent/src/a.rs",
            4,
            "use x;\n",
            &["agent/src/a.rs:1: does not open with //! and its purpose"],
        );
        check_file("a/tests.rs", 4, "use x;\n", &["a/tests.rs:1: does not open with //! and its purpose"]);
    }

    #[test]
    fn production_code_has_a_length_and_tests_do_not_count() {
        let long = |lines: usize| format!("//! Long.\n{}", "x\n".repeat(lines - 1));
        check_file("a/src/a.rs", 4, &long(400), &[]);
        check_file(
            "a/src/a.rs",
            4,
            &long(401),
            &["a/src/a.rs: 401 lines of production code, at most 400 can be read at once"],
        );
        check_file("a/src/a/tests.rs", 4, &long(2000), &[]);
        let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}", long(400), "x\n".repeat(900));
        check_file("a/src/a.rs", 4, &tested, &[]);
    }

    #[test]
    fn forbidden_words_are_found_in_code_and_not_in_comments() {
        let banned = concat!("//! A.\nto", "do!()\n");
        check_file(
            "a/src/a.rs",
            4,
            banned,
            &[concat!("a/src/a.rs:2: to", "do!( is not used here; finish it or leave it out")],
        );
        check_file("a/src/a.rs", 4, &banned.replace("\nto", "\n// to"), &[]);
    }

    #[test]
    fn a_test_does_not_sleep_unless_it_tests_processes() {
        let text = "//! A.\nfn f() { sleep(x) }\n#[cfg(test)]\nmod tests {\n  sleep(x)\n}\n";
        check_file(
            "a/src/a.rs",
            4,
            text,
            &["a/src/a.rs:5: a test that sleeps is slow or flaky; pause the time or wait for the event"],
        );
        check_file("tests/e2e/a.rs", 6, text, &[]);
    }

    #[test]
    fn the_pure_layers_stay_pure_but_their_tests_need_not() {
        let text = "//! A.\nuse std::fs;\n#[cfg(test)]\nmod tests {\n  use std::fs;\n}\n";
        check_file(
            "crates/x/src/a.rs",
            1,
            text,
            &["crates/x/src/a.rs:2: std::fs has no place in layers 0 and 1"],
        );
        check_file("crates/x/src/a.rs", 2, text, &[]);
    }
}
