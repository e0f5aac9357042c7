//! The catalogue of promises in tests/HOSTILE.md: each line's test exists under its ID, and no named test is missing.

use std::collections::{BTreeMap, BTreeSet};

/// Where tests that carry an ID in their name were found, by ID: `a1_leaving_...` is a test of A1, `f1_f2_...` of both.
#[derive(Debug, Default)]
pub(crate) struct Named(BTreeMap<String, BTreeSet<String>>);

impl Named {
    /// Takes note of the tests of one file.
    pub(crate) fn add(&mut self, path: &str, text: &str) {
        for line in text.lines() {
            let Some((_, rest)) = line.trim_start().split_once("fn ").filter(|(before, _)| is_plain(before))
            else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap_or_default();
            for word in name.split('_').take_while(|word| is_id(word)) {
                self.0.entry(word.to_ascii_uppercase()).or_default().insert(path.to_owned());
            }
        }
    }
}

/// What may stand before `fn` of a test.
fn is_plain(before: &str) -> bool {
    before.is_empty() || before == "async "
}

/// A letter of the catalogue and a number.
fn is_id(word: &str) -> bool {
    let Some((letter, number)) = word.split_at_checked(1) else { return false };
    "abcdefi".contains(letter)
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// What of the table is not so. Its rows: ID, what must hold, the files of the tests or `-`.
pub(crate) fn check(table: &str, named: &Named) -> Vec<String> {
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for line in table.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, _, files] = cells.as_slice() else { continue };
        if !is_id(&id.to_ascii_lowercase()) {
            continue;
        }
        known.insert(*id);
        let told: BTreeSet<&str> = files.split('`').skip(1).step_by(2).collect();
        let none = BTreeSet::new();
        let real = named.0.get(*id).unwrap_or(&none);
        for file in told.iter().filter(|file| !real.contains(**file)) {
            found.push(format!(
                "tests/HOSTILE.md: {file} has no test whose name begins with {}_",
                id.to_ascii_lowercase()
            ));
        }
        for file in real.iter().filter(|file| !told.contains(file.as_str())) {
            found.push(format!("tests/HOSTILE.md: {id} has tests in {file} that its row does not name"));
        }
    }
    for id in named.0.keys().filter(|id| !known.contains(id.as_str())) {
        found.push(format!("tests/HOSTILE.md: there are tests of {id}, and no row"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
| ID | must hold | tests |
|---|---|---|
| A1 | the engine stops | `tests/a.rs` |
| A2 | one retry | - |
";

    #[track_caller]
    fn check_tests(files: &[(&str, &str)], expect: &[&str]) {
        let mut named = Named::default();
        files.iter().for_each(|(path, text)| named.add(path, text));
        assert_eq!(check(TABLE, &named), expect);
    }

    #[test]
    fn a_row_names_every_file_with_tests_of_its_id_and_no_other() {
        check_tests(&[("tests/a.rs", "async fn a1_leaving() {")], &[]);
        check_tests(&[], &["tests/HOSTILE.md: tests/a.rs has no test whose name begins with a1_"]);
        check_tests(
            &[("tests/a.rs", "    fn a1_a2_both() {")],
            &["tests/HOSTILE.md: A2 has tests in tests/a.rs that its row does not name"],
        );
        check_tests(
            &[("tests/a.rs", "fn a1_x() {}\nfn i9_y() {}\nfn abc() {}\n// fn b7_z()\nfn h100_or_so() {}")],
            &["tests/HOSTILE.md: there are tests of I9, and no row"],
        );
    }
}
