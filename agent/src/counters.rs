//! Everything that is needed to tell whose the processes on the GPUs are, in one place: it reads /proc and may ask the
//! resolver, so it is used off the runtime's threads.

use std::collections::BTreeSet;
use std::sync::Arc;

use aya_domain::{GpuProcesses, GpuUuid};
use aya_gpu::GpuHolders;

use crate::census::{Census, Located};
use crate::discovery::Holders;
use crate::local::Hosts;
use crate::procfs::Procfs;
use crate::procfs::inside::Inside;
use crate::view::EngineView;

/// What tells whose the processes are.
pub(crate) struct Counters {
    proc: Procfs,
    census: Census,
    inside: Inside,
    hosts: Hosts,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let proc = Procfs::new("/proc");
        let census = Census::new(proc.clone());
        Self { proc, census, inside: Inside::default(), hosts: Hosts::default() }
    }

    /// Who holds GPUs, and whose they are on each.
    pub(crate) fn count(
        &mut self,
        mut holders: Vec<GpuHolders>,
        engines: &[Arc<EngineView>],
    ) -> (Holders, Vec<(GpuUuid, GpuProcesses)>) {
        self.inside.translate(&self.proc, &mut holders);
        let held = pids(&holders);
        let located = |engine: &Arc<EngineView>| Located {
            id: engine.id.clone(),
            port: engine.url.port(),
            host: self.hosts.of(&engine.url),
            pid: engine.pid,
        };
        let engines = engines.iter().map(located).collect();
        (held, self.census.take(holders, engines))
    }
}

/// Who holds the GPUs; `None` where no GPU tells.
fn pids(lists: &[GpuHolders]) -> Holders {
    let told: BTreeSet<u32> =
        lists.iter().filter_map(|list| list.holders.as_ref()).flatten().map(|holder| holder.pid).collect();
    lists.iter().any(|list| list.holders.is_some()).then(|| told.into_iter().collect())
}
