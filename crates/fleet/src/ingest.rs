//! Reports: which ones count, and what they change.

use aya_domain::{EndpointId, EngineReport, Freshness, Health, MonoTime, NodeId, Report, ReportKind};

use crate::endpoint::{Changed, EndpointState};
use crate::node::NodeState;
use crate::{Effects, Fleet, Ignored, Notice, Refused};

impl Fleet {
    pub(crate) fn ingest(&mut self, report: Report, received_at: MonoTime, effects: &mut Effects) {
        if !self.admits(&report, received_at, effects) || !self.has_room_for(&report, effects) {
            return;
        }
        effects.changed = true;
        let full = report.kind == ReportKind::Full;
        let id = report.node.clone();
        let anew = self.nodes.get(&id).is_some_and(|node| node.boot != report.boot);
        let engines = self.take_node(report, received_at, effects);
        self.observe_gpus(&id, (full, anew), received_at, effects);
        if full {
            self.leave_unnamed(&id, &engines, effects);
        }
        for engine in engines {
            self.take_engine(&id, engine, received_at, effects);
        }
        self.look_at_gpus(&id);
        self.settle_health(effects);
        if full {
            self.remove_gone(effects);
        }
    }

    /// The rules of boot and sequence.
    fn admits(&mut self, report: &Report, received_at: MonoTime, effects: &mut Effects) -> bool {
        let full = report.kind == ReportKind::Full;
        let node = report.node.clone();
        let Some(known) = self.nodes.get_mut(&report.node) else {
            return full || ask_for_full(node, effects);
        };
        if report.boot != known.boot {
            if known.is_overtaken(report.boot, received_at, &self.params) {
                if known.count_overtaken(received_at, &self.params) {
                    effects.notices.push(Notice::DuplicateNodeId { node: node.clone() });
                }
                return ignore(node, Ignored::OldBoot, effects);
            }
            return full || ask_for_full(node, effects);
        }
        if report.sequence <= known.sequence {
            let reason = Ignored::OldSequence { got: report.sequence, last: known.sequence };
            return ignore(node, reason, effects);
        }
        let missing = report.sequence - known.sequence - 1;
        if missing > 0 && !full {
            // What it names is still good: engines and GPUs come whole.
            effects.resend_full = true;
            effects.notices.push(Notice::SequenceGap { node, missing });
        }
        true
    }

    fn has_room_for(&self, report: &Report, effects: &mut Effects) -> bool {
        let (nodes_max, endpoints_max) = (self.params.nodes_max, self.params.endpoints_max);
        let refused = if !self.nodes.contains_key(&report.node) && self.nodes.len() >= nodes_max {
            Refused::NodeLimit { max: nodes_max }
        } else {
            let new = report.engines.iter().filter(|engine| !self.endpoints.contains_key(&engine.id)).count();
            if self.endpoints.len().saturating_add(new) <= endpoints_max {
                return true;
            }
            Refused::EndpointLimit { max: endpoints_max }
        };
        effects.notices.push(Notice::ReportRefused { node: report.node.clone(), reason: refused });
        false
    }

    /// Takes everything but the engines, which it hands back.
    fn take_node(
        &mut self,
        report: Report,
        received_at: MonoTime,
        effects: &mut Effects,
    ) -> Vec<EngineReport> {
        let Report { node: id, boot, sequence, kind, agent, gpus, engines } = report;
        let full = kind == ReportKind::Full;
        if let Some(node) = self.nodes.get_mut(&id) {
            if node.boot != boot {
                // One that comes back repeats the events that were passed over meanwhile.
                effects.resend_full |= node.reboot(boot);
                effects.notices.push(Notice::NodeRebooted { node: id.clone() });
            }
            if node.told_freshness != Freshness::Fresh {
                node.told_freshness = Freshness::Fresh;
                effects.notices.push(Notice::NodeFresh { node: id.clone() });
            }
            let were_known = !node.gpus.all().is_empty();
            let before = std::mem::replace(&mut node.agent, agent).gpu_error;
            node.sequence = sequence;
            node.connected = true;
            node.last_report_at = received_at.max(node.last_report_at);
            node.gpus.apply(gpus, full, received_at);
            node.touched();
            tell_gpus(node, before.as_deref(), were_known, effects);
        } else {
            effects.notices.push(Notice::NodeJoined { node: id.clone() });
            let mut node = NodeState::new(id.clone(), boot, sequence, agent, received_at);
            node.gpus.apply(gpus, full, received_at);
            tell_gpus(&node, None, false, effects);
            self.nodes.insert(id, node);
        }
        engines
    }

    /// A FULL report leaves no other endpoints than those it names.
    fn leave_unnamed(&mut self, node: &NodeId, named: &[EngineReport], effects: &mut Effects) {
        let Some(node) = self.nodes.get(node) else { return };
        let mut left = false;
        for member in node.members.iter().filter(|member| !named.iter().any(|engine| engine.id == **member)) {
            if let Some(endpoint) = self.endpoints.get_mut(member).filter(|endpoint| !endpoint.gone) {
                endpoint.gone = true;
                left = true;
                effects.notices.push(Notice::EndpointGone { endpoint: member.clone() });
            }
        }
        if left {
            self.membership_changed();
        }
    }

