//! Waking the connections of this core when something changes that they wait by: the scheduler ends, memory is short.
//!
//! A connection reads those states for nothing, as atomics, whenever it is polled; but an idle one is not polled. So each
//! leaves its waker here once, with its core's thread. No lock, and nothing to be done per request or per piece.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

thread_local! {
    static CONNECTIONS: RefCell<Registry> = RefCell::new(Registry::default());
}

/// A task that is woken by [`call_all`], as long as this lives.
#[derive(Debug)]
pub(crate) struct Attention(u64);

impl Attention {
    /// For the running task, which must stay on this thread.
    pub(crate) async fn of_this_task() -> Self {
        poll_fn(|cx| {
            CONNECTIONS.with_borrow_mut(|all| {
                let at = all.next;
                all.next += 1;
                all.wakers.insert(at, cx.waker().clone());
                Poll::Ready(Self(at))
            })
        })
        .await
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        // Where the thread is ending its registry is gone already.
        let _ = CONNECTIONS.try_with(|all| all.borrow_mut().wakers.remove(&self.0));
    }
}

/// Wakes every connection of this thread.
pub(crate) fn call_all() {
    CONNECTIONS.with_borrow(|all| all.wakers.values().for_each(Waker::wake_by_ref));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    #[tokio::test]
    async fn those_who_live_are_woken_each_time_and_nobody_else() {
        let polls = Rc::new(Cell::new(0));
        let counter = Rc::clone(&polls);
        let local = LocalSet::new();
        let task = local.spawn_local(async move {
            let _attention = Attention::of_this_task().await;
            poll_fn::<(), _>(|_| {
                counter.set(counter.get() + 1);
                Poll::Pending
            })
            .await;
        });
        local
            .run_until(async {
                for expect in 1..4 {
                    for _ in 0..3 {
                        tokio::task::yield_now().await;
                    }
                    assert_eq!(polls.get(), expect);
                    call_all();
                }
                task.abort();
                let _ = task.await;
            })
            .await;
        CONNECTIONS.with_borrow(|all| assert!(all.wakers.is_empty()));
    }
}
