//! GPUs: nearly every reading may be absent.

use std::time::Duration;

use aya_domain::{
    Aged, Bytes, Celsius, GpuInfo, GpuReport, GpuSample, GpuSourceKind, GpuUuid, MigSlice, Milliwatts,
    PcieLink, Ratio,
};

use super::field::{self, Result};
use super::{Limits, gpu_process};
use crate::wire;

pub(super) fn source(source: wire::GpuSource) -> Option<GpuSourceKind> {
    match source {
        wire::GpuSource::Unspecified => None,
        wire::GpuSource::Nvml => Some(GpuSourceKind::Nvml),
        wire::GpuSource::Simulated => Some(GpuSourceKind::Simulated),
        wire::GpuSource::Recorded => Some(GpuSourceKind::Recorded),
        wire::GpuSource::None => Some(GpuSourceKind::None),
    }
}

pub(super) fn source_to_wire(source: GpuSourceKind) -> wire::GpuSource {
    match source {
        GpuSourceKind::Nvml => wire::GpuSource::Nvml,
        GpuSourceKind::Simulated => wire::GpuSource::Simulated,
        GpuSourceKind::Recorded => wire::GpuSource::Recorded,
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
    let processes = gpu.processes.map(|processes| gpu_process::processes(processes, limits)).transpose();
    let processes = processes.map_err(|error| error.inside("processes"))?;
    Ok(GpuReport { info, sample, processes })
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
        throttled_thermal: sample.throttled_thermal_us.map(Duration::from_micros),
        throttled_power: sample.throttled_power_us.map(Duration::from_micros),
        pcie_tx_bytes_per_second: sample.pcie_tx_bytes_per_second,
        pcie_rx_bytes_per_second: sample.pcie_rx_bytes_per_second,
        nvlink_tx_bytes_per_second: sample.nvlink_tx_bytes_per_second,
        nvlink_rx_bytes_per_second: sample.nvlink_rx_bytes_per_second,
        pcie_replays: sample.pcie_replays,
        pcie_link: sample.pcie_link.as_ref().map(link).transpose().map_err(|e| e.inside("pcie_link"))?,
        pages_retired: sample.pages_retired,
        page_retirement_pending: sample.page_retirement_pending,
        nvlink_errors: sample.nvlink_errors,
        nvlinks_active: sample.nvlinks_active,
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
        processes: gpu.processes.as_ref().map(gpu_process::processes_to_wire),
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
        throttled_thermal_us: value.throttled_thermal.map(field::micros),
        throttled_power_us: value.throttled_power.map(field::micros),
        pcie_tx_bytes_per_second: value.pcie_tx_bytes_per_second,
        pcie_rx_bytes_per_second: value.pcie_rx_bytes_per_second,
        nvlink_tx_bytes_per_second: value.nvlink_tx_bytes_per_second,
        nvlink_rx_bytes_per_second: value.nvlink_rx_bytes_per_second,
        pcie_replays: value.pcie_replays,
        pcie_link: value.pcie_link.as_ref().map(link_to_wire),
        pages_retired: value.pages_retired,
        page_retirement_pending: value.page_retirement_pending,
        nvlink_errors: value.nvlink_errors,
        nvlinks_active: value.nvlinks_active,
    }
}

fn link(link: &wire::PcieLink) -> Result<PcieLink> {
    Ok(PcieLink {
        generation: field::required(link.generation, "generation")?,
        lanes: field::required(link.lanes, "lanes")?,
        generation_max: field::required(link.generation_max, "generation_max")?,
        lanes_max: field::required(link.lanes_max, "lanes_max")?,
    })
}

const fn link_to_wire(link: &PcieLink) -> wire::PcieLink {
    wire::PcieLink {
        generation: Some(link.generation),
        lanes: Some(link.lanes),
        generation_max: Some(link.generation_max),
        lanes_max: Some(link.lanes_max),
    }
}
