//! Who waits, in which order, for how long, and who is refused instead: the bounded queue in front of a pool.
//!
//! Requests are bound to an endpoint as late as possible, because an engine's own queue can be neither
//! reordered nor taken back. This is the queue as a pure state machine: it never wakes anybody, reads no
//! clock and knows no request; the scheduler keeps the tickets, the wakers and the timers. The simulator runs
//! the same machine and the same refusals.
//!
//! The order: strict classes ([`aya_domain::Priority`]), with a turn for a lower class after a named number of
//! higher ones; within a class the tenant that was served least for its weight (virtual token counters); within
//! a tenant first come, first served. Who does not fit where there is room lets a few behind it try
//! ([`QueueRules::look_ahead`]), and is not overtaken for ever ([`QueueRules::overtakes_max`]).

mod drain;
pub mod invariants;
mod line;
mod pressure;
mod queue;
mod retry;
mod shed;
mod strain;
mod ticket;
mod turn;

pub use drain::Drain;
pub use pressure::{CONNECTIONS_PERCENT, HYSTERESIS_PERCENT, Pressure, Used, Watermarks};
pub use queue::FairQueue;
pub use retry::{RETRY_AFTER_MAX_S, retry_after_s, retry_after_wait_s};
pub use shed::{Forecast, PoolForecast, Shed, ShedReason, ShedRules};
pub use strain::{STRAIN_TAU, Strain, Strained};
pub use ticket::{Blocked, Departure, Entered, Entry, QueueFull, QueueRules, Standing, TicketId, WEIGHT_MAX};
