//! Whose turn it is to look for room: one ticket at a time, in the order of the queue.
//!
//! A round begins when room may have appeared. The first ticket looks; if it finds none it passes, and the next
//! one looks, as far as the look-ahead reaches. So a request that fits only a full endpoint does not hold up the
//! others, and no two decide against the same room.

use crate::ticket::TicketId;

/// The state of the rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn {
    /// Counts rounds; a ticket that passed remembers the round.
    pub(crate) round: u64,
    pub(crate) holder: Option<TicketId>,
    /// Room may have appeared while somebody was looking.
    pub(crate) again: bool,
}

impl Turn {
    /// Room may have appeared: true if a round begins now, else the running one is repeated.
    pub(crate) const fn begin(&mut self) -> bool {
        if self.holder.is_some() {
            self.again = true;
            return false;
        }
        self.round += 1;
        self.again = false;
        true
    }

    /// The holder is through. False: somebody else holds the turn.
    pub(crate) fn end(&mut self, ticket: TicketId) -> bool {
        let held = self.holder == Some(ticket);
        if held {
            self.holder = None;
        }
        held
    }
}
