//! What is known about one node: which start of its agent speaks, when it last did, and its GPUs.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use aya_domain::{
    AgentHealth, BootId, Bytes, Condition, EndpointId, Freshness, Gpu, GpuInfo, GpuReport, GpuUuid, Health,
    MonoTime, Node, NodeId, Phase, Reading,
};

use crate::Params;
use crate::gpu_events::EventsSeen;
use crate::health::{NodeHealth, health_under};

/// Replaced starts of an agent remembered per node, to recognise two agents that take turns.
const REPLACED_BOOTS_MAX: usize = 8;

/// Reports of a replaced start after which it is a second live agent, not a leftover of an old stream.
const DUPLICATE_AFTER: u32 = 3;

/// One node between two reports.
#[derive(Debug)]
pub(crate) struct NodeState {
    pub(crate) id: NodeId,
    pub(crate) boot: BootId,
    pub(crate) sequence: u64,
    pub(crate) connected: bool,
    pub(crate) last_report_at: MonoTime,
    pub(crate) agent: AgentHealth,
    pub(crate) gpus: Gpus,
    /// The events that this start of the agent told.
    pub(crate) events_seen: EventsSeen,
    pub(crate) health: NodeHealth,
    pub(crate) members: BTreeSet<EndpointId>,
    /// As last told in a notice.
    pub(crate) told_freshness: Freshness,
    /// With the events that each of them told.
    replaced: VecDeque<(BootId, EventsSeen)>,
    /// Reports of replaced starts since the present one began.
    overtaken: u32,
    overtaken_at: Option<MonoTime>,
    /// The view, as long as nothing but its freshness and phase can have changed, and whether it says that two agents
    /// use this id.
    view: Option<(Arc<Node>, bool)>,
}

impl NodeState {
    /// A node at its first FULL report.
    pub(crate) fn new(
        id: NodeId,
        boot: BootId,
        sequence: u64,
        agent: AgentHealth,
        received_at: MonoTime,
    ) -> Self {
        Self {
            id,
            boot,
            sequence,
            connected: true,
            last_report_at: received_at,
            agent,
            gpus: Gpus::default(),
            events_seen: EventsSeen::default(),
            health: NodeHealth::default(),
            members: BTreeSet::new(),
            told_freshness: Freshness::Fresh,
            replaced: VecDeque::new(),
            overtaken: 0,
            overtaken_at: None,
            view: None,
        }
    }

    /// Another start of the agent speaks from now on; true if it spoke before.
    pub(crate) fn reboot(&mut self, boot: BootId) -> bool {
        let before = self.replaced.iter().position(|(old, _)| *old == boot);
        let before = before.and_then(|at| self.replaced.remove(at));
        if self.replaced.len() == REPLACED_BOOTS_MAX {
            self.replaced.pop_front();
        }
        self.replaced.push_back((self.boot, self.events_seen));
        self.boot = boot;
        self.events_seen = before.map_or_else(EventsSeen::default, |(_, seen)| seen);
        self.gpus.forget_xids();
        self.overtaken = 0;
        self.view = None;
        before.is_some()
    }

    /// Whether a start that was replaced speaks although its successor is alive.
    pub(crate) fn is_overtaken(&self, boot: BootId, now: MonoTime, params: &Params) -> bool {
        self.replaced.iter().any(|(old, _)| *old == boot)
            && now.since(self.last_report_at) < params.suspect_after
    }

    /// Counts a report of a replaced start; true when it has just become clear that two agents are alive.
    pub(crate) fn count_overtaken(&mut self, now: MonoTime, params: &Params) -> bool {
        if self.overtaken_at.is_some_and(|last| now.since(last) >= params.suspect_after) {
            self.overtaken = 0;
        }
        self.overtaken_at = Some(now);
        self.overtaken = self.overtaken.saturating_add(1);
        self.overtaken == DUPLICATE_AFTER
    }

