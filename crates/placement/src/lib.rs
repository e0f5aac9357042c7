//! Where does this request go: [`decide()`], a pure function from what is known to an explained decision.
//!
//! Filters say which endpoints can take the request (`filter`), a scorer prices them in seconds (`cost`), other
//! policies rank them by their own (`rank`),
//! the seed breaks ties (`pick`). The live scheduler, the replay and the simulator call the same function,
//! so it reads no clock, draws no random number, and the same inputs give the same bytes. It never mutates
//! the ledger: the caller claims the lease, and decides again if it lost the race.

mod cost;
mod decide;
mod filter;
mod foresee;
pub mod invariants;
mod knowledge;
mod misses;
mod pick;
mod policy;
mod rank;
#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;
mod thin;
mod words;

pub use cost::FOREIGN_PROMPT_TOKENS;
pub use decide::{Seen, decide, decide_knowing, decide_noting, expected_misses, queueing_s};
pub use foresee::LOOKED_AT_MAX;
pub use knowledge::{Consulted, Insights, Knowledge, LookedAt, Stream};
pub use policy::{CostWeights, Filter, HoldRules, Picker, Policy, Scorer, UnknownPolicy, Weighted};
pub use rank::is_left_out;
pub use words::{BadWord, EndpointSpeed};
