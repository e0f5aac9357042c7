//! What is wrong with an endpoint although its engine answers: which rule saw it, what is done about it.
//!
//! One list for every rule that watches from outside, so that the filter, the records and the API need not know who
//! found what. Data only: when a condition begins and ends is the business of the fleet.

use std::fmt;
use std::time::Duration;

use crate::{GpuUuid, MonoTime, PcieLink, Ratio};

/// What a condition does to placement, from nothing to everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Nothing but being said and counted.
    Note,
    /// Everything is predicted slower: at this share of the full speed.
    Derate(Ratio),
    /// At most so many requests of ours at once.
    Limit(u32),
    /// No new requests; running ones finish. Ends by itself when its cause has gone.
    Drain,
    /// As drain, but only an operator or a reset of the GPU ends it.
    Cordon,
    /// As cordon; what runs there is expected to fail.
    Fail,
}

impl Action {
    /// The name used in the configuration, the API, records and metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Derate(_) => "derate",
            Self::Limit(_) => "limit",
            Self::Drain => "drain",
            Self::Cordon => "cordon",
            Self::Fail => "fail",
        }
    }

    /// Whether new requests are kept away.
    #[must_use]
    pub const fn excludes(&self) -> bool {
        matches!(self, Self::Drain | Self::Cordon | Self::Fail)
    }

    /// 0 for a note to 5 for a failure.
    #[must_use]
    pub const fn severity(&self) -> u8 {
        match self {
            Self::Note => 0,
            Self::Derate(_) => 1,
            Self::Limit(_) => 2,
            Self::Drain => 3,
            Self::Cordon => 4,
            Self::Fail => 5,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Derate(speed) => write!(f, "derate to {:.0} %", speed.get() * 100.0),
            Self::Limit(most) => write!(f, "limit to {most} at once"),
            Self::Note | Self::Drain | Self::Cordon | Self::Fail => f.pad(self.as_str()),
        }
    }
}

/// What made a breaker open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// So many requests failed one after the other.
    InARow { failures: u32 },
    /// So many of the window's requests failed.
    Share { failed: u32, of: u32 },
    /// It took requests and gave nothing back for so long.
    Wedged { silent: Duration },
    /// Its synthetic generations failed.
    Probe { failures: u32 },
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow { failures } => write!(f, "{failures} failures in a row"),
            Self::Share { failed, of } => write!(f, "{failed} of {of} requests failed"),
            Self::Wedged { silent } => {
                write!(f, "it held requests for {:.1} s and gave no tokens", silent.as_secs_f64())
            }
            Self::Probe { failures } => write!(f, "{failures} synthetic generations failed"),
        }
    }
}

