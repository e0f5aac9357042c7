//! What a queue promises, as functions, for property tests and the simulator.

use aya_domain::MonoTime;

use crate::queue::FairQueue;
use crate::ticket::TicketId;

/// The first broken promise; `None`: all is well.
#[must_use]
pub fn broken(queue: &FairQueue, now: MonoTime) -> Option<&'static str> {
    queue.broken_parts().or_else(|| not_work_conserving(queue, now)).or_else(|| misplaced(queue, now))
}

/// Somebody could look for room and nobody does.
fn not_work_conserving(queue: &FairQueue, now: MonoTime) -> Option<&'static str> {
    let idle = queue.turn().is_none() && queue.may_still_look(now).is_some();
    idle.then_some("somebody has not looked for room and has no turn")
}

/// Positions count through the order, from 0.
fn misplaced(queue: &FairQueue, now: MonoTime) -> Option<&'static str> {
    if queue.expired(now).next().is_some() {
        // The order leaves them out at once, positions when they have gone.
        return None;
    }
    let order = queue.order(queue.len(), now);
    if order.len() != queue.len() {
        return Some("somebody stands nowhere");
    }
    let misplaced = |(at, ticket): (usize, &TicketId)| queue.position(*ticket) != Some(at);
    order.iter().enumerate().any(misplaced).then_some("a position that is not the place in the order")
}

/// Whether two tenants that both waited all the time were served in proportion to their weights: what they were served
/// per weight differs by at most one charge of each.
#[must_use]
pub fn shared_by_weight(served: [f64; 2], weights: [f64; 2], largest_cost: f64) -> bool {
    let [a, b] = served;
    let [weight_a, weight_b] = weights;
    (a / weight_a - b / weight_b).abs() <= largest_cost / weight_a + largest_cost / weight_b
}
