//! Requests to engines that must not lose their client ([`AbortPolicy::Drain`]): what the client no longer waits for is
//! read to its end, and the lease is held until then, because the engine works until then.
//!
//! An attempt at such an engine runs as a task of its own, so that nothing which drops the client's connection drops
//! the engine's. The tasks belong to the core that accepted the request; its accept loop waits for them when it ends,
//! at most until the scheduler cuts open requests off. Their own deadlines are those of the request.
//!
//! [`AbortPolicy::Drain`]: aya_domain::AbortPolicy::Drain

use std::cell::RefCell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya_proxy::{ApiError, ResponseBody};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::account::Account;
use super::place::Placed;
use super::relay::{self, AttemptEnd};
use super::sent::Upstream;
use crate::http::respond;
use crate::ledger::Lease;

thread_local! {
    static CARRIED: RefCell<JoinSet<()>> = RefCell::default();
}

fn carry(work: impl Future<Output = ()> + Send + 'static) {
    // Gone only while the thread ends, and then nothing can be carried any further.
    let _ = CARRIED.try_with(|tasks| {
        let mut tasks = tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(work);
    });
}

/// Until nothing is carried on this core any more.
pub(crate) async fn all_ended() {
    loop {
        let mut tasks = CARRIED.take();
        if tasks.is_empty() {
            return;
        }
        while tasks.join_next().await.is_some() {}
    }
}

/// One attempt that outlives its client. Its account then ends as the client's leaving when the attempt ends.
pub(super) async fn attempt(up: Upstream<'_>, mut account: Account, placed: Placed) -> AttemptEnd {
    let client_gone = Arc::new(AtomicBool::new(false));
    account.outlives_client(Arc::clone(&client_gone));
    let (shared, prepared, patience) = (Arc::clone(up.shared), up.prepared.clone(), up.patience);
    let (mut answer, answered) = oneshot::channel();
    carry(async move {
        let up = Upstream { shared: &shared, prepared: &prepared, patience };
        let mut attempt = pin!(relay::attempt_once(up, account, placed));
        let end = tokio::select! {
            biased;
            end = attempt.as_mut() => end,
            () = answer.closed() => {
                client_gone.store(true, Ordering::Relaxed);
                attempt.await
            }
        };
        // A stream that nobody takes is dropped here, and read on.
        drop(answer.send(end));
    });
    answered.await.unwrap_or_else(|_| {
        // It panicked, or the thread is ending; its account has been closed by Drop.
        let error = ApiError::new(500, "internal_error", "the attempt was given up");
        AttemptEnd::Answered(respond::error(&error))
    })
}

/// Reads a stream that has lost its client, until it ends or the request's time is over.
pub(super) fn read_on(mut upstream: ResponseBody, lease: Lease, until: Instant) {
    carry(async move {
        let read = async { while let Ok(Some(_)) = upstream.chunk().await {} };
        // Whoever is still not done then is cut off, as any request is.
        let _ = timeout_at(until, read).await;
        drop(upstream);
        drop(lease);
    });
}
