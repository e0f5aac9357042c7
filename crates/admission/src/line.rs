//! One class of the queue: a line per tenant, and which line is next.
//!
//! Virtual token counters (Sheng et al., OSDI 2024): every tenant has a counter of the tokens it was served,
//! divided by its weight, and the lowest goes first. Who comes back after a pause is lifted to the lowest
//! counter of those who wait, so that nobody saves up turns. All tickets of a class therefore stand in the
//! order of their start tags: the counter plus the charges before them in their line.

use std::collections::{BTreeMap, BTreeSet};

use aya_domain::TenantId;

use crate::ticket::TicketId;

/// Lines without tickets whose counters are remembered; beyond it all of them are forgotten, which costs those
/// tenants nothing and forgives what they were ahead.
const IDLE_LINES_MAX: usize = 1_024;

/// Where a ticket stands in its class: its start tag, ties by age.
pub(crate) type Tag = (u64, TicketId);

#[derive(Debug, Clone, Default)]
struct Line {
    /// Charges served so far, lifted on return.
    counter: u64,
    weight: u32,
    /// Each with its charge: tokens over weight.
    tickets: BTreeMap<TicketId, u64>,
}

impl Line {
    /// The tickets with their start tags, in order.
    fn tags(&self) -> impl Iterator<Item = Tag> {
        self.tickets.iter().scan(self.counter, |counter, (ticket, charge)| {
            let tag = (*counter, *ticket);
            *counter = counter.saturating_add(*charge);
            Some(tag)
        })
    }

    fn head(&self) -> Option<TicketId> {
        self.tickets.first_key_value().map(|(ticket, _)| *ticket)
    }
}

/// All lines of one class.
#[derive(Debug, Clone, Default)]
pub(crate) struct Class {
    lines: BTreeMap<TenantId, Line>,
    /// Lines with tickets by counter and head.
    ready: BTreeSet<(u64, TicketId, TenantId)>,
    /// The start tag that was served last, for returns to an empty class.
    floor: u64,
    len: usize,
    /// Tickets of higher classes that were placed since one of this class was, while it waited.
    pub(crate) passed_over: u32,
}

impl Class {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The counter at which a line would stand if a ticket came to it now.
    fn counter_of(&self, tenant: &TenantId) -> u64 {
        let line = self.lines.get(tenant);
        let own = line.map_or(0, |line| line.counter);
        if line.is_some_and(|line| !line.tickets.is_empty()) {
            return own;
        }
        own.max(self.ready.first().map_or(self.floor, |(counter, ..)| *counter))
    }

    pub(crate) fn add(&mut self, ticket: TicketId, tenant: &TenantId, weight: u32, charge: u64) {
        if self.lines.len() - self.ready.len() >= IDLE_LINES_MAX {
            self.lines.retain(|_, line| !line.tickets.is_empty());
        }
        let counter = self.counter_of(tenant);
        let line = self.lines.entry(tenant.clone()).or_default();
        line.weight = weight;
        if line.tickets.is_empty() {
            line.counter = counter;
            self.ready.insert((counter, ticket, tenant.clone()));
        }
        line.tickets.insert(ticket, charge);
        self.len += 1;
    }

    /// Takes a ticket out; its line pays for it if it was served.
    pub(crate) fn remove(&mut self, ticket: TicketId, tenant: &TenantId, served: bool) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        let Some(head) = line.head() else { return };
        let Some(charge) = line.tickets.remove(&ticket) else { return };
        self.len -= 1;
        self.ready.remove(&(line.counter, head, tenant.clone()));
        if served {
            self.floor = self.floor.max(line.counter);
            line.counter = line.counter.saturating_add(charge);
        }
        if let Some(head) = line.head() {
            self.ready.insert((line.counter, head, tenant.clone()));
        }
        if self.len == 0 {
            self.passed_over = 0;
        }
    }

    /// The first `most` tickets that `may` go, in order.
    pub(crate) fn first(&self, most: usize, may: impl Fn(TicketId) -> bool) -> Vec<TicketId> {
        // Only lines with the lowest counters can have one of the first tickets.
        let mut tags: Vec<Tag> = Vec::new();
        let mut lines = 0;
        for (.., tenant) in &self.ready {
            let Some(line) = self.lines.get(tenant) else { continue };
            let before = tags.len();
            tags.extend(line.tags().filter(|(_, ticket)| may(*ticket)).take(most));
            lines += usize::from(tags.len() > before);
            if lines >= most {
                break;
            }
        }
        tags.sort_unstable();
        tags.truncate(most);
        tags.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// How many stand before this tag.
    fn before(&self, tag: Tag) -> usize {
        let lines = self.ready.iter().take_while(|(counter, ..)| *counter <= tag.0);
        let lines = lines.filter_map(|(.., tenant)| self.lines.get(tenant));
        lines.map(|line| line.tags().take_while(|other| *other < tag).count()).sum()
    }

    /// How many stand before a ticket of this tenant.
    pub(crate) fn rank(&self, ticket: TicketId, tenant: &TenantId) -> Option<usize> {
        let tag = self.lines.get(tenant)?.tags().find(|(_, other)| *other == ticket)?;
        Some(self.before(tag))
    }

    /// How many would stand before a newcomer of this tenant.
    pub(crate) fn rank_of_newcomer(&self, tenant: &TenantId) -> usize {
        let queued: u64 = self.lines.get(tenant).map_or(0, |line| line.tickets.values().sum());
        self.before((self.counter_of(tenant).saturating_add(queued), TicketId::LAST))
    }

    /// The newest ticket of the tenant with the most tickets for its weight.
    pub(crate) fn displaceable(&self) -> Option<(TicketId, &TenantId)> {
        let lines = self.lines.iter().filter(|(_, line)| !line.tickets.is_empty());
        let (tenant, line) = lines.max_by_key(|(_, line)| line_length(line.tickets.len(), line.weight))?;
        Some((*line.tickets.last_key_value()?.0, tenant))
    }

    /// Whether one more ticket of `tenant` makes its line no longer for its weight than that of `other` without one.
    pub(crate) fn is_shorter(&self, tenant: &TenantId, weight: u32, other: &TenantId) -> bool {
        let tickets = |tenant| self.lines.get(tenant).map_or(0, |line| line.tickets.len());
        let other_weight = self.lines.get(other).map_or(1, |line| line.weight);
        let other_length = line_length(tickets(other).saturating_sub(1), other_weight);
        line_length(tickets(tenant) + 1, weight) <= other_length
    }

    #[cfg(test)]
    pub(crate) fn charge_of(&self, ticket: TicketId, tenant: &TenantId) -> Option<u64> {
        self.lines.get(tenant)?.tickets.get(&ticket).copied()
    }

    /// The first broken promise.
    pub(crate) fn broken_invariant(&self) -> Option<&'static str> {
        let filled = || self.lines.iter().filter(|(_, line)| !line.tickets.is_empty());
        if filled().map(|(_, line)| line.tickets.len()).sum::<usize>() != self.len {
            return Some("a class does not know its length");
        }
        let heads = filled().filter_map(|(tenant, line)| Some((line.counter, line.head()?, tenant.clone())));
        if heads.collect::<BTreeSet<_>>() != self.ready {
            return Some("a line is not where its counter says");
        }
        None
    }
}

/// Tickets for a weight, in thousandths.
fn line_length(tickets: usize, weight: u32) -> u64 {
    (tickets as u64).saturating_mul(1_000) / u64::from(weight.max(1))
}