    /// Whether two live agents use this id now.
    fn is_duplicate(&self, now: MonoTime, params: &Params) -> bool {
        let lately = self.overtaken_at.is_some_and(|last| now.since(last) < params.suspect_after);
        lately && self.overtaken >= DUPLICATE_AFTER
    }

    pub(crate) fn touched(&mut self) {
        self.view = None;
    }

    /// How far its telemetry can be trusted, by the period it promised itself.
    pub(crate) fn freshness(&self, now: MonoTime, params: &Params) -> Freshness {
        let silent = now.since(self.last_report_at);
        let promised = self.agent.period.saturating_mul(params.stale_after_periods);
        if silent >= params.suspect_after {
            Freshness::Suspect
        } else if silent >= promised.max(params.stale_after_at_least) {
            Freshness::Stale
        } else {
            Freshness::Fresh
        }
    }

    /// The view of it in a snapshot; the last one again if it is still right.
    pub(crate) fn view(&mut self, now: MonoTime, params: &Params, draining: bool) -> Arc<Node> {
        let freshness = self.freshness(now, params);
        let duplicate = self.is_duplicate(now, params);
        let phase = if draining { Phase::Draining } else { Phase::Serving };
        match &self.view {
            Some((view, said))
                if view.freshness == freshness && view.phase == phase && *said == duplicate =>
            {
                Arc::clone(view)
            }
            Some(_) | None => {
                let view = Arc::new(self.build(freshness, phase, duplicate));
                self.view = Some((Arc::clone(&view), duplicate));
                view
            }
        }
    }

    fn build(&self, freshness: Freshness, phase: Phase, duplicate: bool) -> Node {
        let health = match &self.agent.gpu_error {
            _ if duplicate => Health::Degraded {
                reason: "two agents call themselves by its name; only the newer one is heard".to_owned(),
            },
            Some(reason) => Health::Degraded { reason: reason.clone() },
            None => Health::Healthy,
        };
        Node {
            id: self.id.clone(),
            boot: self.boot,
            phase,
            health,
            freshness,
            connected: self.connected,
            last_report_at: self.last_report_at,
            agent: self.agent.clone(),
            gpus: self.gpus.0.clone(),
        }
    }
}

/// The GPUs of one node in ascending order of UUID.
#[derive(Debug, Default)]
pub(crate) struct Gpus(Vec<Gpu>);

impl Gpus {
    /// Takes the GPUs of a report; a FULL one leaves no others.
    pub(crate) fn apply(&mut self, reports: Vec<GpuReport>, full: bool, received_at: MonoTime) {
        let before = if full { Self(std::mem::take(&mut self.0)) } else { Self::default() };
        for report in reports {
            let known = self.get(&report.info.uuid).or_else(|| before.get(&report.info.uuid));
            let gpu = gpu(report, known, received_at);
            match self.0.binary_search_by(|known| known.info.uuid.cmp(&gpu.info.uuid)) {
                Ok(at) => {
                    if let Some(known) = self.0.get_mut(at) {
                        *known = gpu;
                    }
                }
                Err(at) => self.0.insert(at, gpu),
            }
        }
    }

    /// Notes an XID that no report has told of yet; false if there is no such GPU.
    pub(crate) fn note_xid(&mut self, uuid: &GpuUuid, code: u32, count: Option<u32>) -> bool {
        let Ok(at) = self.0.binary_search_by(|known| known.info.uuid.cmp(uuid)) else { return false };
        if let Some(sample) = self.0.get_mut(at).and_then(|gpu| gpu.sample.as_mut()) {
            let next = sample.value.xids.unwrap_or(0).saturating_add(1);
            sample.value.xids = Some(count.unwrap_or(next));
            sample.value.last_xid = Some(code);
        }
        true
    }

    pub(crate) fn all(&self) -> &[Gpu] {
        &self.0
    }

