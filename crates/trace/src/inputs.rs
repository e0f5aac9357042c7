//! Everything a decision was made from, line by line, so that `decide` can be run again and must give the same bytes.
//!
//! The farm and the ledger change little from one decision to the next, so a line holds only what changed since the
//! line before; the first one of a segment holds everything. FORMAT.md describes the bytes. Not kept are nodes and the
//! time of a snapshot: no decision reads them. Every type that goes in is taken apart field by field, so that a new
//! input of `decide` does not compile until it is recorded.

mod cells;
mod checks;
mod condition;
mod decode;
mod encode;
mod endpoint;
mod exact;
mod knowledge;
mod line;
mod policy;

use aya_domain::{Decision, DecisionId, MonoTime, OwnLoad, Request, Snapshot};
use aya_estimate::DecayedRate;
use aya_placement::Policy;

pub use cells::CellsError;
pub(crate) use checks::{FIELDS, column_digests, differing_columns, differing_rows, row_digests, show_field};
pub(crate) use decode::Decoder;
pub use decode::{Case, DecodeError, Recorded};
pub use encode::Encoder;
pub use knowledge::KnowledgeRead;
pub(crate) use line::{DecidedJson, HeadJson, OutcomeJson};

/// Counts up when lines change so that an older program would misread them.
pub const FORMAT: u32 = 1;

/// One endpoint's account, with its rate in the form that only a dispatch changes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OwnRead {
    /// As the decision saw it, its rate decayed to that instant.
    pub load: OwnLoad,
    /// The rate as of the last dispatch; read at the decision's instant it gives `load.prefill_rate` exactly.
    pub rate: DecayedRate,
}

/// What `decide` was given.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub snapshot: &'a Snapshot,
    /// Parallel to the snapshot's endpoints.
    pub loads: &'a [OwnRead],
    /// `None`: it was made without any.
    pub knowledge: Option<&'a KnowledgeRead>,
    pub request: &'a Request,
    pub policy: &'a Policy,
    pub now: MonoTime,
    pub seed: u64,
}

/// A decision with what it was made from.
#[derive(Debug, Clone, Copy)]
pub struct Decided<'a> {
    pub decision_id: &'a DecisionId,
    /// Which one of its request: 1 for the first.
    pub attempt: u32,
    pub inputs: Inputs<'a>,
    pub decision: &'a Decision,
}

#[cfg(test)]
pub(crate) mod tests;
