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
            if event.value.sequence <= node.events_seen {
                continue;
            }
            node.events_seen = event.value.sequence;
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
