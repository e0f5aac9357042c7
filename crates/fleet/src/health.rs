//! GPU health that acts: rules over readings and events of GPUs, and what they do to the endpoints above.
//!
//! Rules are data ([`Rules`]), each GPU has a state machine (`state`), and the brake keeps causes that many GPUs share
//! from emptying a pool. Silence is no evidence: nothing is raised, ended or taken away because a node is not heard.

mod before;
mod brake;
mod notice;
mod rules;
mod signals;
mod state;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use aya_domain::{
    Action, Condition, EndpointId, Freshness, GpuEvent, GpuEventKind, GpuInfo, GpuSourceKind, GpuUuid,
    Health, ModelId, MonoTime, NodeId, Ratio,
};

pub use notice::HealthNotice;
pub use rules::{REPEATS_WITHIN, Rule, RuleSettings, Rules, XidRule};
pub use state::EndedBy;
pub use table::{XIDS, XidClass, XidRow, xid};

use crate::endpoint::EndpointState;
use crate::node::NodeState;
use crate::{Effects, Fleet, Notice};
use brake::{BRAKED_SPEED, Member, let_go};
use state::{Change, GpuHealth, Raw};

/// The GPUs of one node that were ever named and not taken away: a lost one stays.
#[derive(Debug, Default)]
pub(crate) struct NodeHealth(BTreeMap<GpuUuid, (GpuInfo, GpuHealth)>);

impl NodeHealth {
    pub(crate) fn lost(&self) -> impl Iterator<Item = &GpuInfo> {
        self.0.values().filter(|(_, health)| health.lost.is_some()).map(|(info, _)| info)
    }

    fn is_sick(&self) -> bool {
        self.0.values().any(|(_, health)| !health.is_quiet())
    }

    /// What is wrong beneath an engine on these GPUs. Where nobody said which, it is the node's only one, or any of
    /// several that has failed for good.
    fn beneath<'a>(&'a self, gpus: &'a [GpuUuid]) -> impl Iterator<Item = Raw> + 'a {
        let only = self.0.len() == 1;
        let several = gpus.len() > 1;
        let of = self.0.iter().filter(move |(uuid, _)| gpus.is_empty() || gpus.contains(uuid));
        let certain = move |raw: &&Raw| !gpus.is_empty() || only || raw.condition.action == Action::Fail;
        of.flat_map(|(_, (_, health))| &health.raw).filter(certain).cloned().map(move |mut raw| {
            if raw.several_gpus_only && !several {
                raw.condition.action = Action::Note;
            }
            raw
        })
    }
}

/// The changes of one GPU as news.
fn tell(node: &NodeId, gpu: &GpuUuid, changes: Vec<Change>, effects: &mut Effects) {
    for change in changes {
        let notice = HealthNotice::of(node, gpu, change);
        if !notice.is_normal() {
            effects.notices.push(Notice::Health(notice));
        }
    }
}

impl NodeState {
    /// Takes what the last report said of the node's GPUs.
    fn observe(&mut self, full: bool, anew: bool, rules: &Rules, now: MonoTime, effects: &mut Effects) {
        if full {
            self.find_lost(anew, rules, now, effects);
        }
        for gpu in self.gpus.all() {
            let known = self.health.0.entry(gpu.info.uuid.clone());
            let (info, health) = known.or_insert_with(|| (gpu.info.clone(), GpuHealth::default()));
            if *info != gpu.info {
                info.clone_from(&gpu.info);
            }
            if anew {
                health.forget_counts();
            }
            if let Some(reading) = &gpu.sample {
                let mut changes = Vec::new();
                health.observe(info, reading, rules, &mut changes);
                tell(&self.id, &gpu.info.uuid, changes, effects);
            }
        }
    }

    /// A FULL report names every GPU: what it leaves out is lost, unless it was cut into slices or was one. A new start
    /// of the agent may have been given other GPUs. An empty list is a failed collection.
    fn find_lost(&mut self, anew: bool, rules: &Rules, now: MonoTime, effects: &mut Effects) {
        let named = self.gpus.all();
        if named.is_empty() {
            return;
        }
        let recut = |uuid: &GpuUuid| {
            named.iter().any(|gpu| gpu.info.mig.as_ref().is_some_and(|mig| mig.parent == *uuid))
        };
        let node = &self.id;
        self.health.0.retain(|uuid, (info, health)| {
            if health.lost.is_some() || named.iter().any(|gpu| gpu.info.uuid == *uuid) {
                return true;
            }
            let lost = !anew && info.mig.is_none() && !recut(uuid);
            if lost {
                let mut changes = Vec::new();
                health.lose(now, rules, &mut changes);
                tell(node, uuid, changes, effects);
            }
            lost
        });
    }

