//! Our own decision log as a trace: when each request came and how long prompt and answer were.
//!
//! Arrivals are the records. How long a prompt was its engine tells, if it was asked to; otherwise the scheduler's
//! estimate stands for it, which is in the record or, where inputs are recorded, in the line of its decision.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Decisions without a record yet that are remembered. Ids begin with their time, so the oldest leave first.
const PENDING_MAX: usize = 1 << 16;

/// The record of a request, as far as it says how long things were.
#[derive(Deserialize)]
pub(super) struct Record {
    decision_id: Option<String>,
    pub(super) time: String,
    request: Option<Request>,
    outcome: Outcome,
}

#[derive(Deserialize)]
struct Request {
    prompt_tokens_estimate: Option<u32>,
}

#[derive(Deserialize)]
struct Outcome {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

impl Record {
    /// Tokens of the prompt and of the answer; `None` for a request that came to no answer.
    pub(super) fn lengths(&self, estimates: &mut Estimates) -> Option<(u32, u32)> {
        let decided = self.decision_id.as_ref().and_then(|id| estimates.pending.remove(id));
        let estimate = self.request.as_ref().and_then(|request| request.prompt_tokens_estimate);
        Some((self.outcome.prompt_tokens.or(estimate).or(decided)?, self.outcome.completion_tokens?))
    }
}

/// Prompt tokens of requests that were decided and have no record yet.
#[derive(Default)]
pub(super) struct Estimates {
    pending: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
struct Decided {
    line: String,
    decision_id: Option<String>,
    request: Option<Sizes>,
}

#[derive(Deserialize)]
struct Sizes {
    prompt: u32,
}

impl Estimates {
    /// Takes in a line that is no record.
    pub(super) fn note(&mut self, line: &str) -> Result<(), String> {
        let Decided { line, decision_id, request } =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        if let (Some(id), Some(sizes), "decided") = (decision_id, request, line.as_str()) {
            if self.pending.len() >= PENDING_MAX {
                self.pending.pop_first();
            }
            self.pending.insert(id, sizes.prompt);
        }
        Ok(())
    }
}
