//! Decision records: what the scheduler keeps of every request, as types, as JSON, as files, and as decisions made again.
//!
//! A record holds sizes, ids and numbers; prompts, answers, keys and tokens never come here. Its JSON is a contract
//! (`GET /api/v1/decisions`, the segments on disk, replay): fields are added, never renamed, and [`VERSION`] counts up when
//! the meaning of one changes. An absent value is absent, never 0.

mod event;
mod find;
mod inputs;
mod json;
mod lines;
mod log;
mod record;
mod replay;
mod segments;
mod sentence;
mod what_if;

pub use event::EventJson;
pub use find::{Found, find};
pub use inputs::{
    Case, CellsError, Decided, DecodeError, Encoder, FORMAT, Inputs, KnowledgeRead, OwnRead, Recorded,
};
pub use json::{
    AdmissionJson, AttemptJson, CandidateJson, ConditionJson, DecisionJson, OutcomeJson, PlacementJson,
    RecordJson, RejectionJson, RequestJson, ShedJson, TermsJson, VERSION, VerdictKind,
};
pub use lines::{Contents, read};
pub use log::DecisionLog;
pub use record::{Admission, Attempt, AttemptResult, OutcomeStatus, Record, RequestOutcome, WaitedFor};
pub use replay::{Difference, Place, ReplayError, Seen, differences, visit};
pub use segments::{Directory, Segment, SegmentError, SegmentWriter, Storage, segments_in};
pub use sentence::{placement_sentence, rejection_sentence};
pub use what_if::{Spread, WhatIf, WhatIfReport};
