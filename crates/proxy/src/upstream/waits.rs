//! What bounds the waits of an exchange beside the limit of each phase: its total time, and a word while it is silent.

use std::time::Duration;

use tokio::time::Instant;

/// What is done once if an engine is still silent after a while; the wait goes on. The socket's own timer tells: one more
/// per request would cost it two turns of the timer wheel, and a wake-up of the event loop for each that is early.
pub struct Quiet<'a> {
    /// From the start of writing.
    pub after: Duration,
    pub then: &'a mut (dyn FnMut() + Send),
}

impl Quiet<'_> {
    /// The same for one exchange more.
    pub fn again(&mut self) -> Quiet<'_> {
        Quiet { after: self.after, then: &mut *self.then }
    }
}

impl std::fmt::Debug for Quiet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quiet").field("after", &self.after).finish_non_exhaustive()
    }
}

/// The last instant of an exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Until(Option<Instant>);

impl Until {
    pub(super) fn from(now: Instant, total: Duration) -> Self {
        Self(now.checked_add(total))
    }

    /// What is left for a phase that begins now.
    pub(super) fn bound(self, now: Instant, limit: Duration) -> Duration {
        self.0.map_or(limit, |until| limit.min(until.duration_since(now)))
    }
}
