//! What an account knows of an answer in two parts, by two engines.

use aya_domain::Tokens;
use aya_trace::AttemptResult;

use super::Account;

impl Account {
    /// The engine broke off after so many tokens that the client has, and the answer may go on elsewhere.
    pub(crate) fn breaks_off(&mut self, tokens: Tokens) {
        self.last_failed("broke_off");
        if let Some(open) = &mut self.open {
            open.tokens_before = Some(tokens);
        }
    }

    /// It does not go on after all: what is known is known of the first part.
    pub(crate) fn gives_up(&mut self) {
        if let Some(open) = &mut self.open {
            open.tokens_before = None;
        }
    }

    /// The attempt to go on failed; what the client has seen before stays.
    pub(crate) fn last_failed(&mut self, reason: &str) {
        if let Some(attempt) = self.open.as_mut().and_then(|open| open.attempts.last_mut()) {
            attempt.result = AttemptResult::Failed { reason: reason.to_owned() };
        }
    }

    /// The first part was a prompt to the second engine, which counts it so.
    pub(super) fn with_part_before(
        &self,
        prompt: Option<u64>,
        completion: Option<u64>,
    ) -> (Option<u64>, Option<u64>) {
        let Some(before) = self.open.as_ref().and_then(|open| open.tokens_before) else {
            return (prompt, completion);
        };
        (
            prompt.map(|tokens| tokens.saturating_sub(before.get())),
            completion.map(|tokens| tokens.saturating_add(before.get())),
        )
    }

    /// In the place of one that goes on elsewhere: nothing is noted in it.
    pub(crate) fn elsewhere(&mut self) -> Self {
        let shared = std::sync::Arc::clone(&self.shared);
        std::mem::replace(self, Self { shared, open: None })
    }
}
