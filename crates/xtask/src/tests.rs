//! The rules of the house, held as a test.

use crate::run::repository;
use crate::tidy;

#[test]
fn the_repository_is_tidy() {
    let found = tidy::violations(&repository()).unwrap();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}
