//! What a queue is asked with and what it answers: entries, tickets, rules.

use std::fmt;
use std::time::Duration;

use aya_domain::{MonoTime, Priority, TenantId, Tokens};

/// The largest weight of a tenant.
pub const WEIGHT_MAX: u32 = 1_000;

/// A place in one queue; later tickets are larger. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TicketId(pub(crate) u64);

impl TicketId {
    /// After every ticket.
    pub(crate) const LAST: Self = Self(u64::MAX);
}

/// How a queue behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueRules {
    /// Tickets that may wait. At the limit a newcomer takes the place of the newest ticket of a lower class, or of a
    /// tenant of its own class that waits with more for its weight; else it is refused.
    pub limit: usize,
    /// Tickets that may look for room in one round; 1: nobody looks past the head.
    pub look_ahead: usize,
    /// After so many placements past it, a head that waits for full endpoints is not overtaken any more: what it
    /// needs can only drain.
    pub overtakes_max: u32,
    /// After so many placements of higher classes a class that waits has its turn; 0: strictly never before them.
    pub turn_after: u32,
}

impl QueueRules {
    /// Look-ahead 8, 64 overtakes, a turn for a lower class after 16 placements.
    pub const DEFAULT: Self = Self { limit: 1_024, look_ahead: 8, overtakes_max: 64, turn_after: 16 };
}

/// Who comes to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub class: Priority,
    pub tenant: TenantId,
    /// The tenant's share compared with others, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Prompt and expected answer: what the tenant is charged when it is placed.
    pub cost: Tokens,
    /// No turn at or after this instant.
    pub deadline: MonoTime,
}

impl Entry {
    /// The cost in thousandths of tokens per unit of weight; at least 1, so that every ticket counts.
    pub(crate) fn charge(&self) -> u64 {
        let weight = u64::from(self.weight.clamp(1, WEIGHT_MAX));
        (self.cost.get().saturating_mul(u64::from(WEIGHT_MAX)) / weight).max(1)
    }
}

/// A ticket was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    pub ticket: TicketId,
    /// How many stood before it.
    pub position: usize,
    /// Who had to go for it.
    pub displaced: Option<TicketId>,
}

/// The queue holds as many tickets as it may, and none of them gives way.
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

/// Why a ticket passed its turn on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// What fits is full, and drains.
    Full,
    /// What fits is not ready: waiting for it alone would hold up everybody.
    NotReady,
}

/// Why a ticket leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It has found room; its tenant pays.
    Placed,
    /// Its deadline has come, its client has gone, or it was refused.
    Gone,
}

/// One ticket as operators see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub ticket: TicketId,
    pub class: Priority,
    pub tenant: TenantId,
    pub waited: Duration,
    /// Placements of those behind it.
    pub overtaken: u32,
}
