//! The waiting room: where requests wait for an endpoint, one bounded FIFO per model.
//!
//! The order is `admission`'s; this shell gives every ticket a wake-up. Placement binds late: a ticket holds
//! no endpoint, and only the head of a pool is woken to decide anew. The room has a lock, but a request that
//! finds room at once never takes it: one atomic says whether anybody waits at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use aya_admission::{PoolQueue, QueueFull, TicketId};
use aya_domain::{ModelId, MonoTime};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// All pools' queues.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    capacity_per_model: usize,
    waiting: AtomicU32,
    pools: Mutex<BTreeMap<ModelId, Waiters>>,
}

#[derive(Debug)]
struct Waiters {
    queue: PoolQueue,
    wakers: BTreeMap<TicketId, Arc<Notify>>,
}

impl Waiters {
    fn wake_head(&self) {
        if let Some(waker) = self.queue.head().and_then(|head| self.wakers.get(&head)) {
            waker.notify_one();
        }
    }
}

impl WaitingRoom {
    pub(crate) fn new(capacity_per_model: usize) -> Self {
        Self { capacity_per_model, waiting: AtomicU32::new(0), pools: Mutex::new(BTreeMap::new()) }
    }

    /// Whether a newcomer would overtake somebody who waits for the same model.
    pub(crate) fn is_waited_for(&self, model: &ModelId) -> bool {
        self.waiting.load(Ordering::Acquire) != 0 && self.pools.lock().contains_key(model)
    }

    /// Takes the last place in the model's queue.
    pub(crate) fn enter(
        self: &Arc<Self>,
        model: &ModelId,
        now: MonoTime,
        deadline: MonoTime,
    ) -> Result<Ticket, QueueFull> {
        if self.capacity_per_model == 0 {
            // An empty queue would never leave, and models are named by clients.
            return Err(QueueFull { limit: 0 });
        }
        let mut pools = self.pools.lock();
        let waiters = pools.entry(model.clone()).or_insert_with(|| Waiters {
            queue: PoolQueue::new(self.capacity_per_model),
            wakers: BTreeMap::new(),
        });
        let id = waiters.queue.enter(now, deadline)?;
        let waker = Arc::new(Notify::new());
        waiters.wakers.insert(id, Arc::clone(&waker));
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Ok(Ticket { room: Arc::clone(self), model: model.clone(), id, waker })
    }

    /// Room may have appeared: the head of every queue decides anew.
    pub(crate) fn wake_heads(&self) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        for waiters in self.pools.lock().values() {
            waiters.wake_head();
        }
    }

    /// How many wait, per model with a queue.
    pub(crate) fn depths(&self) -> Vec<(ModelId, usize)> {
        self.pools.lock().iter().map(|(model, waiters)| (model.clone(), waiters.queue.len())).collect()
    }

    /// How many wait for one model.
    pub(crate) fn depth(&self, model: &ModelId) -> usize {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return 0;
        }
        self.pools.lock().get(model).map_or(0, |waiters| waiters.queue.len())
    }

    fn leave(&self, model: &ModelId, id: TicketId) {
        let mut pools = self.pools.lock();
        let Some(waiters) = pools.get_mut(model) else { return };
        waiters.queue.leave(id);
        waiters.wakers.remove(&id);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if waiters.wakers.is_empty() {
            pools.remove(model);
        } else {
            waiters.wake_head();
        }
    }
}

/// A place in a queue; dropped, it is free again and the next one is woken.
#[derive(Debug)]
pub(crate) struct Ticket {
    room: Arc<WaitingRoom>,
    model: ModelId,
    id: TicketId,
    waker: Arc<Notify>,
}

impl Ticket {
    pub(crate) fn is_head(&self) -> bool {
        self.room.pools.lock().get(&self.model).is_some_and(|w| w.queue.head() == Some(self.id))
    }

    /// Completes when this ticket heads its queue and room may have appeared.
    pub(crate) async fn woken(&self) {
        self.waker.notified().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.room.leave(&self.model, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str) -> ModelId {
        ModelId::parse(name).unwrap()
    }

    #[tokio::test]
    async fn leaving_wakes_the_next_in_line_and_an_empty_queue_disappears() {
        let room = Arc::new(WaitingRoom::new(2));
        let (now, deadline) = (MonoTime::ZERO, MonoTime::from_millis(1_000));
        let first = room.enter(&model("a"), now, deadline).unwrap();
        let second = room.enter(&model("a"), now, deadline).unwrap();
        assert!(room.enter(&model("a"), now, deadline).is_err(), "the third does not fit");
        assert!(first.is_head() && !second.is_head());
        assert!(room.is_waited_for(&model("a")) && !room.is_waited_for(&model("b")));
        drop(first);
        second.woken().await;
        assert!(second.is_head());
        drop(second);
        assert_eq!((room.depths(), room.depth(&model("a"))), (vec![], 0));
    }

    #[test]
    fn a_room_without_places_remembers_nobody() {
        let room = Arc::new(WaitingRoom::new(0));
        assert!(room.enter(&model("a"), MonoTime::ZERO, MonoTime::ZERO).is_err());
        assert_eq!(room.depths(), []);
    }

    #[tokio::test]
    async fn room_for_one_pool_wakes_the_heads_of_all() {
        let room = Arc::new(WaitingRoom::new(2));
        let a = room.enter(&model("a"), MonoTime::ZERO, MonoTime::ZERO).unwrap();
        let b = room.enter(&model("b"), MonoTime::ZERO, MonoTime::ZERO).unwrap();
        room.wake_heads();
        a.woken().await;
        b.woken().await;
    }
}
