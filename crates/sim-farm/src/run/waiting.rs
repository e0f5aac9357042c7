//! Requests that wait at their scheduler, and their turns to look for room.

use std::time::Duration;

use aya_domain::Tokens;

use super::{Event, Farm};
use crate::summary::Outcome;

/// The head of the waiting requests is tried again at least this often, as live.
const RECHECK: Duration = Duration::from_millis(50);

impl Farm<'_> {
    pub(super) fn hold(&mut self, request: usize, scheduler: usize) {
        let deadline = self.now.after(self.config.hold_at_most.unwrap_or_default());
        let prompt = self.workload.arrivals.get(request).map_or(0, |arrival| arrival.prompt_tokens);
        if let Some(state) = self.schedulers.get_mut(scheduler) {
            state.request.prompt_tokens = Tokens(u64::from(prompt));
            state.held.enter(request, &state.request, deadline, self.now);
        }
        if !self.rechecking {
            self.rechecking = true;
            self.at(self.now.after(RECHECK), Event::Recheck);
        }
    }

    /// It has just looked for room.
    pub(super) fn passed(&mut self, request: usize, scheduler: usize) {
        let Some(state) = self.schedulers.get_mut(scheduler) else { return };
        if let Some((ticket, _)) = state.held.turn().filter(|(_, holder)| *holder == request) {
            state.held.looked(ticket, false, self.now);
        }
    }

    /// Room may have appeared: the waiting requests look for it in their order, as the live scheduler does.
    pub(super) fn admit_held(&mut self, scheduler: usize) {
        let now = self.now;
        let Some(state) = self.schedulers.get_mut(scheduler) else { return };
        for request in state.held.expire(now) {
            self.end(request, Outcome::Rejected);
        }
        if let Some(state) = self.schedulers.get_mut(scheduler) {
            state.held.wake(now);
        }
        self.look(scheduler);
    }

    /// Whoever has the turn looks, until nobody has it.
    pub(super) fn look(&mut self, scheduler: usize) {
        let turn = |farm: &Self| farm.schedulers.get(scheduler).and_then(|state| state.held.turn());
        while let Some((ticket, request)) = turn(self) {
            let placed = self.place(request, false);
            if let Some(state) = self.schedulers.get_mut(scheduler) {
                state.held.looked(ticket, placed, self.now);
            }
        }
    }

    pub(super) fn recheck(&mut self) {
        for scheduler in 0..self.schedulers.len() {
            self.admit_held(scheduler);
        }
        self.rechecking = self.schedulers.iter().any(|s| !s.held.is_empty());
        if self.rechecking {
            self.at(self.now.after(RECHECK), Event::Recheck);
        }
    }
}
