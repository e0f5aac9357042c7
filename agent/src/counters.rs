//! Everything that is needed to tell whose the processes on the GPUs are, in one place: it reads /proc and may ask the
//! resolver, so it is used off the runtime's threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{GpuProcesses, GpuUuid, MonoTime, Reading};
use aya_gpu::GpuHolders;

use crate::census::{Census, Located};
use crate::discovery::Holders;
use crate::local::Hosts;
use crate::procfs::Procfs;
use crate::procfs::inside::Inside;
use crate::view::EngineView;

/// A list that is older is no longer looked through: its GPU does not answer, or has gone.
const LIST_KEPT_FOR: Duration = Duration::from_secs(15);

/// What tells whose the processes are.
pub(crate) struct Counters {
    proc: Procfs,
    census: Census,
    inside: Inside,
    hosts: Hosts,
    /// The last list of each GPU.
    lists: BTreeMap<GpuUuid, Reading<GpuHolders>>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let proc = Procfs::new("/proc");
        let census = Census::new(proc.clone());
        let lists = BTreeMap::new();
        Self { proc, census, inside: Inside::default(), hosts: Hosts::default(), lists }
    }

    /// Takes in what the driver has told of some GPUs.
    pub(crate) fn take(&mut self, at: MonoTime, lists: Vec<GpuHolders>) {
        self.lists.retain(|_, list| list.age(at) <= LIST_KEPT_FOR);
        self.lists.extend(lists.into_iter().map(|list| (list.gpu.clone(), Reading::new(list, at))));
    }

    /// Who holds GPUs, and whose they are on each.
    pub(crate) fn count(
        &mut self,
        engines: &[Arc<EngineView>],
    ) -> (Holders, Vec<(GpuUuid, Reading<GpuProcesses>)>) {
        let mut holders: Vec<GpuHolders> = self.lists.values().map(|list| list.value.clone()).collect();
        self.inside.translate(&self.proc, &mut holders);
        let held = pids(&holders);
        let located = |engine: &Arc<EngineView>| Located {
            id: engine.id.clone(),
            port: engine.url.port(),
            host: self.hosts.of(&engine.url),
            pid: engine.pid,
        };
        let engines = engines.iter().map(located).collect();
        let told = self.census.take(holders, engines).into_iter();
        let listed_at = |uuid: &GpuUuid| self.lists.get(uuid).map(|list| list.sampled_at);
        let lists = told.filter_map(|(uuid, list)| {
            let at = listed_at(&uuid)?;
            Some((uuid, Reading::new(list, at)))
        });
        (held, lists.collect())
    }
}

/// Who holds the GPUs; `None` where no GPU tells.
fn pids(lists: &[GpuHolders]) -> Holders {
    let told: BTreeSet<u32> =
        lists.iter().filter_map(|list| list.holders.as_ref()).flatten().map(|holder| holder.pid).collect();
    lists.iter().any(|list| list.holders.is_some()).then(|| told.into_iter().collect())
}
