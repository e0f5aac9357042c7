//! Who waits, in which order, and for how long: the bounded queue in front of a pool.
//!
//! Requests are bound to an endpoint as late as possible, because an engine's own queue can be neither
//! reordered nor taken back. This is the queue as a pure state machine: it never wakes anybody, reads no
//! clock and knows no request; the scheduler keeps the tickets, the wakers and the timers.

mod queue;
mod retry;

pub use queue::{Left, PoolQueue, QueueFull, TicketId};
pub use retry::{RETRY_AFTER_MAX_S, retry_after_s, retry_after_wait_s};
