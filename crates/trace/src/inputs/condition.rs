//! Conditions of endpoints, exactly.

use std::time::Duration;

use aya_domain::{Action, Cause, Condition, GpuUuid, MonoTime, PcieLink, Ratio, Trip};
use serde::{Deserialize, Serialize};

use super::exact::Exact;

/// One condition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConditionJson {
    cause: String,
    /// The numbers of the cause, 0 where it has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    numbers: (u64, u64),
    action: ActionJson,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    braked: Option<ActionJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gpu: Option<String>,
    since_ns: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    recovering: bool,
}

const fn is_zero(numbers: &(u64, u64)) -> bool {
    numbers.0 == 0 && numbers.1 == 0
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ActionJson {
    Note,
    Derate(Exact),
    Limit(u32),
    Drain,
    Cordon,
    Fail,
}

impl From<Action> for ActionJson {
    fn from(action: Action) -> Self {
        match action {
            Action::Note => Self::Note,
            Action::Derate(speed) => Self::Derate(Exact(speed.get())),
            Action::Limit(most) => Self::Limit(most),
            Action::Drain => Self::Drain,
            Action::Cordon => Self::Cordon,
            Action::Fail => Self::Fail,
        }
    }
}

impl ActionJson {
    fn action(self) -> Result<Action, String> {
        Ok(match self {
            Self::Note => Action::Note,
            Self::Derate(speed) => {
                Action::Derate(Ratio::new(speed.0).map_err(|error| format!("derate: {error}"))?)
            }
            Self::Limit(most) => Action::Limit(most),
            Self::Drain => Action::Drain,
            Self::Cordon => Action::Cordon,
            Self::Fail => Action::Fail,
        })
    }
}

impl From<&Condition> for ConditionJson {
    fn from(condition: &Condition) -> Self {
        let Condition { cause, action, braked, gpu, since, recovering } = condition;
        let (name, first, second) = parts(*cause);
        Self {
            cause: name.to_owned(),
            numbers: (first, second),
            action: (*action).into(),
            braked: braked.map(ActionJson::from),
            gpu: gpu.as_ref().map(ToString::to_string),
            since_ns: since.as_nanos(),
            recovering: *recovering,
        }
    }
}

impl ConditionJson {
    pub(super) fn condition(&self) -> Result<Condition, String> {
        let gpu = self.gpu.as_ref().map(|id| GpuUuid::parse(id).map_err(|e| format!("gpu {id:?}: {e}")));
        Ok(Condition {
            cause: cause(&self.cause, self.numbers)?,
            action: self.action.action()?,
            braked: self.braked.map(ActionJson::action).transpose()?,
            gpu: gpu.transpose()?,
            since: MonoTime::from_nanos(self.since_ns),
            recovering: self.recovering,
        })
    }
}

/// A cause as its name and two numbers; a negative one as its two's complement.
pub(super) fn parts(cause: Cause) -> (&'static str, u64, u64) {
    let signed = |number: i32| i64::from(number).cast_unsigned();
    match cause {
        Cause::Xid { code } => ("xid", u64::from(code), 0),
        Cause::EccUncorrected { errors } => ("ecc_uncorrected", errors, 0),
        Cause::RowRemapPending => ("row_remap_pending", 0, 0),
        Cause::RowRemapFailed => ("row_remap_failed", 0, 0),
        Cause::RecoveryAction { asked } => ("recovery_action", u64::from(asked), 0),
        Cause::ThermalMargin { celsius } => ("thermal_margin", signed(celsius), 0),
        Cause::ThermalLimit { celsius } => ("thermal_limit", signed(celsius), 0),
        Cause::SwThermal => ("sw_thermal", 0, 0),
        Cause::HwThermal => ("hw_thermal", 0, 0),
        Cause::PowerBrake => ("power_brake", 0, 0),
        Cause::HwSlowdown => ("hw_slowdown", 0, 0),
        Cause::SlowClock { mhz, max_mhz } => ("slow_clock", u64::from(mhz), u64::from(max_mhz)),
        Cause::PowerCap { mhz, max_mhz } => ("power_cap", u64::from(mhz), u64::from(max_mhz)),
        Cause::PcieLink { link } => {
            let pair = |now: u32, most: u32| (u64::from(now) << 32) | u64::from(most);
            ("pcie_link", pair(link.generation, link.generation_max), pair(link.lanes, link.lanes_max))
        }
        Cause::PcieReplays { per_minute, most } => ("pcie_replays", u64::from(per_minute), u64::from(most)),
        Cause::NvlinkErrors { errors } => ("nvlink_errors", errors, 0),
        Cause::NvlinkInactive { active, before } => ("nvlink_inactive", u64::from(active), u64::from(before)),
        Cause::PageRetirementPending => ("page_retirement_pending", 0, 0),
        Cause::PagesRetired { pages } => ("pages_retired", u64::from(pages), 0),
        Cause::UnknownXids { count } => ("unknown_xids", u64::from(count), 0),
        Cause::GpuLost => ("gpu_lost", 0, 0),
        Cause::DriverStalled => ("driver_stalled", 0, 0),
        Cause::Ejected { trip, until } => {
            let (name, number) = trip_parts(trip, EJECTED);
            (name, number, until.as_nanos())
        }
        Cause::Failing { trip } => {
            let (name, number) = trip_parts(trip, FAILING);
            (name, number, 0)
        }
        Cause::HalfOpen { trip } => {
            let (name, number) = trip_parts(trip, HALF_OPEN);
            (name, number, 0)
        }
        Cause::Wedged { silent } => ("wedged", nanos(silent), 0),
        Cause::SlowStart => ("slow_start", 0, 0),
        Cause::SlowerThanPeers { percent } => ("slower_than_peers", u64::from(percent), 0),
    }
}

/// Names of a cause with each kind of trip: in a row, share, wedged, probe.
type TripNames = [&'static str; 4];
const EJECTED: TripNames = ["ejected_in_a_row", "ejected_share", "ejected_wedged", "ejected_probe"];
const FAILING: TripNames = ["failing_in_a_row", "failing_share", "failing_wedged", "failing_probe"];
const HALF_OPEN: TripNames = ["half_open_in_a_row", "half_open_share", "half_open_wedged", "half_open_probe"];

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What made a breaker open, as a name and a number.
pub(super) const fn trip_number(trip: Trip) -> u64 {
    match trip {
        Trip::InARow { failures } | Trip::Probe { failures } => failures as u64,
        Trip::Share { failed, of } => ((failed as u64) << 32) | of as u64,
        Trip::Wedged { silent } => silent.as_secs() * 1_000_000_000 + silent.subsec_nanos() as u64,
    }
}

const fn trip_parts(trip: Trip, [in_a_row, share, wedged, probe]: TripNames) -> (&'static str, u64) {
    let name = match trip {
        Trip::InARow { .. } => in_a_row,
        Trip::Share { .. } => share,
        Trip::Wedged { .. } => wedged,
        Trip::Probe { .. } => probe,
    };
    (name, trip_number(trip))
}

/// The inverse of [`trip_parts`]; `None` if the name is another's.
fn trip(name: &str, names: TripNames, number: u64) -> Option<Trip> {
    let few = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let failures = few(number);
    Some(match names.iter().position(|known| *known == name)? {
        0 => Trip::InARow { failures },
        1 => Trip::Share { failed: few(number >> 32), of: few(number & u64::from(u32::MAX)) },
        2 => Trip::Wedged { silent: Duration::from_nanos(number) },
        _ => Trip::Probe { failures },
    })
}

/// The causes that hold a trip.
fn tripped(name: &str, first: u64, second: u64) -> Option<Cause> {
    let ejected = |trip| Cause::Ejected { trip, until: MonoTime::from_nanos(second) };
    trip(name, EJECTED, first)
        .map(ejected)
        .or_else(|| trip(name, FAILING, first).map(|trip| Cause::Failing { trip }))
        .or_else(|| trip(name, HALF_OPEN, first).map(|trip| Cause::HalfOpen { trip }))
}

/// The inverse of [`parts`].
fn cause(name: &str, (first, second): (u64, u64)) -> Result<Cause, String> {
    let bad = |_| format!("{first} or {second} is no number of cause {name:?}");
    let small = |number: u64| u32::try_from(number).map_err(bad);
    let signed = || i32::try_from(first.cast_signed()).map_err(bad);
    let upper = |pair: u64| u32::try_from(pair >> 32).unwrap_or(u32::MAX);
    let lower = |pair: u64| u32::try_from(pair & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    Ok(match name {
        "xid" => Cause::Xid { code: small(first)? },
        "ecc_uncorrected" => Cause::EccUncorrected { errors: first },
        "row_remap_pending" => Cause::RowRemapPending,
        "row_remap_failed" => Cause::RowRemapFailed,
        "recovery_action" => Cause::RecoveryAction { asked: small(first)? },
        "thermal_margin" => Cause::ThermalMargin { celsius: signed()? },
        "thermal_limit" => Cause::ThermalLimit { celsius: signed()? },
        "sw_thermal" => Cause::SwThermal,
        "hw_thermal" => Cause::HwThermal,
        "power_brake" => Cause::PowerBrake,
        "hw_slowdown" => Cause::HwSlowdown,
        "slow_clock" => Cause::SlowClock { mhz: small(first)?, max_mhz: small(second)? },
        "power_cap" => Cause::PowerCap { mhz: small(first)?, max_mhz: small(second)? },
        "pcie_link" => Cause::PcieLink {
            link: PcieLink {
                generation: upper(first),
                lanes: upper(second),
                generation_max: lower(first),
                lanes_max: lower(second),
            },
        },
        "pcie_replays" => Cause::PcieReplays { per_minute: small(first)?, most: small(second)? },
        "nvlink_errors" => Cause::NvlinkErrors { errors: first },
        "nvlink_inactive" => Cause::NvlinkInactive { active: small(first)?, before: small(second)? },
        "page_retirement_pending" => Cause::PageRetirementPending,
        "pages_retired" => Cause::PagesRetired { pages: small(first)? },
        "unknown_xids" => Cause::UnknownXids { count: small(first)? },
        "gpu_lost" => Cause::GpuLost,
        "driver_stalled" => Cause::DriverStalled,
        "wedged" => Cause::Wedged { silent: Duration::from_nanos(first) },
        "slow_start" => Cause::SlowStart,
        "slower_than_peers" => Cause::SlowerThanPeers { percent: small(first)? },
        _ => return tripped(name, first, second).ok_or_else(|| format!("unknown cause {name:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_and_action_comes_back() {
        let gpu = || Some(GpuUuid::parse("GPU-1").unwrap());
        let causes = [
            Cause::Xid { code: 79 },
            Cause::Ejected { trip: Trip::Share { failed: 7, of: 9 }, until: MonoTime::from_millis(8) },
            Cause::Failing { trip: Trip::InARow { failures: 3 } },
            Cause::HalfOpen { trip: Trip::Wedged { silent: Duration::from_millis(3_100) } },
            Cause::HalfOpen { trip: Trip::Probe { failures: 2 } },
            Cause::Wedged { silent: Duration::from_secs(3) },
            Cause::SlowStart,
            Cause::SlowerThanPeers { percent: 250 },
            Cause::EccUncorrected { errors: u64::MAX },
            Cause::RowRemapPending,
            Cause::RowRemapFailed,
            Cause::RecoveryAction { asked: 4 },
            Cause::ThermalMargin { celsius: -7 },
            Cause::ThermalLimit { celsius: i32::MIN },
            Cause::SwThermal,
            Cause::HwThermal,
            Cause::PowerBrake,
            Cause::HwSlowdown,
            Cause::SlowClock { mhz: 345, max_mhz: 1980 },
            Cause::PowerCap { mhz: 1, max_mhz: u32::MAX },
            Cause::PcieLink {
                link: PcieLink { generation: 1, lanes: 8, generation_max: u32::MAX, lanes_max: 16 },
            },
            Cause::NvlinkErrors { errors: 12 },
            Cause::NvlinkInactive { active: 17, before: 18 },
            Cause::PageRetirementPending,
            Cause::PagesRetired { pages: 63 },
            Cause::UnknownXids { count: 3 },
            Cause::PcieReplays { per_minute: 40, most: 31 },
            Cause::GpuLost,
            Cause::DriverStalled,
        ];
        let derate = Action::Derate(Ratio::clamped(1.0 / 3.0));
        let actions = [Action::Note, derate, Action::Drain, Action::Cordon, Action::Fail];
        for (cause, action) in causes.into_iter().zip(actions.into_iter().cycle()) {
            let (braked, since) = (Some(action), MonoTime::from_millis(9));
            let condition = Condition { cause, action, braked, gpu: gpu(), since, recovering: true };
            let text = serde_json::to_string(&ConditionJson::from(&condition)).unwrap();
            let back: ConditionJson = serde_json::from_str(&text).unwrap();
            assert_eq!(back.condition(), Ok(condition), "{text}");
        }
    }
}
