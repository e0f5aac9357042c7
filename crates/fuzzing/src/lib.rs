//! What every parser of foreign bytes must hold for any input: one function per parser, which panics where it does not.
//!
//! Two callers: the fuzz targets under `tests/fuzz` (libFuzzer, nightly), and this crate's own test, which runs the
//! committed corpora and seeded mutations of them as an ordinary test. So what a fuzzer checks is checked by every
//! `cargo test`, and an input that once broke something stays in the corpus. Each check compares with a second,
//! simpler reading of the same bytes; "it does not crash" alone would be a weak promise. Nothing here is shipped.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise is a panic here: that is what fuzzers look for"
)]

mod body;
mod config;
mod framing;
mod heads;
mod mutate;
mod pages;
mod sse;
mod telemetry;

pub use mutate::{Mutator, Rng};

/// A parser under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its folder under `tests/fuzz/corpus`, and its file under `tests/fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Panics if the parser breaks its promise on these bytes.
    pub check: fn(&[u8]),
    /// Pieces of its language, for mutations.
    pub words: &'static [&'static str],
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "request_body", check: body::check, words: body::WORDS },
    Target { name: "event_stream", check: sse::check, words: sse::WORDS },
    Target { name: "engine_page", check: pages::check, words: pages::WORDS },
    Target { name: "telemetry", check: telemetry::check, words: telemetry::WORDS },
    Target { name: "config", check: config::check, words: config::WORDS },
    Target { name: "request_head", check: heads::check_request, words: heads::WORDS },
    Target { name: "response_head", check: heads::check_response, words: heads::WORDS },
    Target { name: "chunked_body", check: framing::check, words: framing::WORDS },
];

/// Runs one target by name; what a fuzz target's one line calls.
///
/// # Panics
/// If the name is unknown, or the parser breaks its promise.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    (target.check)(input);
}

/// The pieces of `input` in the sizes that `cuts` says, over and over; every byte of it in one piece.
pub(crate) fn pieces<'a>(input: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = input;
    let mut sizes = cuts.iter().map(|cut| usize::from(*cut).max(1)).cycle();
    std::iter::from_fn(move || {
        let (piece, tail) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
        rest = tail;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The first four bytes, which say how the rest is cut, and the rest.
pub(crate) fn cuts_and_rest(input: &[u8]) -> (&[u8], &[u8]) {
    input.split_at_checked(4).unwrap_or((&[1], input))
}
