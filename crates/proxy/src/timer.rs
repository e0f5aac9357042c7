//! One timer for all phases of an exchange, of a client's connection or of an engine's.
//!
//! Moving a deadline later, which every streamed chunk does, only notes it: the sleeping timer finds out when it
//! fires. So a chunk costs a clock read and no timer-wheel operation.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Bounds one phase after the other; `P` names them.
#[derive(Debug)]
pub struct PhaseTimer<P> {
    sleep: Pin<Box<Sleep>>,
    began: Instant,
    deadline: Instant,
    phase: P,
}

impl<P: Copy> PhaseTimer<P> {
    /// A timer whose first phase begins now.
    #[must_use]
    pub fn new(phase: P, limit: Duration) -> Self {
        let began = Instant::now();
        let deadline = after(began, limit);
        Self { sleep: Box::pin(sleep_until(deadline)), began, deadline, phase }
    }

    /// Begins a phase, or the same one anew.
    pub fn start(&mut self, phase: P, limit: Duration) {
        self.start_at(Instant::now(), phase, limit);
    }

    /// The same for those who know the present: several that begin at once need not ask for it each.
    pub fn start_at(&mut self, now: Instant, phase: P, limit: Duration) {
        self.phase = phase;
        self.began = now;
        self.deadline = after(now, limit);
        if self.deadline < self.sleep.deadline() {
            self.sleep.as_mut().reset(self.deadline);
        }
    }

    /// Bounds the present phase anew, from its beginning on.
    pub fn bound(&mut self, limit: Duration) {
        self.start_at(self.began, self.phase, limit);
    }

    /// When the present phase ends at the latest.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The phase that is bounded now.
    #[must_use]
    pub const fn phase(&self) -> P {
        self.phase
    }

    /// Ready with the phase whose deadline passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<P> {
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.sleep.deadline() >= self.deadline {
                return Poll::Ready(self.phase);
            }
            self.sleep.as_mut().reset(self.deadline);
        }
    }
}

/// An unlimited wait is a year: the clock cannot count to the longest duration.
fn after(now: Instant, limit: Duration) -> Instant {
    const LONGEST: Duration = Duration::from_secs(365 * 86_400);
    now + limit.min(LONGEST)
}

#[cfg(test)]
mod tests;
