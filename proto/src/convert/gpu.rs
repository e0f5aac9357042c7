//! GPUs: nearly every reading may be absent.

use aya_domain::{
    Aged, Bytes, Celsius, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid, Milliwatts, Ratio,
};

use super::Limits;
use super::field::{self, Result};
use crate::wire;

pub(super) fn source(source: wire::GpuSource) -> Option<GpuSourceKind> {
    match source {
        wire::GpuSource::Unspecified => None,
        wire::GpuSource::Nvml => Some(GpuSourceKind::Nvml),
        wire::GpuSource::Simulated => Some(GpuSourceKind::Simulated),
        wire::GpuSource::None => Some(GpuSourceKind::None),
    }
}

pub(super) fn source_to_wire(source: GpuSourceKind) -> wire::GpuSource {
    match source {
        GpuSourceKind::Nvml => wire::GpuSource::Nvml,
        GpuSourceKind::Simulated => wire::GpuSource::Simulated,
        GpuSourceKind::None => wire::GpuSource::None,
    }
}

pub(super) fn gpu(gpu: wire::Gpu, limits: &Limits) -> Result<GpuReport> {
    let info = GpuInfo {
        uuid: field::id(gpu.uuid.as_deref(), "uuid", GpuUuid::parse)?,
        name: field::text(field::required(gpu.name, "name")?, "name", limits)?,
        vram_total: gpu.vram_total_bytes.map(Bytes),
        power_limit: gpu.power_limit_milliwatts.map(Milliwatts),
        sm_clock_max_mhz: gpu.sm_clock_max_mhz,
    };
    let sample = gpu.sample.as_ref().map(sample).transpose().map_err(|error| error.inside("sample"))?;
    Ok(GpuReport { info, sample })
}

fn sample(sample: &wire::GpuSample) -> Result<Aged<GpuSample>> {
    let value = GpuSample {
        vram_used: sample.vram_used_bytes.map(Bytes),
        vram_free: sample.vram_free_bytes.map(Bytes),
        busy: field::optional_ratio(sample.busy_ratio, "busy_ratio")?,
        memory_busy: field::optional_ratio(sample.memory_busy_ratio, "memory_busy_ratio")?,
        temperature: sample.temperature_celsius.map(Celsius),
        power: sample.power_milliwatts.map(Milliwatts),
        energy_millijoules: sample.energy_millijoules,
        sm_clock_mhz: sample.sm_clock_mhz,
        memory_clock_mhz: sample.memory_clock_mhz,
        clock_event_reasons: sample.clock_event_reasons,
    };
    Ok(Aged::new(value, field::age(sample.age_us)?))
}

pub(super) fn gpu_to_wire(gpu: &GpuReport) -> wire::Gpu {
    wire::Gpu {
        uuid: Some(gpu.info.uuid.as_str().to_owned()),
        name: Some(gpu.info.name.clone()),
        vram_total_bytes: gpu.info.vram_total.map(Bytes::get),
        power_limit_milliwatts: gpu.info.power_limit.map(Milliwatts::get),
        sm_clock_max_mhz: gpu.info.sm_clock_max_mhz,
        sample: gpu.sample.as_ref().map(sample_to_wire),
    }
}

fn sample_to_wire(sample: &Aged<GpuSample>) -> wire::GpuSample {
    let value = &sample.value;
    wire::GpuSample {
        age_us: field::age_us(sample.age),
        vram_used_bytes: value.vram_used.map(Bytes::get),
        vram_free_bytes: value.vram_free.map(Bytes::get),
        busy_ratio: value.busy.map(Ratio::get),
        memory_busy_ratio: value.memory_busy.map(Ratio::get),
        temperature_celsius: value.temperature.map(|celsius| celsius.0),
        power_milliwatts: value.power.map(Milliwatts::get),
        energy_millijoules: value.energy_millijoules,
        sm_clock_mhz: value.sm_clock_mhz,
        memory_clock_mhz: value.memory_clock_mhz,
        clock_event_reasons: value.clock_event_reasons,
    }
}