    fn take_engine(
        &mut self,
        node: &NodeId,
        engine: EngineReport,
        received_at: MonoTime,
        effects: &mut Effects,
    ) {
        let id = engine.id.clone();
        if !self.owns(node, &id, received_at, effects) {
            return;
        }
        let Some(gpus) = self.nodes.get(node).map(|node| &node.gpus) else { return };
        let changed = if let Some(endpoint) = self.endpoints.get_mut(&id) {
            let changed = endpoint.apply(node, engine, gpus, received_at, &self.params);
            self.models_dirty |= changed.models;
            changed
        } else {
            let endpoint = EndpointState::new(node, engine, gpus, received_at, &self.params);
            self.endpoints.insert(id.clone(), endpoint);
            effects.notices.push(Notice::EndpointJoined { endpoint: id.clone(), node: node.clone() });
            if let Some(node) = self.nodes.get_mut(node) {
                node.members.insert(id.clone());
            }
            self.membership_changed();
            Changed { models: true, health: true }
        };
        self.note_address(&id, effects);
        let Some(endpoint) = self.endpoints.get(&id) else { return };
        if changed.models {
            self.models.learn(&endpoint.info.models, self.params.models_max, received_at);
        }
        if changed.health {
            effects.notices.extend(health_notice(id, &endpoint.health));
        }
    }

    /// Tells once of two endpoints at one address. As many addresses are remembered as there may be endpoints.
    fn note_address(&mut self, id: &EndpointId, effects: &mut Effects) {
        let Some(url) = self.endpoints.get(id).map(|endpoint| &endpoint.info.url) else { return };
        let known = self.addresses.get(url);
        if known == Some(id) {
            return;
        }
        let lives_there = |other: &&EndpointId| {
            self.endpoints.get(*other).is_some_and(|endpoint| !endpoint.gone && endpoint.info.url == *url)
        };
        if let Some(other) = known.filter(lives_there) {
            let (endpoint, other, url) = (id.clone(), other.clone(), url.clone());
            if self.twins.insert(endpoint.clone()) {
                effects.notices.push(Notice::SameEngine { endpoint, other, url });
            }
            return;
        }
        let url = url.clone();
        self.twins.remove(id);
        if self.addresses.len() >= self.params.endpoints_max {
            let endpoints = &self.endpoints;
            self.addresses.retain(|url, id| endpoints.get(id).is_some_and(|of| of.info.url == *url));
        }
        self.addresses.insert(url, id.clone());
    }

    /// Whether this node may speak for the endpoint. The first owner keeps it while it lives; from a silent owner, or
    /// one that no longer names it, it moves.
    fn owns(&mut self, node: &NodeId, id: &EndpointId, now: MonoTime, effects: &mut Effects) -> bool {
        let Some(endpoint) = self.endpoints.get(id) else { return true };
        if endpoint.info.node == *node {
            return true;
        }
        let owner = endpoint.info.node.clone();
        let alive = self
            .nodes
            .get(&owner)
            .is_some_and(|node| node.freshness(now, &self.params) != Freshness::Suspect);
        if alive && !endpoint.gone {
            let endpoint = id.clone();
            effects.notices.push(Notice::DuplicateEndpointId { endpoint, owner, ignored: node.clone() });
            return false;
        }
        if let Some(owner) = self.nodes.get_mut(&owner) {
            owner.members.remove(id);
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.members.insert(id.clone());
        }
        effects.notices.push(Notice::EndpointMoved { endpoint: id.clone(), from: owner, to: node.clone() });
        true
    }

    fn look_at_gpus(&mut self, node: &NodeId) {
        let Some(node) = self.nodes.get(node) else { return };
        for member in &node.members {
            if let Some(endpoint) = self.endpoints.get_mut(member) {
                endpoint.look_at_gpus(&node.gpus, node.health.lost().next().is_some());
            }
        }
    }
}

fn ignore(node: NodeId, reason: Ignored, effects: &mut Effects) -> bool {
    effects.notices.push(Notice::ReportIgnored { node, reason });
    false
}

fn ask_for_full(node: NodeId, effects: &mut Effects) -> bool {
    effects.resend_full = true;
    ignore(node, Ignored::NoFullYet, effects)
}

/// An error that is over is good news only where GPUs are there to be read: an agent may also have given up looking.
fn tell_gpus(node: &NodeState, before: Option<&str>, were_known: bool, effects: &mut Effects) {
    let id = node.id.clone();
    match (before, node.agent.gpu_error.as_deref()) {
        (Some(_), None) if !node.gpus.all().is_empty() => {
            effects.notices.push(Notice::GpusBack { node: id, again: were_known });
        }
        (None, Some(reason)) => {
            effects.notices.push(Notice::GpusLost { node: id, reason: reason.to_owned() });
        }
        (Some(_), Some(_) | None) | (None, None) => {}
    }
}

fn health_notice(endpoint: EndpointId, health: &Health) -> Option<Notice> {
    match health {
        Health::Unknown => None,
        Health::Healthy | Health::Degraded { .. } => Some(Notice::EngineUp { endpoint }),
        Health::Unhealthy { reason } => Some(Notice::EngineDown { endpoint, reason: reason.clone() }),
    }
}