    /// Time passed, or the driver fell silent.
    fn tick_health(&mut self, rules: &Rules, now: MonoTime, fresh: bool, effects: &mut Effects) {
        let blind = self.agent.gpu_error.is_some() && self.agent.gpu_source != GpuSourceKind::None;
        for (uuid, (_, health)) in &mut self.health.0 {
            let mut changes = Vec::new();
            if fresh && health.lost.is_none() {
                let sampled_at = self.gpus.sampled_at(uuid);
                let silent = sampled_at.filter(|_| blind).map(|at| now.since(at));
                health.stalled(silent, now, rules, &mut changes);
            }
            if health.waits() {
                health.tick(now, rules, &mut changes);
            }
            tell(&self.id, uuid, changes, effects);
        }
    }

    /// Writes the conditions into the node's GPUs; whether they are others than before.
    fn settle_health(&mut self, rules: &Rules, now: MonoTime) -> bool {
        let mut changed = false;
        let lost: Vec<GpuInfo> = self.health.lost().cloned().collect();
        lost.into_iter().for_each(|info| self.gpus.keep(info));
        for (uuid, (_, health)) in &mut self.health.0 {
            changed |= health.settle(uuid, rules, now);
            let conditions: Vec<Condition> = health.raw.iter().map(|raw| raw.condition.clone()).collect();
            self.gpus.set_conditions(uuid, conditions);
        }
        if changed {
            self.touched();
        }
        changed
    }
}

impl Fleet {
    /// After a report was taken: `anew` if it came from another start of the agent.
    pub(crate) fn observe_gpus(
        &mut self,
        id: &NodeId,
        (full, anew): (bool, bool),
        at: MonoTime,
        effects: &mut Effects,
    ) {
        if !self.rules.enabled {
            return;
        }
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.observe(full, anew, &self.rules, at, effects);
        self.health_dirty |= node.settle_health(&self.rules, at) || node.health.is_sick();
    }

    /// An event of a GPU that no report has told yet.
    pub(crate) fn observe_gpu_event(
        &mut self,
        id: &NodeId,
        event: &GpuEvent,
        at: MonoTime,
        effects: &mut Effects,
    ) {
        let rules = &self.rules;
        let Some(node) = self.nodes.get_mut(id).filter(|_| rules.enabled) else { return };
        let Some((_, health)) = node.health.0.get_mut(&event.gpu) else { return };
        let mut changes = Vec::new();
        match event.kind {
            GpuEventKind::Xid { code } => health.note_xid(code, event.xids, at, rules, &mut changes),
            GpuEventKind::EccUncorrected => health.note_ecc(at, rules, &mut changes),
            GpuEventKind::Recovery { action } => health.note_recovery(action, at, rules, &mut changes),
            GpuEventKind::Lost => health.lose(at, rules, &mut changes),
        }
        tell(id, &event.gpu, changes, effects);
        self.health_dirty |= node.settle_health(&self.rules, at);
        self.settle_health(effects);
    }

    /// Probations, notes and stalled drivers.
    pub(crate) fn tick_health(&mut self, now: MonoTime, effects: &mut Effects) {
        if !self.rules.enabled {
            return;
        }
        for node in self.nodes.values_mut() {
            if node.health.is_sick() || node.agent.gpu_error.is_some() {
                let fresh = node.freshness(now, &self.params) == Freshness::Fresh;
                node.tick_health(&self.rules, now, fresh, effects);
                self.health_dirty |= node.settle_health(&self.rules, now);
            }
        }
        self.settle_health(effects);
    }

    /// An operator says that a GPU is good again; false if it is not known.
    pub(crate) fn clear_gpu(&mut self, gpu: &GpuUuid, now: MonoTime, effects: &mut Effects) -> bool {
        let mut found = false;
        for node in self.nodes.values_mut() {
            let Some((_, health)) = node.health.0.get_mut(gpu) else { continue };
            found = true;
            let mut changes = Vec::new();
            health.clear(now, &self.rules, &mut changes);
            tell(&node.id, gpu, changes, effects);
            self.health_dirty |= node.settle_health(&self.rules, now);
        }
        self.settle_health(effects);
        found
    }

