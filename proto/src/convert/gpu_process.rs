//! The processes of a GPU.

use aya_domain::{Aged, Bytes, EndpointId, GPU_PROCESSES_MAX, GpuProcess, GpuProcesses, ProcessView};

use super::Limits;
use super::field::{self, Result};
use crate::wire;

pub(super) fn processes(list: wire::GpuProcesses, limits: &Limits) -> Result<Aged<GpuProcesses>> {
    field::count(list.processes.len(), u32::try_from(GPU_PROCESSES_MAX).unwrap_or(u32::MAX), "processes")?;
    let mut processes = Vec::with_capacity(list.processes.len());
    for (at, item) in list.processes.into_iter().enumerate() {
        processes.push(process(item, limits).map_err(|e| e.inside(format_args!("processes[{at}]")))?);
    }
    let value = GpuProcesses { view: field::named(list.view, "view", view)?, processes };
    Ok(Aged::new(value, field::age(list.age_us)?))
}

fn process(process: wire::GpuProcess, limits: &Limits) -> Result<GpuProcess> {
    let engine = process.engine.as_deref();
    Ok(GpuProcess {
        pid: field::required(process.pid, "pid")?,
        name: field::optional_text(process.name, "name", limits)?,
        vram: process.vram_bytes.map(Bytes),
        engine: engine.map(|id| field::id(Some(id), "engine", EndpointId::parse)).transpose()?,
    })
}

const fn view(view: wire::ProcessView) -> Option<ProcessView> {
    match view {
        wire::ProcessView::Unspecified => None,
        wire::ProcessView::Full => Some(ProcessView::Full),
        wire::ProcessView::Partial => Some(ProcessView::Partial),
        wire::ProcessView::Unsupported => Some(ProcessView::Unsupported),
    }
}

pub(super) fn processes_to_wire(list: &Aged<GpuProcesses>) -> wire::GpuProcesses {
    let view = match list.value.view {
        ProcessView::Full => wire::ProcessView::Full,
        ProcessView::Partial => wire::ProcessView::Partial,
        ProcessView::Unsupported => wire::ProcessView::Unsupported,
    };
    wire::GpuProcesses {
        age_us: field::age_us(list.age),
        view: Some(view.into()),
        processes: list.value.processes.iter().map(process_to_wire).collect(),
    }
}

fn process_to_wire(process: &GpuProcess) -> wire::GpuProcess {
    wire::GpuProcess {
        pid: Some(process.pid),
        name: process.name.clone(),
        vram_bytes: process.vram.map(Bytes::get),
        engine: process.engine.as_ref().map(|id| id.as_str().to_owned()),
    }
}
