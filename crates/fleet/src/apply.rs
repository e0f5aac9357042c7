//! What each event does; reports have their own file.

use aya_domain::{EndpointId, Freshness, MonoTime, NodeId};

use crate::{Effects, Event, Fleet, Notice, OwnInFlight, Target};

impl Fleet {
    /// Takes one event. `now` never goes back; an event's own time lies at or before it.
    pub fn apply(&mut self, event: Event, now: MonoTime) -> Effects {
        let mut effects = Effects { notices: std::mem::take(&mut self.pending), ..Effects::default() };
        match event {
            Event::Report { report, received_at } => self.ingest(*report, received_at.min(now), &mut effects),
            Event::Disconnected { node, at } => self.disconnect(node, at, &mut effects),
            Event::GpuEvents { events, received_at } => {
                self.take_gpu_events(events, received_at.min(now), &mut effects);
            }
            Event::Drain(target) => self.drain(target, &mut effects),
            Event::Undrain(target) => self.undrain(target, &mut effects),
            Event::ClearGpu(gpu) => effects.unknown_target = !self.clear_gpu(&gpu, now, &mut effects),
            Event::OwnLoad { at, loads } => effects.changed |= self.note_own(at.min(now), &loads),
            Event::Outcomes { at, all } => self.take_outcomes(at.min(now), all, &mut effects),
            Event::Probed { endpoint, ok } => self.take_probe(&endpoint, ok, now, &mut effects),
            Event::Steps { steps } => self.take_steps(&steps),
            Event::Tick => self.tick(now, &mut effects),
        }
        effects
    }

    fn disconnect(&mut self, id: NodeId, heard_at: MonoTime, effects: &mut Effects) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.connected && node.last_report_at <= heard_at {
            node.connected = false;
            node.touched();
            effects.changed = true;
            effects.notices.push(Notice::NodeDisconnected { node: id });
        }
    }

    fn knows(&self, target: &Target) -> bool {
        match target {
            Target::Node(id) => self.nodes.contains_key(id),
            Target::Endpoint(id) => self.endpoints.contains_key(id),
        }
    }

    fn drain(&mut self, target: Target, effects: &mut Effects) {
        let max = self.params.drains_max;
        if self.drained.contains(&target) {
            return;
        }
        if !self.knows(&target) {
            effects.unknown_target = true;
            effects.notices.push(Notice::UnknownTarget { target });
        } else if self.drained.len() >= max {
            effects.drain_refused = true;
            effects.notices.push(Notice::DrainLimit { target, max });
        } else {
            self.drained.insert(target.clone());
            effects.changed = true;
            effects.notices.push(Notice::Drained { target });
        }
    }

    fn undrain(&mut self, target: Target, effects: &mut Effects) {
        if self.drained.remove(&target) {
            effects.changed = true;
            effects.notices.push(Notice::Undrained { target });
        } else if !self.knows(&target) {
            effects.unknown_target = true;
            effects.notices.push(Notice::UnknownTarget { target });
        }
    }

    fn note_own(&mut self, at: MonoTime, loads: &[(EndpointId, OwnInFlight)]) -> bool {
        let mut changed = false;
        for (id, own) in loads {
            if let Some(endpoint) = self.endpoints.get_mut(id) {
                changed |= endpoint.note_own(at, *own, &self.params);
            }
        }
        changed
    }

    fn tick(&mut self, now: MonoTime, effects: &mut Effects) {
        let mut silent_for_long = Vec::new();
        for node in self.nodes.values_mut() {
            let freshness = node.freshness(now, &self.params);
            let silent = now.since(node.last_report_at);
            if freshness != node.told_freshness {
                node.told_freshness = freshness;
                effects.changed = true;
                let id = node.id.clone();
                effects.notices.push(match freshness {
                    Freshness::Fresh => Notice::NodeFresh { node: id },
                    Freshness::Stale => Notice::NodeStale { node: id, silent },
                    Freshness::Suspect => Notice::NodeSuspect { node: id, silent },
                });
            }
            if silent >= self.params.forget_after {
                silent_for_long.push(node.id.clone());
            }
        }
        for id in silent_for_long {
            self.forget(&id, effects);
        }
        self.tick_health(now, effects);
        effects.changed |= self.apply_learned(now);
        self.remove_gone(effects);
    }

    /// Removes a silent node, unless requests of ours still run there.
    fn forget(&mut self, id: &NodeId, effects: &mut Effects) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.members.iter().any(|member| self.is_used(member)) {
            return;
        }
        if let Some(node) = self.nodes.remove(id) {
            for member in &node.members {
                if let Some(endpoint) = self.endpoints.remove(member) {
                    self.twins.remove(member);
                    self.forget_learned(&endpoint);
                }
            }
        }
        self.membership_changed();
        effects.changed = true;
        effects.notices.push(Notice::NodeForgotten { node: id.clone() });
    }

    fn is_used(&self, id: &EndpointId) -> bool {
        self.endpoints.get(id).is_some_and(|endpoint| endpoint.own.latest().in_flight > 0)
    }

    /// Removes the endpoints that no agent names and no request of ours uses any more.
    pub(crate) fn remove_gone(&mut self, effects: &mut Effects) {
        let done =
            |endpoint: &crate::endpoint::EndpointState| endpoint.gone && endpoint.own.latest().in_flight == 0;
        let ids: Vec<_> =
            self.endpoints.iter().filter(|(_, endpoint)| done(endpoint)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if let Some(endpoint) = self.endpoints.remove(&id) {
                self.twins.remove(&id);
                self.forget_learned(&endpoint);
                if let Some(node) = self.nodes.get_mut(&endpoint.info.node) {
                    node.members.remove(&id);
                }
            }
            self.membership_changed();
            effects.changed = true;
        }
    }
}
