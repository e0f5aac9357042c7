//! First come, first served, with a limit, a deadline per ticket, and cheap departure from the middle.
//!
//! A client that gives up leaves from wherever it stands, so tickets are keys of an ordered map and not
//! positions: entering and leaving cost O(log n). The queue keeps its own promises
//! ([`PoolQueue::broken_invariant`]) but trusts its caller to leave exactly once per ticket, which a guard
//! with `Drop` does; leaving twice is answered with `None`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use aya_domain::MonoTime;

/// A place in one queue; later tickets are larger. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(u64);

/// The queue holds as many tickets as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull {
    pub limit: usize,
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the queue is full: {} requests already wait", self.limit)
    }
}

impl std::error::Error for QueueFull {}

/// What a departure means for those who stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whether the head left: then somebody else may try to be placed.
    pub was_head: bool,
    /// The head after the departure.
    pub next_head: Option<TicketId>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    entered: MonoTime,
    deadline: MonoTime,
}

/// The queue of one pool.
#[derive(Debug, Clone)]
pub struct PoolQueue {
    limit: usize,
    next: u64,
    waiting: BTreeMap<TicketId, Waiting>,
    /// The same tickets by deadline.
    deadlines: BTreeSet<(MonoTime, TicketId)>,
}

impl PoolQueue {
    /// An empty queue for at most `limit` tickets; 0 admits nobody.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, next: 0, waiting: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    /// Takes the last place, to be left by `deadline` at the latest.
    ///
    /// # Errors
    /// [`QueueFull`] if `limit` tickets wait, expired ones that have not yet left included.
    pub fn enter(&mut self, now: MonoTime, deadline: MonoTime) -> Result<TicketId, QueueFull> {
        if self.waiting.len() >= self.limit {
            return Err(QueueFull { limit: self.limit });
        }
        let ticket = TicketId(self.next);
        self.next += 1;
        self.waiting.insert(ticket, Waiting { entered: now, deadline });
        self.deadlines.insert((deadline, ticket));
        debug_assert_eq!(self.broken_invariant(), None);
        Ok(ticket)
    }

    /// The ticket that is next to be placed.
    #[must_use]
    pub fn head(&self) -> Option<TicketId> {
        self.waiting.first_key_value().map(|(ticket, _)| *ticket)
    }

    /// Gives up a place, for whatever reason: placed, expired or cancelled. `None` if the ticket no longer
    /// waits.
    pub fn leave(&mut self, ticket: TicketId) -> Option<Left> {
        let was_head = self.head() == Some(ticket);
        let left = self.waiting.remove(&ticket)?;
        self.deadlines.remove(&(left.deadline, ticket));
        debug_assert_eq!(self.broken_invariant(), None);
        Some(Left { was_head, next_head: self.head() })
    }

    /// How many stand before this ticket: 0 for the head, `None` if it does not wait. Costs O(position).
    #[must_use]
    pub fn position(&self, ticket: TicketId) -> Option<usize> {
        self.waiting.contains_key(&ticket).then(|| self.waiting.range(..ticket).count())
    }

    /// Tickets that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The most tickets that may wait.
    #[must_use]
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Tickets whose deadline has come, earliest deadline first. They wait until they leave.
    pub fn expired(&self, now: MonoTime) -> impl Iterator<Item = TicketId> + '_ {
        self.deadlines.iter().take_while(move |(deadline, _)| *deadline <= now).map(|(_, ticket)| *ticket)
    }

    /// The earliest deadline, for one timer over the whole queue.
    #[must_use]
    pub fn next_deadline(&self) -> Option<MonoTime> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How long a ticket has waited; `None` if it does not wait.
    #[must_use]
    pub fn waited(&self, ticket: TicketId, now: MonoTime) -> Option<Duration> {
        self.waiting.get(&ticket).map(|waiting| now.since(waiting.entered))
    }

    /// The first broken promise, for assertions, property tests and the simulator. `None`: all is well.
    #[must_use]
    pub fn broken_invariant(&self) -> Option<&'static str> {
        if self.waiting.len() > self.limit {
            return Some("more tickets than the limit");
        }
        if self.waiting.len() != self.deadlines.len() {
            return Some("tickets and deadlines differ in number");
        }
        if self.waiting.last_key_value().is_some_and(|(ticket, _)| ticket.0 >= self.next) {
            return Some("a ticket that was never given out");
        }
        None
    }
}

#[cfg(test)]
mod tests;
