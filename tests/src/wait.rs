//! Waiting for things to become true, with a deadline and a name for what was waited for.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

/// How long anything may take that is expected to happen; generous, because two slow cores are shared.
pub const PATIENCE: Duration = Duration::from_secs(15);

const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer.
///
/// # Panics
/// After [`PATIENCE`], with `what` was missing and the last reason.
pub async fn until<T, E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let mut last = None;
    let asking = async {
        loop {
            match ask().await {
                Ok(found) => return found,
                Err(reason) => last = Some(reason),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, asking).await;
    found.unwrap_or_else(|_| panic!("waited in vain for: {what}; last seen: {last:?}"))
}

/// The outcome of something that must not take longer than `limit`.
///
/// # Panics
/// If it does.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(limit, work).await;
    done.unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}
