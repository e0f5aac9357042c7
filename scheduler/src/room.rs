//! The waiting room: where requests wait for an endpoint, one bounded queue per model.
//!
//! The order and the turns are `admission`'s; this shell gives every ticket a wake-up. Placement binds late: a
//! ticket holds no endpoint, and only who has the turn decides anew. The room has a lock, but a request that
//! finds room at once never takes it: one atomic says whether anybody waits at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aya_admission::{
    Blocked, Departure, Entered, Entry, FairQueue, QueueFull, QueueRules, Standing, TicketId,
};
use aya_domain::{ModelId, MonoTime, Priority, TenantId};
use aya_observe::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// All pools' queues.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    rules: QueueRules,
    clock: Clock,
    waiting: AtomicU32,
    pools: Mutex<BTreeMap<ModelId, Waiters>>,
}

#[derive(Debug)]
struct Waiters {
    queue: FairQueue,
    wakers: BTreeMap<TicketId, Arc<Notify>>,
}

impl Waiters {
    fn head(&self, now: MonoTime) -> Option<TicketId> {
        self.queue.order(1, now).first().copied()
    }

    /// The new head keeps the timer that looks again.
    fn wake_head(&self, now: MonoTime) {
        if let Some(waker) = self.head(now).and_then(|head| self.wakers.get(&head)) {
            waker.notify_one();
        }
    }

    fn wake_turn(&self) {
        if let Some(waker) = self.queue.turn().and_then(|turn| self.wakers.get(&turn)) {
            waker.notify_one();
        }
    }
}

/// What waits for one model.
#[derive(Debug, Clone)]
pub(crate) struct PoolDepth {
    pub(crate) model: ModelId,
    pub(crate) waiting: [usize; Priority::ALL.len()],
    /// How long the one who came first waits.
    pub(crate) oldest: Duration,
}

impl PoolDepth {
    fn of(model: &ModelId, queue: &FairQueue, now: MonoTime) -> Self {
        let waiting = Priority::ALL.map(|class| queue.len_of(class));
        let oldest = queue.oldest().map(|since| now.since(since)).unwrap_or_default();
        Self { model: model.clone(), waiting, oldest }
    }
}

impl WaitingRoom {
    pub(crate) fn new(rules: QueueRules, clock: Clock) -> Self {
        Self { rules, clock, waiting: AtomicU32::new(0), pools: Mutex::new(BTreeMap::new()) }
    }

    /// Whether somebody waits for the same model: then a newcomer takes its place in the order before it decides.
    pub(crate) fn is_waited_for(&self, model: &ModelId) -> bool {
        self.waiting.load(Ordering::Acquire) != 0 && self.pools.lock().contains_key(model)
    }

    /// Takes a place in the model's queue.
    pub(crate) fn enter(self: &Arc<Self>, model: &ModelId, entry: &Entry) -> Result<Ticket, QueueFull> {
        if self.rules.limit == 0 {
            // An empty queue would never leave, and models are named by clients.
            return Err(QueueFull { limit: 0 });
        }
        let mut pools = self.pools.lock();
        let waiters = pools
            .entry(model.clone())
            .or_insert_with(|| Waiters { queue: FairQueue::new(self.rules), wakers: BTreeMap::new() });
        let Entered { ticket: id, position, displaced } = waiters.queue.enter(entry, self.clock.now())?;
        let waker = Arc::new(Notify::new());
        waiters.wakers.insert(id, Arc::clone(&waker));
        if let Some(displaced) = displaced.and_then(|displaced| waiters.wakers.get(&displaced)) {
            // It finds that it does not wait any more.
            displaced.notify_one();
        }
        waiters.wake_turn();
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Ok(Ticket { room: Arc::clone(self), model: model.clone(), id, position, waker, placed: false })
    }

    /// Room may have appeared: in every queue those within reach look for it, one after the other.
    pub(crate) fn wake_heads(&self) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return;
        }
        let now = self.clock.now();
        for waiters in self.pools.lock().values_mut() {
            waiters.queue.wake(now);
            waiters.wake_turn();
        }
    }

    /// How many wait, per model with a queue.
    pub(crate) fn depths(&self) -> Vec<PoolDepth> {
        let (now, pools) = (self.clock.now(), self.pools.lock());
        pools.iter().map(|(model, waiters)| PoolDepth::of(model, &waiters.queue, now)).collect()
    }

    /// The first `most` who wait for each model, in order, with how many there are.
    pub(crate) fn standings(&self, most: usize) -> Vec<(PoolDepth, Vec<Standing>)> {
        let (now, pools) = (self.clock.now(), self.pools.lock());
        let one = |(model, waiters): (&ModelId, &Waiters)| {
            (PoolDepth::of(model, &waiters.queue, now), waiters.queue.standings(most, now))
        };
        pools.iter().map(one).collect()
    }

    /// Where a newcomer would stand in the model's queue, and the seconds until it would be placed if that is known.
    pub(crate) fn outlook(
        &self,
        model: &ModelId,
        class: Priority,
        tenant: &TenantId,
    ) -> (usize, Option<f64>) {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return (0, None);
        }
        let pools = self.pools.lock();
        let Some(waiters) = pools.get(model) else { return (0, None) };
        let position = waiters.queue.position_of_newcomer(class, tenant);
        (position, waiters.queue.wait_s(position, self.clock.now()))
    }

    /// A ticket leaves; its dropped guard says so.
    fn leave(&self, model: &ModelId, id: TicketId, departure: Departure) {
        let mut pools = self.pools.lock();
        let Some(waiters) = pools.get_mut(model) else { return };
        let now = self.clock.now();
        waiters.queue.leave(id, departure, now);
        waiters.wakers.remove(&id);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        if waiters.wakers.is_empty() {
            pools.remove(model);
        } else {
            waiters.wake_turn();
            waiters.wake_head(now);
        }
    }
}