    pub(crate) fn sampled_at(&self, uuid: &GpuUuid) -> Option<MonoTime> {
        Some(self.get(uuid)?.sample.as_ref()?.sampled_at)
    }

    /// Keeps a lost GPU in the list, without readings.
    pub(crate) fn keep(&mut self, info: GpuInfo) {
        if let Err(at) = self.0.binary_search_by(|known| known.info.uuid.cmp(&info.uuid)) {
            let conditions = Arc::from([]);
            let gpu = Gpu { info, sample: None, processes: None, health: Health::Unknown, conditions };
            self.0.insert(at, gpu);
        }
    }

    pub(crate) fn set_conditions(&mut self, uuid: &GpuUuid, conditions: Vec<Condition>) {
        let Ok(at) = self.0.binary_search_by(|known| known.info.uuid.cmp(uuid)) else { return };
        if let Some(gpu) = self.0.get_mut(at).filter(|gpu| gpu.conditions[..] != conditions[..]) {
            let read = if gpu.sample.is_some() { Health::Healthy } else { Health::Unknown };
            gpu.health = health_under(&conditions, read);
            gpu.conditions = Arc::from(conditions);
        }
    }

    /// Another start of the agent counts anew.
    pub(crate) fn forget_xids(&mut self) {
        for sample in self.0.iter_mut().filter_map(|gpu| gpu.sample.as_mut()) {
            (sample.value.xids, sample.value.last_xid) = (None, None);
        }
    }

    fn get(&self, uuid: &GpuUuid) -> Option<&Gpu> {
        let at = self.0.binary_search_by(|known| known.info.uuid.cmp(uuid)).ok()?;
        self.0.get(at)
    }

    /// The product beneath an engine and how many of it. An engine that names no GPU is taken to run on one of the
    /// node's, if they are all alike.
    pub(crate) fn beneath(&self, uuids: &[GpuUuid]) -> (Option<&str>, usize) {
        if let Some(first) = uuids.first() {
            return (self.get(first).map(|gpu| gpu.info.name.as_str()), uuids.len());
        }
        let mut names = self.0.iter().map(|gpu| gpu.info.name.as_str());
        let first = names.next();
        (first.filter(|first| names.all(|name| name == *first)), 1)
    }

    /// The least free VRAM over an engine's GPUs; `None` if it is unknown for one of them. An engine that names
    /// no GPU runs on the only one there is, or nobody knows where.
    pub(crate) fn least_free(&self, uuids: &[GpuUuid]) -> Option<Reading<Bytes>> {
        let free = |gpu: &Gpu| {
            let sample = gpu.sample.as_ref()?;
            Some(Reading::new(sample.value.vram_free?, sample.sampled_at))
        };
        match (uuids, self.0.as_slice()) {
            ([], [only]) => free(only),
            ([], _) => None,
            _ => {
                let all: Option<Vec<_>> = uuids.iter().map(|uuid| self.get(uuid).and_then(free)).collect();
                all?.into_iter().min_by_key(|reading| reading.value)
            }
        }
    }
}

/// A GPU as a report describes it. What an event told of it stays until a reading counts as much.
fn gpu(report: GpuReport, known: Option<&Gpu>, received_at: MonoTime) -> Gpu {
    let mut sample = report.sample.map(|aged| aged.received(received_at));
    let told = known.and_then(|gpu| gpu.sample).map(|sample| sample.value);
    if let (Some(sample), Some(told)) = (&mut sample, told)
        && told.xids > sample.value.xids
    {
        (sample.value.xids, sample.value.last_xid) = (told.xids, told.last_xid);
    }
    let processes = report.processes.map(|aged| aged.received(received_at));
    let health = if sample.is_some() { Health::Healthy } else { Health::Unknown };
    Gpu {
        info: report.info,
        sample,
        processes: processes.map(|reading| Reading::new(Arc::new(reading.value), reading.sampled_at)),
        health,
        conditions: Arc::from([]),
    }
}