    /// Brings the GPUs' conditions to the endpoints above them, as far as the brake allows.
    pub(crate) fn settle_health(&mut self, effects: &mut Effects) {
        if !std::mem::take(&mut self.health_dirty) {
            return;
        }
        let mut all: Vec<Vec<Raw>> = Vec::with_capacity(self.endpoints.len());
        for endpoint in self.endpoints.values() {
            let node = self.nodes.get(&endpoint.info.node);
            all.push(node.map(|node| node.health.beneath(&endpoint.stands_on).collect()).unwrap_or_default());
        }
        let out = self.brake(&all);
        for (((id, endpoint), raws), goes) in self.endpoints.iter_mut().zip(all).zip(out) {
            let conditions = braked(raws, goes);
            if endpoint.conditions[..] != conditions[..] {
                tell_braked(id, endpoint, &conditions, effects);
                endpoint.conditions = Arc::from(conditions);
                effects.changed = true;
            }
        }
    }

    /// Which of the endpoints may be taken out for causes that others may share.
    fn brake(&self, all: &[Vec<Raw>]) -> Vec<bool> {
        let excludes = |raw: &&Raw| raw.condition.action.excludes();
        let wanted = |raws: &[Raw]| {
            let shared = raws.iter().filter(excludes).filter(|raw| raw.shared);
            shared.map(|raw| raw.condition.since.as_nanos()).min()
        };
        let mut pools: BTreeMap<&ModelId, usize> = BTreeMap::new();
        for (endpoint, raws) in self.endpoints.values().zip(all) {
            if wanted(raws).is_some() {
                for model in &endpoint.info.models {
                    let next = pools.len();
                    pools.entry(&model.id).or_insert(next);
                }
            }
        }
        if pools.is_empty() {
            return vec![false; all.len()];
        }
        let member = |((id, endpoint), raws): ((&EndpointId, &EndpointState), &Vec<Raw>)| Member {
            pools: if endpoint.gone {
                Vec::new()
            } else {
                endpoint.info.models.iter().filter_map(|model| pools.get(&model.id).copied()).collect()
            },
            wanted_out: wanted(raws),
            out: raws.iter().filter(excludes).any(|raw| !raw.shared)
                || matches!(endpoint.health, Health::Unhealthy { .. } | Health::Unknown)
                || self.drained.contains(&crate::Target::Endpoint(id.clone()))
                || self.drained.contains(&crate::Target::Node(endpoint.info.node.clone())),
        };
        let members: Vec<Member> = self.endpoints.iter().zip(all).map(member).collect();
        let_go(&members, pools.len(), self.rules.brake_share)
    }
}

/// The conditions of one endpoint, with those that the brake holds back turned into a derate.
fn braked(raws: Vec<Raw>, goes: bool) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = raws
        .into_iter()
        .map(|Raw { mut condition, shared, .. }| {
            if shared && condition.action.excludes() && !goes {
                condition.braked = Some(condition.action);
                condition.action = Action::Derate(Ratio::clamped(BRAKED_SPEED));
            }
            condition
        })
        .collect();
    conditions.sort_by_key(|condition| std::cmp::Reverse(condition.action.severity()));
    conditions
}

fn tell_braked(id: &EndpointId, endpoint: &EndpointState, after: &[Condition], effects: &mut Effects) {
    let was = |c: &Condition| {
        endpoint.conditions.iter().any(|old| old.braked.is_some() && old.cause.rule() == c.cause.rule())
    };
    for condition in after.iter().filter(|c| c.braked.is_some()) {
        if !was(condition) {
            let Some(wanted) = condition.braked else { continue };
            let (endpoint, cause) = (id.clone(), condition.cause);
            effects.notices.push(Notice::Health(HealthNotice::Braked { endpoint, cause, wanted }));
        }
    }
}

/// The health of a GPU as its conditions make it; a power limit that is reached is no fault.
pub(crate) fn health_under(conditions: &[Condition], otherwise: Health) -> Health {
    let Some(worst) = conditions.first() else { return otherwise };
    let reason = || format!("{}: {}", worst.action.as_str(), worst.cause);
    if worst.action.excludes() {
        Health::Unhealthy { reason: reason() }
    } else if worst.action.severity() > 0 && Rule::of(&worst.cause) != Some(Rule::PowerCap) {
        Health::Degraded { reason: reason() }
    } else {
        otherwise
    }
}
