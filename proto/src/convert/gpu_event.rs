//! Events of GPUs: what cannot wait for the next report.

use aya_domain::{Aged, BootId, GpuEvent, GpuEventKind, GpuEvents, GpuUuid, NodeId};

use super::field::{self, Result};
use super::{ConvertError, Limits, Problem};
use crate::wire;

pub(super) fn events(message: &wire::GpuEvents, limits: &Limits) -> Result<GpuEvents> {
    field::count(message.events.len(), limits.events_max, "events")?;
    let mut events: Vec<Aged<GpuEvent>> = Vec::with_capacity(message.events.len());
    for (at, item) in message.events.iter().enumerate() {
        let event = event(item).map_err(|error| error.inside(format_args!("events[{at}]")))?;
        if events.last().is_some_and(|last| last.value.sequence >= event.value.sequence) {
            return Err(ConvertError::at(&format!("events[{at}].sequence"), Problem::NotAscending));
        }
        events.push(event);
    }
    Ok(GpuEvents {
        node: field::id(message.node.as_deref(), "node", NodeId::parse)?,
        boot: BootId(field::required(message.boot, "boot")?),
        events,
    })
}

fn event(event: &wire::GpuEvent) -> Result<Aged<GpuEvent>> {
    let mut kind = field::named(event.kind, "kind", kind)?;
    if let GpuEventKind::Xid { code } | GpuEventKind::Recovery { action: code } = &mut kind {
        *code = field::required(event.code, "code")?;
    }
    let value = GpuEvent {
        sequence: field::required(event.sequence, "sequence")?,
        gpu: field::id(event.gpu.as_deref(), "gpu", GpuUuid::parse)?,
        kind,
        xids: event.xids,
    };
    Ok(Aged::new(value, field::age(event.age_us)?))
}

/// The kind; its code is yet to be put in.
const fn kind(kind: wire::GpuEventKind) -> Option<GpuEventKind> {
    match kind {
        wire::GpuEventKind::Unspecified => None,
        wire::GpuEventKind::Xid => Some(GpuEventKind::Xid { code: 0 }),
        wire::GpuEventKind::EccUncorrected => Some(GpuEventKind::EccUncorrected),
        wire::GpuEventKind::Recovery => Some(GpuEventKind::Recovery { action: 0 }),
        wire::GpuEventKind::Lost => Some(GpuEventKind::Lost),
    }
}

pub(super) fn events_to_wire(events: &GpuEvents) -> wire::GpuEvents {
    wire::GpuEvents {
        node: Some(events.node.as_str().to_owned()),
        boot: Some(events.boot.0),
        events: events.events.iter().map(event_to_wire).collect(),
    }
}

fn event_to_wire(event: &Aged<GpuEvent>) -> wire::GpuEvent {
    let kind = match event.value.kind {
        GpuEventKind::Xid { .. } => wire::GpuEventKind::Xid,
        GpuEventKind::EccUncorrected => wire::GpuEventKind::EccUncorrected,
        GpuEventKind::Recovery { .. } => wire::GpuEventKind::Recovery,
        GpuEventKind::Lost => wire::GpuEventKind::Lost,
    };
    wire::GpuEvent {
        sequence: Some(event.value.sequence),
        gpu: Some(event.value.gpu.as_str().to_owned()),
        kind: Some(kind.into()),
        code: event.value.kind.code(),
        age_us: field::age_us(event.age),
        xids: event.value.xids,
    }
}
