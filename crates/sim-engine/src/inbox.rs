//! The way into the driver: submit a request, follow its progress, and abort it by dropping the guard.
//!
//! Dropping a [`Generation`] before its end always reaches the engine, whoever drops it and whenever: queued,
//! in the middle of a step, or while the submission itself is still on its way.

use std::sync::Arc;

use aya_domain::MonoTime;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::driver::Shared;
use crate::engine::SubmitError;
use crate::sequence::SimRequest;

/// Submissions on their way to the driver; at the limit submitters wait.
pub(crate) const INBOX_MAX: usize = 256;

/// How far a request is. Its text is a function of the token count, so this is all there is to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Progress {
    pub(crate) tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) finished: bool,
}

/// A submission.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) request: SimRequest,
    pub(crate) public_id: Arc<str>,
    pub(crate) progress: watch::Sender<Progress>,
    pub(crate) answer: oneshot::Sender<Result<(), SubmitError>>,
    pub(crate) arrived_at: MonoTime,
    /// The client's limit ends the answer, rather than the model.
    pub(crate) ends_by_length: bool,
}

/// Requests whose client has gone. Each request is pushed once at most, so the list is never longer than the
/// requests in flight.
#[derive(Debug, Default)]
pub(crate) struct Aborts {
    keys: Mutex<Vec<u64>>,
    arrival: Notify,
}

impl Aborts {
    pub(crate) fn push(&self, key: u64) {
        self.keys.lock().push(key);
        self.arrival.notify_one();
    }

    pub(crate) fn take(&self) -> Vec<u64> {
        std::mem::take(&mut *self.keys.lock())
    }

    /// Until something was pushed; a push without a waiter is remembered.
    pub(crate) async fn arrived(&self) {
        self.arrival.notified().await;
    }
}

/// Why a submission failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    ByEngine(SubmitError),
    /// The driver has ended.
    Stopped,
}

/// A request in the engine, seen from its client's side.
#[derive(Debug)]
pub(crate) struct Generation {
    key: u64,
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    over: bool,
}

impl Generation {
    /// Hands a request to the driver. Dropping the future half way leaves nothing behind.
    pub(crate) async fn submit(
        inbox: &mpsc::Sender<Job>,
        shared: &Arc<Shared>,
        submission: Submission,
    ) -> Result<Self, Refused> {
        let (progress, receiver) = watch::channel(Progress::default());
        let (answer, answered) = oneshot::channel();
        let Submission { request, public_id, arrived_at, ends_by_length } = submission;
        let key = request.id;
        // The guard exists before the job is sent: an abort is never missing, at worst it is for nothing.
        let mut generation = Self { key, shared: Arc::clone(shared), progress: receiver, over: false };
        let job = Job { request, public_id, progress, answer, arrived_at, ends_by_length };
        inbox.send(job).await.map_err(|_| Refused::Stopped)?;
        match answered.await {
            Ok(Ok(())) => Ok(generation),
            Ok(Err(error)) => {
                generation.over = true;
                Err(Refused::ByEngine(error))
            }
            Err(_) => Err(Refused::Stopped),
        }
    }

    /// The progress beyond this many tokens, or the end; `None` if the engine is gone.
    pub(crate) async fn beyond(&mut self, tokens: u32) -> Option<Progress> {
        let reached = self.progress.wait_for(|p| p.finished || p.tokens > tokens).await;
        let progress = *reached.ok()?;
        self.over = progress.finished;
        Some(progress)
    }

    /// Until the request is over; `None` if the engine is gone.
    pub(crate) async fn end(&mut self) -> Option<Progress> {
        self.beyond(u32::MAX).await
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.over {
            self.shared.aborts.push(self.key);
        }
    }
}

/// A request with what the books need to know of it.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) request: SimRequest,
    pub(crate) public_id: Arc<str>,
    pub(crate) arrived_at: MonoTime,
    pub(crate) ends_by_length: bool,
}
