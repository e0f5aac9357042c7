//! GPUs: nearly every reading may be absent.

use aya_domain::{
    Aged, Bytes, Celsius, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid, MigSlice, Milliwatts, Ratio,
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
        slowdown_margin: gpu.slowdown_margin_celsius.map(Celsius),
        mig: gpu.mig.as_ref().map(slice).transpose().map_err(|error| error.inside("mig"))?,
    };
    let sample = gpu.sample.as_ref().map(sample).transpose().map_err(|error| error.inside("sample"))?;
    Ok(GpuReport { info, sample })
}

fn slice(slice: &wire::MigSlice) -> Result<MigSlice> {
    Ok(MigSlice {
        parent: field::id(slice.parent.as_deref(), "parent", GpuUuid::parse)?,
        gpu_instance: field::required(slice.gpu_instance, "gpu_instance")?,
        compute_instance: field::required(slice.compute_instance, "compute_instance")?,
    })
}

fn slice_to_wire(slice: &MigSlice) -> wire::MigSlice {
    wire::MigSlice {
        parent: Some(slice.parent.as_str().to_owned()),
        gpu_instance: Some(slice.gpu_instance),
        compute_instance: Some(slice.compute_instance),
    }
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
        memory_temperature: sample.memory_temperature_celsius.map(Celsius),
        thermal_margin: sample.thermal_margin_celsius.map(Celsius),
        ecc_corrected: sample.ecc_corrected,
        ecc_uncorrected: sample.ecc_uncorrected,
        rows_remapped: sample.rows_remapped,
        row_remap_pending: sample.row_remap_pending,
        row_remap_failed: sample.row_remap_failed,
        recovery_action: sample.recovery_action,
        xids: sample.xids,
        last_xid: sample.last_xid,
        sm_active: field::optional_ratio(sample.sm_active_ratio, "sm_active_ratio")?,
        sm_occupancy: field::optional_ratio(sample.sm_occupancy_ratio, "sm_occupancy_ratio")?,
        tensor_active: field::optional_ratio(sample.tensor_active_ratio, "tensor_active_ratio")?,
        dram_active: field::optional_ratio(sample.dram_active_ratio, "dram_active_ratio")?,
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
        slowdown_margin_celsius: gpu.info.slowdown_margin.map(|celsius| celsius.0),
        mig: gpu.info.mig.as_ref().map(slice_to_wire),
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
        memory_temperature_celsius: value.memory_temperature.map(|celsius| celsius.0),
        thermal_margin_celsius: value.thermal_margin.map(|celsius| celsius.0),
        ecc_corrected: value.ecc_corrected,
        ecc_uncorrected: value.ecc_uncorrected,
        rows_remapped: value.rows_remapped,
        row_remap_pending: value.row_remap_pending,
        row_remap_failed: value.row_remap_failed,
        recovery_action: value.recovery_action,
        xids: value.xids,
        last_xid: value.last_xid,
        sm_active_ratio: value.sm_active.map(Ratio::get),
        sm_occupancy_ratio: value.sm_occupancy.map(Ratio::get),
        tensor_active_ratio: value.tensor_active.map(Ratio::get),
        dram_active_ratio: value.dram_active.map(Ratio::get),
    }
}
