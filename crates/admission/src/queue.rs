//! The queue of one pool: classes, tenants, deadlines, a limit, and whose turn it is.
//!
//! A client that gives up leaves from wherever it stands. The queue keeps its own promises
//! ([`crate::invariants`]) but trusts its caller to leave exactly once per ticket, which a guard with `Drop`
//! does; leaving twice is answered with `None`.

use std::collections::{BTreeMap, BTreeSet};

use aya_domain::{MonoTime, Priority, TenantId};

use crate::drain::Drain;
use crate::line::Class;
use crate::ticket::{
    Blocked, Departure, Entered, Entry, QueueFull, QueueRules, Standing, TicketId, WEIGHT_MAX,
};
use crate::turn::Turn;

#[derive(Debug, Clone)]
struct Waiting {
    class: Priority,
    tenant: TenantId,
    entered: MonoTime,
    deadline: MonoTime,
    /// The round in which it last passed.
    passed_in: u64,
    /// Placements of those behind it while what it needs was full.
    overtaken: u32,
    blocked: Option<Blocked>,
}

#[derive(Debug, Clone, Default)]
struct Classes {
    critical: Class,
    standard: Class,
    batch: Class,
}

impl Classes {
    const fn of(&self, class: Priority) -> &Class {
        match class {
            Priority::Critical => &self.critical,
            Priority::Standard => &self.standard,
            Priority::Batch => &self.batch,
        }
    }

    const fn of_mut(&mut self, class: Priority) -> &mut Class {
        match class {
            Priority::Critical => &mut self.critical,
            Priority::Standard => &mut self.standard,
            Priority::Batch => &mut self.batch,
        }
    }
}

/// The queue of one pool.
#[derive(Debug, Clone)]
pub struct FairQueue {
    rules: QueueRules,
    next: u64,
    waiting: BTreeMap<TicketId, Waiting>,
    /// The same tickets by deadline.
    deadlines: BTreeSet<(MonoTime, TicketId)>,
    classes: Classes,
    turn: Turn,
    drain: Drain,
}

