//! Events of GPUs: which ones count, and what they change before the next report comes.

use std::time::Duration;

use aya_domain::{Aged, GpuEvent, GpuEventKind, GpuEvents, MonoTime, NodeId};

use crate::{Effects, Fleet, Notice};

/// An event from before this scheduler is news up to this age: it may have happened while none ran. A former one has
/// dealt with an older one, and an operator may have cleared the GPU since.
const NEWS_FROM_BEFORE: Duration = Duration::from_secs(60);

/// Whether an event is news to a scheduler whose clock began at zero.
fn is_news(event: &Aged<GpuEvent>, received_at: MonoTime) -> bool {
    event.age <= received_at.since(MonoTime::ZERO).max(NEWS_FROM_BEFORE)
}

/// Which events of a start were taken, in whatever order they came: an agent repeats them after a reconnect.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventsSeen {
    last: u64,
    /// Bit n: the event n before the last; as many as an agent keeps.
    before: u64,
}

impl EventsSeen {
    /// Notes an event; false if it was taken before, or is too old to tell.
    fn note(&mut self, sequence: u64) -> bool {
        let ahead = sequence.saturating_sub(self.last);
        if ahead > 0 {
            let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
            (self.last, self.before) = (sequence, self.before.checked_shl(shift).unwrap_or(0) | 1);
            return true;
        }
        let bit = u32::try_from(self.last - sequence).ok().and_then(|behind| 1_u64.checked_shl(behind));
        let is_new = sequence > 0 && bit.is_some_and(|bit| self.before & bit == 0);
        self.before |= bit.unwrap_or(0);
        is_new
    }
}

impl Fleet {
    /// Takes the events of a known start of an agent, each once. Those of a node that never reported, or of a start
    /// that was replaced, are passed over: a FULL report tells what they changed.
    pub(crate) fn take_gpu_events(
        &mut self,
        events: GpuEvents,
        received_at: MonoTime,
        effects: &mut Effects,
    ) {
        let GpuEvents { node: id, boot, events } = events;
        for event in events {
            let Some(node) = self.nodes.get_mut(&id).filter(|node| node.boot == boot) else { return };
            if !node.events_seen.note(event.value.sequence) {
                continue;
            }
            if !is_news(&event, received_at) {
                continue;
            }
            let happened_at = event.received(received_at);
            self.take_gpu_event(&id, &happened_at.value, happened_at.sampled_at, effects);
        }
    }

    /// What one new event changes; `at` is when it happened.
    fn take_gpu_event(&mut self, id: &NodeId, event: &GpuEvent, at: MonoTime, effects: &mut Effects) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if let GpuEventKind::Xid { code } = event.kind
            && node.gpus.note_xid(&event.gpu, code, event.xids)
        {
            node.touched();
        }
        effects.changed = true;
        effects.notices.push(Notice::GpuEvent { node: id.clone(), gpu: event.gpu.clone(), kind: event.kind });
        self.observe_gpu_event(id, event, at, effects);
    }
}