/// What a rule saw, with the numbers behind it. A closed list: every rule has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The driver told a critical error.
    Xid { code: u32 },
    /// Memory errors that could not be corrected, since the driver was loaded.
    EccUncorrected { errors: u64 },
    /// A row of memory waits for a reset to be replaced.
    RowRemapPending,
    /// A row of memory could not be replaced.
    RowRemapFailed,
    /// What the driver asks for: 1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain and reset.
    RecoveryAction { asked: u32 },
    /// Degrees left to the maximum operating temperature.
    ThermalMargin { celsius: i32 },
    /// No margin left, and the clocks are cut for it.
    ThermalLimit { celsius: i32 },
    /// Software cuts the clocks because of heat.
    SwThermal,
    /// Hardware cuts the clocks because of heat.
    HwThermal,
    /// The power supply asks for less.
    PowerBrake,
    /// Hardware cuts the clocks and does not say why.
    HwSlowdown,
    /// It works at a lower clock than it could.
    SlowClock { mhz: u32, max_mhz: u32 },
    /// The same because of its power limit, which is normal at full load.
    PowerCap { mhz: u32, max_mhz: u32 },
    /// Its PCIe link is slower than it could be, at work.
    PcieLink { link: PcieLink },
    /// What its PCIe link had to send again, and the most that a good link of its kind does.
    PcieReplays { per_minute: u32, most: u32 },
    /// Replays and recoveries of its NVLinks, since the driver was loaded.
    NvlinkErrors { errors: u64 },
    /// Fewer of its NVLinks are up than were before.
    NvlinkInactive { active: u32, before: u32 },
    /// A page of memory waits for a reboot to be taken out of use.
    PageRetirementPending,
    /// So many pages of memory are out of use that there is hardly room for more.
    PagesRetired { pages: u32 },
    /// So many errors (XIDs) within an hour that no table knows.
    UnknownXids { count: u32 },
    /// It was there and is not any more.
    GpuLost,
    /// Its driver does not answer, so nothing is known of it.
    DriverStalled,
    /// The endpoint's breaker is open until then.
    Ejected { trip: Trip, until: MonoTime },
    /// The endpoint's breaker would be open, but too much of the pool is.
    Failing { trip: Trip },
    /// The endpoint holds requests and gives no tokens; the time is that of the finding.
    Wedged { silent: Duration },
    /// The endpoint's ejection is over, and a first success is waited for.
    HalfOpen { trip: Trip },
    /// The endpoint is new or came back, and is given its share step by step.
    SlowStart,
    /// The endpoint's answers take so many percent of the time that its peers' take, predictions being equal.
    SlowerThanPeers { percent: u32 },
}

impl Cause {
    /// The rule's name in the configuration, the API, records and metrics.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Xid { .. } => "xid",
            Self::EccUncorrected { .. } => "ecc_uncorrected",
            Self::RowRemapPending => "row_remap_pending",
            Self::RowRemapFailed => "row_remap_failed",
            Self::RecoveryAction { asked: 1 | 4 } => "recovery_reset",
            Self::RecoveryAction { asked: 2 } => "recovery_reboot",
            Self::RecoveryAction { .. } => "recovery_other",
            Self::ThermalMargin { .. } => "thermal_margin",
            Self::ThermalLimit { .. } => "thermal_limit",
            Self::SwThermal => "sw_thermal",
            Self::HwThermal => "hw_thermal",
            Self::PowerBrake => "power_brake",
            Self::HwSlowdown => "hw_slowdown",
            Self::SlowClock { .. } => "slow_clock",
            Self::PowerCap { .. } => "power_cap",
            Self::PcieLink { .. } => "pcie_link",
            Self::PcieReplays { .. } => "pcie_replays",
            Self::NvlinkErrors { .. } => "nvlink_errors",
            Self::NvlinkInactive { .. } => "nvlink_inactive",
            Self::PageRetirementPending => "page_retirement_pending",
            Self::PagesRetired { .. } => "pages_retired",
            Self::UnknownXids { .. } => "unknown_xids",
            Self::GpuLost => "gpu_lost",
            Self::DriverStalled => "driver_stalled",
            Self::Ejected { .. } => "ejected",
            Self::Failing { .. } => "failing",
            Self::Wedged { .. } => "wedged",
            Self::HalfOpen { .. } => "half_open",
            Self::SlowStart => "slow_start",
            Self::SlowerThanPeers { .. } => "slower_than_peers",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xid { code } => write!(f, "XID {code}"),
            Self::EccUncorrected { errors } => write!(f, "{errors} uncorrectable memory errors"),
            Self::RowRemapPending => f.write_str("a memory row waits for a reset to be replaced"),
            Self::RowRemapFailed => f.write_str("a memory row could not be replaced"),
            Self::RecoveryAction { asked } => f.write_str(match asked {
                1 => "the driver asks for a reset",
                2 => "the driver asks for a reboot",
                3 => "the driver asks for peer-to-peer to be drained",
                4 => "the driver asks for a drain and a reset",
                5 => "the driver asks for IMEX to be recovered",
                _ => "the driver asks for a recovery",
            }),
            Self::ThermalMargin { celsius } => write!(f, "{celsius} C below its maximum temperature"),
            Self::ThermalLimit { celsius } => {
                write!(f, "no thermal margin left ({celsius} C) and clocks cut for it")
            }
            Self::SwThermal => f.write_str("clocks cut by software because of heat"),
            Self::HwThermal => f.write_str("clocks cut by hardware because of heat"),
            Self::PowerBrake => f.write_str("clocks cut by the power brake"),
            Self::HwSlowdown => f.write_str("clocks cut by hardware"),
            Self::SlowClock { mhz, max_mhz } => write!(f, "throttled to {mhz} of {max_mhz} MHz"),
            Self::PowerCap { mhz, max_mhz } => {
                write!(f, "at {mhz} of {max_mhz} MHz by its power limit")
            }
            Self::PcieLink { link } => {
                let PcieLink { generation, lanes, generation_max, lanes_max } = link;
                write!(f, "PCIe generation {generation} x{lanes} of {generation_max} x{lanes_max} at work")
            }
            Self::PcieReplays { per_minute, most } => {
                write!(f, "{per_minute} PCIe replays per minute, {most} is the most of a good link")
            }
            Self::NvlinkErrors { errors } => write!(f, "{errors} NVLink replays and recoveries"),
            Self::NvlinkInactive { active, before } => write!(f, "{active} of {before} NVLinks are up"),
            Self::PageRetirementPending => f.write_str("a memory page waits for a reboot to be retired"),
            Self::PagesRetired { pages } => write!(f, "{pages} memory pages are retired"),
            Self::UnknownXids { count } => write!(f, "{count} unknown XIDs within an hour"),
            Self::GpuLost => f.write_str("the GPU is lost"),
            Self::DriverStalled => f.write_str("the GPU driver does not answer"),
            Self::Ejected { trip, .. } => write!(f, "ejected: {trip}"),
            Self::Failing { trip } => write!(f, "{trip}, kept in because too much of its pool is out"),
            Self::Wedged { silent } => {
                write!(f, "wedged: it held requests for {:.1} s and gave no tokens", silent.as_secs_f64())
            }
            Self::HalfOpen { trip } => write!(f, "on trial after: {trip}"),
            Self::SlowStart => f.write_str("given its share step by step"),
            Self::SlowerThanPeers { percent } => {
                write!(f, "its answers take {percent} % of its peers' time")
            }
        }
    }
}

