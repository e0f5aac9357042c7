//! What one reading of a GPU says to each rule: bad, clean, or nothing. A missing value says nothing.

use std::time::Duration;

use aya_domain::{Cause, Celsius, GpuInfo, GpuSample, Ratio};

use super::before::Before;
use super::rules::Rule;

/// NVML's clocks-event reasons (nvml.h). Idle, application clocks, sync boost and display are no fault.
const GPU_IDLE: u64 = 0x01;
const SW_POWER_CAP: u64 = 0x04;
const HW_SLOWDOWN: u64 = 0x08;
const SW_THERMAL: u64 = 0x20;
const HW_THERMAL: u64 = 0x40;
const HW_POWER_BRAKE: u64 = 0x80;
const THERMAL: u64 = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL;
/// Clocks cut for a reason that is a fault.
const THROTTLED: u64 = HW_SLOWDOWN | SW_THERMAL | HW_THERMAL | HW_POWER_BRAKE;

/// Margins in degrees: at or below the first a GPU is degraded, at or above the second it is not any more.
const MARGIN_LOW: Celsius = Celsius(5);
const MARGIN_GOOD: Celsius = Celsius(8);
/// An idle GPU lowers its clock: only that of a busy one tells its speed.
const BUSY: f64 = 0.05;
/// Retired pages from which on there is no room for more.
const PAGES_FULL: u32 = 63;
/// A clock from here on is the full one.
const FULL_CLOCK: f64 = 0.95;
/// A clock below it is slow also where the driver names no reason, if the GPU is at work all the time.
const LOW_CLOCK: f64 = 0.6;
const HARD_AT_WORK: f64 = 0.5;
const LOW_AFTER: Duration = Duration::from_secs(10);
/// Of one lane at one gigatransfer per second.
const BIT_ERRORS_PER_MINUTE: f64 = 1e9 * 60.0 * 1e-12;

/// What a rule makes of a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    Bad(Cause),
    Clean,
    /// Not read, not reliable, or between two thresholds.
    Nothing,
    /// It would be bad, and has a harmless reason: evidence has to begin anew, and nothing ends.
    Excused,
}

impl Evidence {
    fn of(flag: Option<bool>, cause: Cause) -> Self {
        match flag {
            Some(true) => Self::Bad(cause),
            Some(false) => Self::Clean,
            None => Self::Nothing,
        }
    }
}

/// What a reading says to a rule after those before it.
pub(crate) fn evidence(rule: Rule, info: &GpuInfo, sample: &GpuSample, before: &Before) -> Evidence {
    let reason = |bits: u64| sample.clock_event_reasons.map(|reasons| reasons & bits != 0);
    match rule {
        Rule::EccUncorrected => ecc(sample, before),
        Rule::RowRemapPending => Evidence::of(sample.row_remap_pending, Cause::RowRemapPending),
        Rule::RowRemapFailed => Evidence::of(sample.row_remap_failed, Cause::RowRemapFailed),
        Rule::RecoveryReset | Rule::RecoveryReboot | Rule::RecoveryOther => recovery(rule, sample),
        Rule::ThermalMargin => margin(sample),
        Rule::ThermalLimit => limit(sample),
        Rule::SwThermal => Evidence::of(reason(SW_THERMAL), Cause::SwThermal),
        Rule::HwThermal => Evidence::of(reason(HW_THERMAL), Cause::HwThermal),
        Rule::PowerBrake => Evidence::of(reason(HW_POWER_BRAKE), Cause::PowerBrake),
        Rule::HwSlowdown => {
            let unexplained = sample
                .clock_event_reasons
                .map(|reasons| reasons & HW_SLOWDOWN != 0 && reasons & (HW_THERMAL | HW_POWER_BRAKE) == 0);
            Evidence::of(unexplained, Cause::HwSlowdown)
        }
        Rule::SlowClock | Rule::PowerCap => clock(rule, info, sample, before),
        Rule::PcieLink => pcie(sample),
        Rule::PcieReplays => replays(sample, before),
        Rule::NvlinkErrors => match sample.nvlink_errors {
            Some(errors) => Evidence::of(
                Some(before.nvlink_errors.is_some_and(|before| errors > before)),
                Cause::NvlinkErrors { errors },
            ),
            None => Evidence::Nothing,
        },
        Rule::NvlinkInactive => match sample.nvlinks_active.zip(before.nvlinks_active) {
            Some((active, before)) => {
                Evidence::of(Some(active < before), Cause::NvlinkInactive { active, before })
            }
            None => Evidence::Nothing,
        },
        Rule::PageRetirementPending => {
            Evidence::of(sample.page_retirement_pending, Cause::PageRetirementPending)
        }
        Rule::PagesRetired => match sample.pages_retired {
            Some(pages) => Evidence::of(Some(pages >= PAGES_FULL), Cause::PagesRetired { pages }),
            None => Evidence::Nothing,
        },
        // Not seen in readings.
        Rule::Xid | Rule::UnknownXids | Rule::GpuLost | Rule::DriverStalled => Evidence::Nothing,
    }
}

/// A first count is no news: an operator may have cleared the GPU before this scheduler began. It counts where the
/// driver still waits for the reset.
fn ecc(sample: &GpuSample, before: &Before) -> Evidence {
    let Some(errors) = sample.ecc_uncorrected else { return Evidence::Nothing };
    let waits = || {
        let asked = matches!(sample.recovery_action, Some(1 | 2 | 4));
        errors > 0 && (asked || sample.row_remap_pending == Some(true))
    };
    Evidence::of(
        Some(before.ecc.map_or_else(waits, |before| errors > before)),
        Cause::EccUncorrected { errors },
    )
}