/// How a ticket stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stands {
    /// It may look for room.
    Turn,
    /// It is first, and has looked.
    Head,
    Waits,
    /// It had to go for a higher class or a shorter line.
    Displaced,
}

/// A place in a queue; dropped, it is free again and the next one is woken.
#[derive(Debug)]
pub(crate) struct Ticket {
    room: Arc<WaitingRoom>,
    model: ModelId,
    id: TicketId,
    /// How many stood before it when it came.
    pub(crate) position: usize,
    waker: Arc<Notify>,
    placed: bool,
}

impl Ticket {
    pub(crate) fn stands(&self) -> Stands {
        match self.room.pools.lock().get(&self.model) {
            Some(waiters) if !waiters.queue.holds(self.id) => Stands::Displaced,
            Some(waiters) if waiters.queue.turn() == Some(self.id) => Stands::Turn,
            Some(waiters) if waiters.head(self.room.clock.now()) == Some(self.id) => Stands::Head,
            Some(_) | None => Stands::Waits,
        }
    }

    /// It has looked and found no room: the next one may look.
    pub(crate) fn pass(&self, blocked: Blocked) {
        let now = self.room.clock.now();
        let mut pools = self.room.pools.lock();
        let Some(waiters) = pools.get_mut(&self.model) else { return };
        waiters.queue.pass(self.id, blocked, now);
        waiters.wake_turn();
    }

    /// Looks again although nothing is known to have changed: a pause may have ended by itself.
    pub(crate) fn look_again(&self) {
        let now = self.room.clock.now();
        let mut pools = self.room.pools.lock();
        let Some(waiters) = pools.get_mut(&self.model) else { return };
        waiters.queue.wake(now);
        waiters.wake_turn();
    }

    /// Completes when it is this ticket's turn, or it was displaced.
    pub(crate) async fn woken(&self) {
        self.waker.notified().await;
    }

    /// It has found room: its tenant pays for the place.
    pub(crate) fn placed(mut self) {
        self.placed = true;
        self.room.leave(&self.model, self.id, Departure::Placed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.placed {
            self.room.leave(&self.model, self.id, Departure::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use aya_domain::Tokens;

    use super::*;

    fn model(name: &str) -> ModelId {
        ModelId::parse(name).unwrap()
    }

    fn entry(class: Priority) -> Entry {
        let deadline = MonoTime::from_millis(3_600_000);
        Entry { class, tenant: TenantId::default(), weight: 1, cost: Tokens(1), deadline }
    }

    fn room(limit: usize) -> Arc<WaitingRoom> {
        Arc::new(WaitingRoom::new(QueueRules { limit, ..QueueRules::DEFAULT }, Clock::start()))
    }

    #[tokio::test]
    async fn leaving_wakes_the_next_in_line_and_an_empty_queue_disappears() {
        let room = room(2);
        let standard = entry(Priority::Standard);
        let first = room.enter(&model("a"), &standard).unwrap();
        let second = room.enter(&model("a"), &standard).unwrap();
        assert!(room.enter(&model("a"), &standard).is_err(), "the third does not fit");
        assert_eq!((first.stands(), second.stands(), second.position), (Stands::Turn, Stands::Waits, 1));
        assert!(room.is_waited_for(&model("a")) && !room.is_waited_for(&model("b")));
        first.placed();
        second.woken().await;
        assert_eq!(second.stands(), Stands::Turn);
        drop(second);
        assert!(room.depths().is_empty() && !room.is_waited_for(&model("a")));
    }

    #[tokio::test]
    async fn who_finds_no_room_wakes_the_next_and_who_is_displaced_is_told() {
        let room = room(2);
        let first = room.enter(&model("a"), &entry(Priority::Batch)).unwrap();
        let second = room.enter(&model("a"), &entry(Priority::Batch)).unwrap();
        first.pass(Blocked::Full);
        assert_eq!(first.stands(), Stands::Head);
        second.woken().await;
        assert_eq!(second.stands(), Stands::Turn);
        let third = room.enter(&model("a"), &entry(Priority::Critical)).unwrap();
        second.woken().await;
        third.woken().await;
        assert_eq!((second.stands(), third.stands()), (Stands::Displaced, Stands::Turn));
        drop((first, second, third));
        assert!(room.depths().is_empty());
    }

    #[test]
    fn a_room_without_places_remembers_nobody() {
        let room = room(0);
        assert!(room.enter(&model("a"), &entry(Priority::Standard)).is_err());
        assert!(room.depths().is_empty());
    }

    #[tokio::test]
    async fn room_for_one_pool_wakes_the_heads_of_all() {
        let room = room(2);
        let tickets = ["a", "b"].map(|name| room.enter(&model(name), &entry(Priority::Batch)).unwrap());
        for ticket in &tickets {
            ticket.woken().await;
            ticket.pass(Blocked::NotReady);
        }
        room.wake_heads();
        for ticket in &tickets {
            ticket.woken().await;
        }
    }
}