/// One thing that is wrong with an endpoint, or with a GPU beneath it.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub cause: Cause,
    /// What is done about it now.
    pub action: Action,
    /// What the rule asked for, where something else is done: too many of a pool would be taken at once.
    pub braked: Option<Action>,
    /// The GPU that it was seen on; `None`: it is about the endpoint itself.
    pub gpu: Option<GpuUuid>,
    pub since: MonoTime,
    /// Its cause has gone, and the endpoint comes back slowly.
    pub recovering: bool,
}

/// How fast something is under these conditions: as its worst derate says. They are not multiplied, because several
/// rules see one cause (heat: margin, clock reason and clock).
#[must_use]
pub fn speed_under(conditions: &[Condition]) -> Ratio {
    let speeds = conditions.iter().filter_map(|condition| match condition.action {
        Action::Derate(speed) => Some(speed),
        Action::Note | Action::Limit(_) | Action::Drain | Action::Cordon | Action::Fail => None,
    });
    speeds.fold(Ratio::ONE, |least, speed| if speed < least { speed } else { least })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_in_the_order_of_what_they_take_away() {
        let all = [
            Action::Note,
            Action::Derate(Ratio::ONE),
            Action::Limit(1),
            Action::Drain,
            Action::Cordon,
            Action::Fail,
        ];
        assert!(all.is_sorted_by_key(Action::severity));
        assert_eq!(all.map(|action| action.excludes()), [false, false, false, true, true, true]);
    }
}