/// Lanes are lost for good; a lower generation is a rest that a GPU takes while it is idle.
fn pcie(sample: &GpuSample) -> Evidence {
    let Some(link) = sample.pcie_link else { return Evidence::Nothing };
    let cause = Cause::PcieLink { link };
    if link.lanes == 0 || link.generation == 0 {
        return Evidence::Nothing;
    }
    if link.lanes < link.lanes_max {
        return Evidence::Bad(cause);
    }
    if link.generation >= link.generation_max {
        return Evidence::Clean;
    }
    if is_busy(sample, BUSY) { Evidence::Bad(cause) } else { Evidence::Excused }
}

fn recovery(rule: Rule, sample: &GpuSample) -> Evidence {
    let Some(asked) = sample.recovery_action else { return Evidence::Nothing };
    let cause = Cause::RecoveryAction { asked };
    Evidence::of(Some(asked != 0 && Rule::of(&cause) == Some(rule)), cause)
}

/// A margin at or below zero without clocks cut for heat is not to be believed: seen on H100 (GPUd).
fn margin(sample: &GpuSample) -> Evidence {
    let Some(margin) = sample.thermal_margin else { return Evidence::Nothing };
    let cut = sample.clock_event_reasons.is_some_and(|reasons| reasons & THERMAL != 0);
    if margin <= MARGIN_LOW && (margin > Celsius(0) || cut) {
        Evidence::Bad(Cause::ThermalMargin { celsius: margin.0 })
    } else if margin >= MARGIN_GOOD {
        Evidence::Clean
    } else {
        Evidence::Nothing
    }
}

fn limit(sample: &GpuSample) -> Evidence {
    let (Some(margin), Some(reasons)) = (sample.thermal_margin, sample.clock_event_reasons) else {
        return Evidence::Nothing;
    };
    let cause = Cause::ThermalLimit { celsius: margin.0 };
    Evidence::of(Some(margin <= Celsius(0) && reasons & THERMAL != 0), cause)
}

/// Replays of the last whole minute. A good link errs in one of 10^12 bits (PCI Express base specification), as DCGM has it.
fn replays(sample: &GpuSample, before: &Before) -> Evidence {
    let (Some(per_minute), Some(link)) = (before.replays_per_minute, sample.pcie_link) else {
        return Evidence::Nothing;
    };
    // Gigatransfers per second of the generations from the first on.
    let speed = match link.generation {
        1 => 2.5,
        2 => 5.0,
        3 => 8.0,
        4 => 16.0,
        5 => 32.0,
        6 => 64.0,
        _ => return Evidence::Nothing,
    };
    let most = (speed * BIT_ERRORS_PER_MINUTE * f64::from(link.lanes)).ceil();
    let cause = Cause::PcieReplays { per_minute, most: whole(most) };
    Evidence::of(Some(f64::from(per_minute) > most), cause)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 62 a lane, and bounded")]
fn whole(most: f64) -> u32 {
    most.clamp(0.0, 1e6) as u32
}

/// Its clock against the full one, while it works. A clock far below it needs no throttling to be slow: somebody may
/// have locked it there.
fn clock(rule: Rule, info: &GpuInfo, sample: &GpuSample, before: &Before) -> Evidence {
    let (Some(mhz), Some(max_mhz), Some(reasons)) =
        (sample.sm_clock_mhz, info.sm_clock_max_mhz, sample.clock_event_reasons)
    else {
        return Evidence::Nothing;
    };
    let (throttled, capped) = (reasons & THROTTLED != 0, reasons & SW_POWER_CAP != 0);
    let ratio = clock_ratio(mhz, max_mhz).get();
    let cause = Cause::SlowClock { mhz, max_mhz };
    let (applies, cause) = match rule == Rule::PowerCap {
        true => (capped && !throttled, Cause::PowerCap { mhz, max_mhz }),
        false if throttled => (true, cause),
        false if before.low_for >= LOW_AFTER => return Evidence::Bad(cause),
        // An idle GPU rests at a low clock, and one that begins to work takes a moment.
        false if ratio < LOW_CLOCK => return Evidence::Nothing,
        false => (false, cause),
    };
    if !applies {
        return Evidence::Clean;
    }
    if !is_busy(sample, BUSY) {
        return Evidence::Nothing;
    }
    Evidence::of(Some(ratio < FULL_CLOCK), cause)
}

fn is_busy(sample: &GpuSample, share: f64) -> bool {
    sample.busy.or(sample.sm_active).is_some_and(|busy| busy.get() >= share)
}

/// Whether it is at work all the time at a clock far below the full one, and the driver names no reason.
pub(super) fn is_locked_low(info: &GpuInfo, sample: &GpuSample) -> bool {
    let (Some(mhz), Some(max_mhz), Some(reasons)) =
        (sample.sm_clock_mhz, info.sm_clock_max_mhz, sample.clock_event_reasons)
    else {
        return false;
    };
    reasons & (THROTTLED | SW_POWER_CAP | GPU_IDLE) == 0
        && clock_ratio(mhz, max_mhz).get() < LOW_CLOCK
        && is_busy(sample, HARD_AT_WORK)
}

/// The share of the full clock.
pub(crate) fn clock_ratio(mhz: u32, max_mhz: u32) -> Ratio {
    Ratio::clamped(f64::from(mhz) / f64::from(max_mhz.max(1)))
}
