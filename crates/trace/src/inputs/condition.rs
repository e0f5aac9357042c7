//! Conditions of endpoints, exactly.

use aya_domain::{Action, Cause, Condition, GpuUuid, MonoTime, Ratio};
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
    Drain,
    Cordon,
    Fail,
}

impl From<Action> for ActionJson {
    fn from(action: Action) -> Self {
        match action {
            Action::Note => Self::Note,
            Action::Derate(speed) => Self::Derate(Exact(speed.get())),
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
        Cause::GpuLost => ("gpu_lost", 0, 0),
        Cause::DriverStalled => ("driver_stalled", 0, 0),
    }
}

/// The inverse of [`parts`].
fn cause(name: &str, (first, second): (u64, u64)) -> Result<Cause, String> {
    let bad = |_| format!("{first} or {second} is no number of cause {name:?}");
    let small = |number: u64| u32::try_from(number).map_err(bad);
    let signed = || i32::try_from(first.cast_signed()).map_err(bad);
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
        "gpu_lost" => Cause::GpuLost,
        "driver_stalled" => Cause::DriverStalled,
        _ => return Err(format!("unknown cause {name:?}")),
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