impl FairQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(rules: QueueRules) -> Self {
        Self {
            rules,
            next: 0,
            waiting: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            classes: Classes::default(),
            turn: Turn::default(),
            drain: Drain::default(),
        }
    }

    /// Takes a place. Whoever was displaced for it does not wait any more and has to be told.
    ///
    /// # Errors
    /// [`QueueFull`] if as many tickets wait as may, expired ones that have not yet left included, and none gives
    /// way.
    pub fn enter(&mut self, entry: &Entry, now: MonoTime) -> Result<Entered, QueueFull> {
        let displaced = if self.waiting.len() < self.rules.limit {
            None
        } else {
            let displaced = self.gives_way(entry).ok_or(QueueFull { limit: self.rules.limit })?;
            self.leave(displaced, Departure::Gone, now);
            Some(displaced)
        };
        if self.waiting.is_empty() {
            self.drain.began(now);
        }
        let position = self.position_of_newcomer(entry.class, &entry.tenant);
        let ticket = TicketId(self.next);
        self.next += 1;
        let weight = entry.weight.clamp(1, WEIGHT_MAX);
        self.classes.of_mut(entry.class).add(ticket, &entry.tenant, weight, entry.charge());
        let waiting = Waiting {
            class: entry.class,
            tenant: entry.tenant.clone(),
            entered: now,
            deadline: entry.deadline,
            passed_in: 0,
            overtaken: 0,
            blocked: None,
        };
        self.waiting.insert(ticket, waiting);
        self.deadlines.insert((entry.deadline, ticket));
        if self.turn.round == 0 {
            self.turn.begin();
        }
        self.advance(now);
        Ok(Entered { ticket, position, displaced })
    }

    /// Who has to go for a newcomer.
    fn gives_way(&self, entry: &Entry) -> Option<TicketId> {
        let filled = |class: &Priority| self.classes.of(*class).len() > 0;
        let lowest = Priority::ALL.into_iter().rev().find(filled)?;
        let (ticket, tenant) = self.classes.of(lowest).displaceable()?;
        let shorter = || self.classes.of(lowest).is_shorter(&entry.tenant, entry.weight, tenant);
        let gives = lowest > entry.class || (lowest == entry.class && *tenant != entry.tenant && shorter());
        gives.then_some(ticket)
    }

    /// Gives up a place. `None` if the ticket no longer waits.
    pub fn leave(&mut self, ticket: TicketId, departure: Departure, now: MonoTime) -> Option<()> {
        if departure == Departure::Placed {
            self.note_placement(ticket, now);
        }
        let left = self.waiting.remove(&ticket)?;
        self.deadlines.remove(&(left.deadline, ticket));
        let served = departure == Departure::Placed;
        self.classes.of_mut(left.class).remove(ticket, &left.tenant, served);
        self.turn.end(ticket);
        self.advance(now);
        Some(())
    }

    /// Counts who was passed by a placement: those before it in its order, and the classes below it.
    fn note_placement(&mut self, ticket: TicketId, now: MonoTime) {
        let Some(class) = self.waiting.get(&ticket).map(|waiting| waiting.class) else { return };
        self.drain.placed(now);
        let before = self.order(self.rules.look_ahead, now);
        for other in before.into_iter().take_while(|other| *other != ticket) {
            if let Some(other) = self.waiting.get_mut(&other) {
                other.overtaken = other.overtaken.saturating_add(1);
            }
        }
        for lower in Priority::ALL.into_iter().filter(|other| *other > class) {
            let lower = self.classes.of_mut(lower);
            if lower.len() > 0 {
                lower.passed_over = lower.passed_over.saturating_add(1);
            }
        }
        self.classes.of_mut(class).passed_over = 0;
    }

    /// Room may have appeared: those within the look-ahead may look for it, one after the other.
    pub fn wake(&mut self, now: MonoTime) {
        if self.turn.begin() {
            self.advance(now);
        }
    }

    /// Who may look for room now.
    #[must_use]
    pub const fn turn(&self) -> Option<TicketId> {
        self.turn.holder
    }

    /// The ticket has looked and found no room; the turn goes on. Nothing happens if it was not its turn.
    pub fn pass(&mut self, ticket: TicketId, blocked: Blocked, now: MonoTime) {
        if !self.turn.end(ticket) {
            return;
        }
        let round = self.turn.round;
        if let Some(waiting) = self.waiting.get_mut(&ticket) {
            waiting.passed_in = round;
            waiting.blocked = Some(blocked);
        }
        self.advance(now);
        if self.turn.holder.is_none() && self.turn.again {
            self.wake(now);
        }
    }

    /// Gives the turn to the first within reach that has not passed in this round, if nobody holds it.
    fn advance(&mut self, now: MonoTime) {
        if self.turn.holder.is_none() {
            self.turn.holder = self.may_still_look(now);
        }
    }

    pub(crate) fn may_still_look(&self, now: MonoTime) -> Option<TicketId> {
        let passed = |ticket: &TicketId| {
            self.waiting.get(ticket).is_some_and(|waiting| waiting.passed_in == self.turn.round)
        };
        let order = self.order(self.rules.look_ahead.max(1), now);
        let guarded = order.first().is_some_and(|head| self.is_guarded(*head));
        let reach = if guarded { 1 } else { order.len() };
        order.into_iter().take(reach).find(|ticket| !passed(ticket))
    }

    /// Whether nobody may overtake this head any more.
    fn is_guarded(&self, head: TicketId) -> bool {
        self.waiting.get(&head).is_some_and(|waiting| {
            waiting.overtaken >= self.rules.overtakes_max && waiting.blocked == Some(Blocked::Full)
        })
    }

    /// Whether this class is due although higher ones wait.
    fn is_owed(&self, class: Priority) -> bool {
        let lines = self.classes.of(class);
        self.rules.turn_after > 0 && lines.len() > 0 && lines.passed_over >= self.rules.turn_after
    }

    /// The first `most` tickets in the order in which they are to be placed, without the expired.
    #[must_use]
    pub fn order(&self, most: usize, now: MonoTime) -> Vec<TicketId> {
        let may = |ticket: TicketId| self.waiting.get(&ticket).is_some_and(|w| w.deadline > now);
        let firsts = |class: Priority| self.classes.of(class).first(most, may);
        let owed = Priority::ALL.into_iter().filter(|class| self.is_owed(*class));
        let mut order: Vec<TicketId> = owed.filter_map(|class| firsts(class).first().copied()).collect();
        let due = order.clone();
        for class in Priority::ALL {
            if order.len() >= most {
                break;
            }
            order.extend(firsts(class).into_iter().filter(|ticket| !due.contains(ticket)));
        }
        order.truncate(most);
        order
    }

    /// How many stand before this ticket: 0 for the head, `None` if it does not wait.
    #[must_use]
    pub fn position(&self, ticket: TicketId) -> Option<usize> {
        let waiting = self.waiting.get(&ticket)?;
        let rank = self.classes.of(waiting.class).rank(ticket, &waiting.tenant)?;
        Some(self.position_at(waiting.class, rank))
    }

    /// Where a newcomer would stand.
    #[must_use]
    pub fn position_of_newcomer(&self, class: Priority, tenant: &TenantId) -> usize {
        self.position_at(class, self.classes.of(class).rank_of_newcomer(tenant))
    }

    fn position_at(&self, class: Priority, rank: usize) -> usize {
        let owed = |class: Priority| usize::from(self.is_owed(class));
        if rank == 0 && self.is_owed(class) {
            return Priority::ALL.into_iter().filter(|other| *other < class).map(owed).sum();
        }
        let due: usize = Priority::ALL.into_iter().map(owed).sum();
        let higher = Priority::ALL.into_iter().filter(|other| *other < class);
        let before: usize = higher.map(|other| self.classes.of(other).len() - owed(other)).sum();
        due + before + rank.saturating_sub(owed(class))
    }

    /// Seconds until somebody at this position is placed, as the queue drains now; `None` until somebody was.
    #[must_use]
    pub fn wait_s(&self, position: usize, now: MonoTime) -> Option<f64> {
        self.drain.wait_s(position, now)
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

    /// Tickets of one class.
    #[must_use]
    pub const fn len_of(&self, class: Priority) -> usize {
        self.classes.of(class).len()
    }

    /// Whether a ticket waits.
    #[must_use]
    pub fn holds(&self, ticket: TicketId) -> bool {
        self.waiting.contains_key(&ticket)
    }

    /// How it behaves.
    #[must_use]
    pub const fn rules(&self) -> &QueueRules {
        &self.rules
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

    /// Since when the oldest ticket waits; tickets are given out in ascending order.
    #[must_use]
    pub fn oldest(&self) -> Option<MonoTime> {
        self.waiting.first_key_value().map(|(_, waiting)| waiting.entered)
    }

    /// The first `most` tickets with what operators ask about them, in order.
    #[must_use]
    pub fn standings(&self, most: usize, now: MonoTime) -> Vec<Standing> {
        let standing = |ticket: TicketId| {
            let Waiting { class, tenant, entered, overtaken, .. } = self.waiting.get(&ticket)?;
            let (class, tenant, waited) = (*class, tenant.clone(), now.since(*entered));
            Some(Standing { ticket, class, tenant, waited, overtaken: *overtaken })
        };
        self.order(most, now).into_iter().filter_map(standing).collect()
    }

    /// The first broken promise of the parts; [`crate::invariants::broken`] says the whole.
    pub(crate) fn broken_parts(&self) -> Option<&'static str> {
        if self.waiting.len() > self.rules.limit {
            return Some("more tickets than the limit");
        }
        if self.waiting.len() != self.deadlines.len() {
            return Some("tickets and deadlines differ in number");
        }
        if self.waiting.last_key_value().is_some_and(|(ticket, _)| ticket.0 >= self.next) {
            return Some("a ticket that was never given out");
        }
        if Priority::ALL.into_iter().map(|class| self.len_of(class)).sum::<usize>() != self.waiting.len() {
            return Some("the classes lost or invented a ticket");
        }
        if self.turn.holder.is_some_and(|holder| !self.holds(holder)) {
            return Some("the turn of a ticket that does not wait");
        }
        Priority::ALL.into_iter().find_map(|class| self.classes.of(class).broken_invariant())
    }
}

#[cfg(test)]
mod tests;
