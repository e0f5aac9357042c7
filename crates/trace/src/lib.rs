//! Decision records: what the scheduler keeps of every request, as types, as JSON, as files.
//!
//! A record holds sizes, ids and numbers; prompts, answers, keys and tokens never come here. Its JSON is a contract
//! (`GET /api/v1/decisions`, the segments on disk, replay): fields are added, never renamed, and [`VERSION`] counts up when
//! the meaning of one changes. An absent value is absent, never 0.

mod json;
mod record;
mod segments;
mod sentence;

pub use json::{
    AttemptJson, CandidateJson, ConditionJson, DecisionJson, OutcomeJson, PlacementJson, RecordJson,
    RejectionJson, RequestJson, TermsJson, VERSION, VerdictKind,
};
pub use record::{Attempt, AttemptResult, OutcomeStatus, Record, RequestOutcome};
pub use segments::{Contents, Directory, Segment, SegmentError, SegmentWriter, Storage, read, segments_in};
pub use sentence::{placement_sentence, rejection_sentence};
