//! What an engine's own pages say, and which of its pages to ask how often.
//!
//! Pure: bytes in, typed findings out. The agent does the asking. Every page is hostile input here: an
//! engine may be old, broken, half started or something else altogether, and none of that may become a
//! number. A value that a page does not give is absent with a reason ([`Absent`]); it is never zero, and
//! it never stands for longer than the page it came from.

mod finding;
mod fingerprint;
mod health;
mod json;
mod llamacpp;
mod ollama;
mod plan;
mod prometheus;
mod readings;
mod sglang;
mod signals;
mod simulated;
mod tells;
mod tgi;
mod triton;
mod trtllm;
mod vllm;

pub use finding::{Absent, Activity, Finding, Findings, LoadedModel, PageError};
pub use fingerprint::{Heard, NextProbe, NoEngine, fingerprint};
pub use health::{BUSY_SILENCE_MAX, ProbeOutcome, health_verdict};
pub use plan::{MODELS_PERIOD, Page, PagePlan, ProbePlan, plan};
pub use prometheus::{MAX_LINE_BYTES, Series, scan};
pub use readings::{EngineReadings, Field};
pub use signals::signals;
pub use tells::absent;

use aya_domain::EngineKind;

/// The largest page that is parsed, whatever the caller's own limit: twenty times the largest one seen.
pub const MAX_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Reads one page of an engine, given the status and the body it answered with.
///
/// Never fails as a whole: a page that cannot be used makes everything it would have told absent, each
/// with the reason.
#[must_use]
pub fn parse(kind: EngineKind, page: Page, status: u16, body: &[u8]) -> Findings {
    let parsed = if !(200..300).contains(&status) {
        Err(PageError::Status(status))
    } else if body.len() > MAX_PAGE_BYTES {
        Err(PageError::TooLarge)
    } else {
        parse_body(kind, page, body)
    };
    match parsed {
        Ok(findings) => findings,
        Err(error) => absent(kind, page, Absent::Page(error)),
    }
}

fn parse_body(kind: EngineKind, page: Page, body: &[u8]) -> Result<Findings, PageError> {
    match (kind, page) {
        (_, Page::Health) => Ok(Findings::default()),
        (_, Page::Models) => json::models(body),
        (EngineKind::LlamaCpp, Page::Metrics) => llamacpp::metrics(body),
        (EngineKind::Simulated, Page::Metrics) => simulated::metrics(body),
        (EngineKind::Sglang, Page::Metrics) => sglang::metrics(body),
        (EngineKind::Tgi, Page::Metrics) => tgi::metrics(body),
        (EngineKind::TrtLlm, Page::Metrics) => trtllm::metrics(body),
        (EngineKind::Triton, Page::Metrics) => triton::metrics(body),
        (EngineKind::Vllm | EngineKind::Ollama, Page::Metrics) => vllm::metrics(body),
        (_, Page::Slots) => llamacpp::slots(body),
        (_, Page::Props) => llamacpp::props(body),
        (_, Page::Loads) => sglang::loads(body),
        (_, Page::Info) => tgi::info(body),
        (_, Page::Loaded) => ollama::loaded(body),
        (_, Page::Version) => json::version(body),
    }
}

#[cfg(test)]
mod tests;
