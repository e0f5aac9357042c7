//! Which GPUs an engine runs on, and what simulated engines do to simulated GPUs.

use aya_config::GpuRef;
use aya_domain::{Bytes, EndpointId, EngineHealth, EngineKind, GpuSourceKind, GpuUuid};
use aya_engine::Activity;
use aya_gpu::{GpuLoad, Product};

use crate::view::{EngineView, GpuView, View};

/// The GPUs of every engine, in the engines' order: as configured, else those that its processes hold; empty where nobody
/// has said.
///
/// On a node with simulated GPUs, simulated engines without configured ones take the devices in order, so
/// that a simulated farm needs no more than a list of each.
pub(crate) fn gpus_of_engines(view: &View) -> Vec<Vec<GpuUuid>> {
    let simulated = view.source.as_ref().is_some_and(|source| source.kind == GpuSourceKind::Simulated);
    let mut free = view.gpus.iter().map(|gpu| gpu.info.uuid.clone());
    let gpus_of = |engine: &EngineView| {
        if engine.gpus.is_empty() && simulated && engine.kind == EngineKind::Simulated {
            return free.by_ref().take(wanted(engine)).collect();
        }
        if engine.gpus.is_empty() {
            return held_by(view, &engine.id);
        }
        engine.gpus.iter().filter_map(|wanted| resolve(view, wanted)).collect()
    };
    view.engines.iter().map(AsRef::as_ref).map(gpus_of).collect()
}

/// The GPUs that processes of this engine hold.
fn held_by(view: &View, engine: &EndpointId) -> Vec<GpuUuid> {
    let holds = |gpu: &GpuView| {
        let list = gpu.processes.as_ref().map(|list| &list.value.processes);
        list.is_some_and(|list| list.iter().any(|process| process.engine.as_ref() == Some(engine)))
    };
    view.gpus.iter().filter(|gpu| holds(gpu)).map(|gpu| gpu.info.uuid.clone()).collect()
}

/// How many GPUs a simulated engine plays on.
fn wanted(engine: &EngineView) -> usize {
    let told = engine.readings.activity.value().and_then(|activity| activity.gpus);
    let count = engine.gpus_per_engine.or(told).unwrap_or(1).max(1);
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn resolve(view: &View, wanted: &GpuRef) -> Option<GpuUuid> {
    match wanted {
        GpuRef::Uuid(uuid) => Some(uuid.clone()),
        GpuRef::Index(index) => view.numbers.get(usize::try_from(*index).ok()?).cloned(),
    }
}

/// The devices that the node's simulated engines play on, in the engines' order, and whether all have told theirs.
pub(crate) fn products_told(view: &View) -> (Vec<Product>, bool) {
    let simulated = view.engines.iter().filter(|engine| engine.kind == EngineKind::Simulated);
    let (mut products, mut all) = (Vec::new(), true);
    for engine in simulated {
        let name = engine.readings.activity.value().and_then(|activity| activity.gpu_name.as_deref());
        match name.and_then(Product::named) {
            Some(product) => products.extend(std::iter::repeat_n(product, wanted(engine))),
            None => all = false,
        }
    }
    (products, all)
}

/// What the simulated engines of the node do to its GPUs now; an engine that is down does nothing.
pub(crate) fn loads(view: &View) -> Vec<GpuLoad> {
    let mut loads = Vec::new();
    for (engine, gpus) in view.engines.iter().zip(gpus_of_engines(view)) {
        let down = match engine.health.as_ref().map(|health| &health.value) {
            Some(EngineHealth::Down { .. }) | None => true,
            Some(EngineHealth::Ready | EngineHealth::Loading | EngineHealth::Busy) => false,
        };
        if let Some(activity) = engine.readings.activity.value()
            && !down
        {
            loads.extend(spread(activity, gpus));
        }
    }
    loads
}

/// Tensor parallel: the memory is shared out, the work is everywhere the same.
fn spread(activity: &Activity, gpus: Vec<GpuUuid>) -> impl Iterator<Item = GpuLoad> {
    let share = u64::try_from(gpus.len().max(1)).unwrap_or(u64::MAX);
    let vram_used = Bytes(activity.vram_used.get() / share);
    let (busy, prefill) = (activity.busy, activity.prefill);
    gpus.into_iter().map(move |gpu| GpuLoad { gpu, vram_used, busy, prefill })
}
