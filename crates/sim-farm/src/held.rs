//! Requests for which no endpoint has room, in the queue of the live scheduler.

use std::collections::BTreeMap;

use aya_admission::{Blocked, Departure, Entry, FairQueue, QueueRules, TicketId};
use aya_domain::{MonoTime, Request};

/// Nobody is refused for lack of a place: how long a request may wait is what a run varies.
const RULES: QueueRules = QueueRules { limit: usize::MAX, ..QueueRules::DEFAULT };

/// One scheduler's waiting requests.
#[derive(Debug)]
pub(crate) struct Held {
    queue: FairQueue,
    requests: BTreeMap<TicketId, usize>,
}

impl Default for Held {
    fn default() -> Self {
        Self { queue: FairQueue::new(RULES), requests: BTreeMap::new() }
    }
}

impl Held {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes a place for a request, until `deadline`.
    pub(crate) fn enter(&mut self, at: usize, request: &Request, deadline: MonoTime, now: MonoTime) {
        let entry = Entry {
            class: request.priority,
            tenant: request.tenant.clone(),
            weight: 1,
            cost: request.prompt_tokens,
            deadline,
        };
        if let Ok(entered) = self.queue.enter(&entry, now) {
            self.requests.insert(entered.ticket, at);
        }
    }

    /// Room may have appeared.
    pub(crate) fn wake(&mut self, now: MonoTime) {
        self.queue.wake(now);
    }

    /// Whose turn it is to look for room.
    pub(crate) fn turn(&self) -> Option<(TicketId, usize)> {
        let ticket = self.queue.turn()?;
        Some((ticket, *self.requests.get(&ticket)?))
    }

    /// It has looked: it goes, or lets others look.
    pub(crate) fn looked(&mut self, ticket: TicketId, placed: bool, now: MonoTime) {
        if placed {
            self.queue.leave(ticket, Departure::Placed, now);
            self.requests.remove(&ticket);
        } else {
            self.queue.pass(ticket, Blocked::Full, now);
        }
    }

    /// Those who have waited as long as they may; they wait no longer.
    pub(crate) fn expire(&mut self, now: MonoTime) -> Vec<usize> {
        let expired: Vec<TicketId> = self.queue.expired(now).collect();
        for ticket in &expired {
            self.queue.leave(*ticket, Departure::Gone, now);
        }
        expired.iter().filter_map(|ticket| self.requests.remove(ticket)).collect()
    }
}
