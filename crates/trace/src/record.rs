//! One request's record as the scheduler builds it, in the types of the domain.

use std::sync::Arc;
use std::time::Duration;

use aya_admission::Shed;
use aya_domain::{
    Candidate, Decision, DecisionId, EndpointId, Request, RequestId, RequestKind, Tokens, WallTime,
};
use serde::{Deserialize, Serialize};

/// Everything that is kept of one request, once it has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub decision_id: DecisionId,
    pub request_id: RequestId,
    /// When the request arrived.
    pub time: WallTime,
    pub kind: RequestKind,
    /// `None`: the request was refused before it could be classified.
    pub request: Option<Request>,
    /// The last decision; `None`: it never came to one.
    pub decision: Option<Arc<Decision>>,
    /// In order; the next one goes elsewhere where it can.
    pub attempts: Vec<Attempt>,
    /// Time in the scheduler's queue.
    pub queue: Duration,
    pub admission: Admission,
    pub outcome: RequestOutcome,
}

impl Record {
    /// Bytes of memory that it holds, nearly: itself, and what there is one of for every endpoint or block of the prompt.
    #[must_use]
    pub fn size(&self) -> usize {
        let candidates = self.decision.as_ref().map_or(0, |decision| decision.candidates.len());
        let blocks = self.request.as_ref().map_or(0, |request| request.prefix.blocks.len());
        size_of::<Self>()
            + candidates * size_of::<Candidate>()
            + blocks * size_of::<u64>()
            + self.attempts.len() * size_of::<Attempt>()
    }
}

/// How the request was let in, or why not.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Admission {
    /// How many stood before it when it first waited; `None`: it never did.
    pub position: Option<usize>,
    /// What it first waited for; `None`: it never did.
    pub waited_for: Option<WaitedFor>,
    /// What it was refused for.
    pub shed: Option<Shed>,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitedFor {
    /// Every endpoint that fits was full.
    Room,
    /// No endpoint of the model was ready.
    ReadyEndpoint,
    /// Others waited already: it did not look before its turn.
    Turn,
    /// A newer writer's word.
    #[serde(other)]
    Unknown,
}

/// One endpoint the request was sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub endpoint: EndpointId,
    /// After arrival.
    pub started: Duration,
    pub result: AttemptResult,
    /// It went on with an answer that had broken off elsewhere after so many tokens; `None`: it began anew.
    pub continues: Option<Tokens>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptResult {
    /// It has not; in no finished record.
    Open,
    /// The engine answered, with success or with an error of the client's.
    Answered,
    /// The engine failed; another attempt may follow.
    Failed { reason: String },
    /// The client went away.
    Cancelled,
}

/// The one way in which a request ended. `accepted` is the sum of these and of what is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// The whole answer was sent.
    Completed,
    /// The client is at fault.
    ClientError,
    /// An engine is at fault, and the client was told so with a status, or cut off before one as the scheduler stopped.
    UpstreamError,
    /// It broke off after the first byte.
    Truncated,
    /// The client went away.
    ClientCancelled,
    /// The scheduler sent it to no engine: no room in time, a full queue, nobody ready, its own end.
    Refused,
}

impl OutcomeStatus {
    /// Every status, in the order of their indexes.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::ClientError,
        Self::UpstreamError,
        Self::Truncated,
        Self::ClientCancelled,
        Self::Refused,
    ];

    /// The position in [`Self::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Completed => 0,
            Self::ClientError => 1,
            Self::UpstreamError => 2,
            Self::Truncated => 3,
            Self::ClientCancelled => 4,
            Self::Refused => 5,
        }
    }

    /// The name used in records, metrics and queries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientError => "client_error",
            Self::UpstreamError => "upstream_error",
            Self::Truncated => "truncated",
            Self::ClientCancelled => "client_cancelled",
            Self::Refused => "refused",
        }
    }
}

/// How a request ended, with its times as the client saw them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestOutcome {
    pub status: OutcomeStatus,
    /// What the client was sent; `None`: nothing.
    pub http_status: Option<u16>,
    /// Arrival to the first token.
    pub ttft: Option<Duration>,
    /// Mean time between two tokens.
    pub itl_mean: Option<Duration>,
    /// Arrival to the end.
    pub e2e: Duration,
    pub prompt_tokens: Option<Tokens>,
    pub completion_tokens: Option<Tokens>,
    pub finish_reason: Option<String>,
    /// The code the client was told, or would have been.
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_name_and_one_index() {
        for (at, status) in OutcomeStatus::ALL.into_iter().enumerate() {
            assert_eq!(status.index(), at);
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
