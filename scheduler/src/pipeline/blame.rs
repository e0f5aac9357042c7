//! Whose doing it is that a request has no answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya_trace::{Attempt, OutcomeStatus};

use super::account::End;
use crate::shared::Shared;

/// The farm's: an engine's if it was sent to one, else ours.
pub(super) const fn at_fault(attempts: &[Attempt]) -> OutcomeStatus {
    if attempts.is_empty() { OutcomeStatus::Refused } else { OutcomeStatus::UpstreamError }
}

/// The end of a request that is dropped open: its client has gone, unless the scheduler cuts it off as it stops.
pub(super) fn abandoned(shared: &Shared, if_cut: OutcomeStatus) -> (OutcomeStatus, Option<&'static str>) {
    if shared.stopping.is_cutting() {
        (if_cut, Some("shutting_down"))
    } else {
        (OutcomeStatus::ClientCancelled, None)
    }
}

/// Whatever came of a request whose client had left, the client had left.
pub(super) fn seen_by_client<'a>(client_gone: Option<&Arc<AtomicBool>>, end: End<'a>) -> End<'a> {
    if client_gone.is_some_and(|gone| gone.load(Ordering::Relaxed)) {
        End { status: OutcomeStatus::ClientCancelled, http_status: None, error: None }
    } else {
        end
    }
}
