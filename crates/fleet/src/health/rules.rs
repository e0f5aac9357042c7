//! The rules as data: what each does by default, how long its evidence must last, when it ends; and what operators
//! made of it.

use std::collections::BTreeMap;
use std::time::Duration;

use aya_domain::{Action, Cause, Ratio};

use super::table::{XidClass, xid};

/// One rule. Thresholds are those of DCGM, GPUd and NVIDIA's documentation where they give one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Xid,
    EccUncorrected,
    RowRemapPending,
    RowRemapFailed,
    RecoveryReset,
    RecoveryReboot,
    RecoveryOther,
    ThermalMargin,
    ThermalLimit,
    SwThermal,
    HwThermal,
    PowerBrake,
    HwSlowdown,
    SlowClock,
    PowerCap,
    PcieLink,
    PcieReplays,
    NvlinkErrors,
    NvlinkInactive,
    PageRetirementPending,
    PagesRetired,
    UnknownXids,
    GpuLost,
    DriverStalled,
}

impl Rule {
    /// In the order of the documentation.
    pub const ALL: [Self; 24] = [
        Self::Xid,
        Self::EccUncorrected,
        Self::RowRemapPending,
        Self::RowRemapFailed,
        Self::RecoveryReset,
        Self::RecoveryReboot,
        Self::RecoveryOther,
        Self::ThermalMargin,
        Self::ThermalLimit,
        Self::SwThermal,
        Self::HwThermal,
        Self::PowerBrake,
        Self::HwSlowdown,
        Self::SlowClock,
        Self::PowerCap,
        Self::PcieLink,
        Self::PcieReplays,
        Self::NvlinkErrors,
        Self::NvlinkInactive,
        Self::PageRetirementPending,
        Self::PagesRetired,
        Self::UnknownXids,
        Self::GpuLost,
        Self::DriverStalled,
    ];

    /// Those that a reading of a GPU can show; the others are events, counts of them, and silence.
    pub(crate) fn of_readings() -> impl Iterator<Item = Self> {
        let is_other =
            |rule: &Self| matches!(rule, Self::Xid | Self::UnknownXids | Self::GpuLost | Self::DriverStalled);
        Self::ALL.into_iter().filter(move |rule| !is_other(rule))
    }

    /// The rule that has such causes; `None`: it is no rule about GPUs.
    #[must_use]
    pub fn of(cause: &Cause) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.as_str() == cause.rule())
    }

    /// The name used in the configuration, the API, records and metrics; that of its causes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xid => "xid",
            Self::EccUncorrected => "ecc_uncorrected",
            Self::RowRemapPending => "row_remap_pending",
            Self::RowRemapFailed => "row_remap_failed",
            Self::RecoveryReset => "recovery_reset",
            Self::RecoveryReboot => "recovery_reboot",
            Self::RecoveryOther => "recovery_other",
            Self::ThermalMargin => "thermal_margin",
            Self::ThermalLimit => "thermal_limit",
            Self::SwThermal => "sw_thermal",
            Self::HwThermal => "hw_thermal",
            Self::PowerBrake => "power_brake",
            Self::HwSlowdown => "hw_slowdown",
            Self::SlowClock => "slow_clock",
            Self::PowerCap => "power_cap",
            Self::PcieLink => "pcie_link",
            Self::PcieReplays => "pcie_replays",
            Self::NvlinkErrors => "nvlink_errors",
            Self::NvlinkInactive => "nvlink_inactive",
            Self::PageRetirementPending => "page_retirement_pending",
            Self::PagesRetired => "pages_retired",
            Self::UnknownXids => "unknown_xids",
            Self::GpuLost => "gpu_lost",
            Self::DriverStalled => "driver_stalled",
        }
    }

    /// Whether one thing outside (heat, power, a driver release) can bring it to many GPUs at once: the brake's case.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        match self {
            Self::ThermalMargin
            | Self::ThermalLimit
            | Self::SwThermal
            | Self::HwThermal
            | Self::PowerBrake
            | Self::HwSlowdown
            | Self::SlowClock
            | Self::PowerCap
            | Self::DriverStalled => true,
            Self::Xid
            | Self::EccUncorrected
            | Self::RowRemapPending
            | Self::RowRemapFailed
            | Self::RecoveryReset
            | Self::RecoveryReboot
            | Self::RecoveryOther
            | Self::PcieLink
            | Self::PcieReplays
            | Self::NvlinkErrors
            | Self::NvlinkInactive
            | Self::PageRetirementPending
            | Self::PagesRetired
            | Self::UnknownXids
            | Self::GpuLost => false,
        }
    }

    /// Whether it is about engines on several GPUs only: they talk over the links.
    pub(crate) const fn is_between_gpus(self) -> bool {
        matches!(self, Self::NvlinkErrors | Self::NvlinkInactive)
    }

    /// Whether a good reading ends even a cordon: the driver itself says that it is over.
    pub(crate) const fn is_told_over(self) -> bool {
        matches!(
            self,
            Self::RecoveryReset
                | Self::RecoveryReboot
                | Self::RecoveryOther
                | Self::GpuLost
                | Self::DriverStalled
        )
    }

    /// What it does unless an operator says otherwise: action, how long its evidence must last, and how long it must be
    /// gone.
    #[must_use]
    pub fn by_default(self) -> RuleSettings {
        let settings = |action, after_s, clear_after_s| RuleSettings {
            action: Some(action),
            after: Duration::from_secs(after_s),
            clear_after: Duration::from_secs(clear_after_s),
        };
        let derate = Action::Derate(Ratio::clamped(DEGRADED_SPEED));
        match self {
            // The table says what each code does.
            Self::Xid => settings(Action::Note, 0, 600),
            Self::EccUncorrected | Self::RowRemapFailed => settings(Action::Cordon, 0, 60),
            Self::RecoveryReset => settings(Action::Cordon, 0, 10),
            Self::RecoveryReboot => settings(Action::Fail, 0, 10),
            Self::RowRemapPending
            | Self::PageRetirementPending
            | Self::RecoveryOther
            | Self::ThermalMargin => settings(derate, 0, 60),
            // DCGM fails a GPU from 63 pages on: the driver has room for 64.
            Self::PagesRetired => settings(Action::Cordon, 0, 60),
            // Some readings of the link (every 30 s) while the GPU was never idle: at rest it lowers its generation.
            Self::PcieLink => settings(derate, 120, 60),
            // Its evidence is a minute long already.
            Self::PcieReplays => settings(derate, 0, 60),
            // DCGM fails a GPU at the first one. Data is sent again and not lost, so it is only slower here.
            Self::NvlinkErrors => settings(derate, 0, 600),
            Self::NvlinkInactive => settings(Action::Drain, 45, 60),
            Self::UnknownXids => settings(derate, 0, 3_600),
            Self::SwThermal => settings(derate, 10, 60),
            Self::ThermalLimit | Self::HwThermal | Self::PowerBrake | Self::HwSlowdown => {
                settings(Action::Drain, 30, 60)
            }
            // The factor is the clock's own.
            Self::SlowClock | Self::PowerCap => settings(Action::Derate(Ratio::ONE), 0, 10),
            Self::GpuLost => settings(Action::Fail, 0, 0),
            Self::DriverStalled => settings(Action::Drain, 10, 10),
        }
    }
}

/// The speed that a degraded GPU is predicted with.
const DEGRADED_SPEED: f64 = 0.8;

/// What one rule does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RuleSettings {
    /// `None`: the rule is off.
    pub action: Option<Action>,
    /// How long its evidence must last before it acts.
    pub after: Duration,
    /// How long its evidence must be gone before it ends; of a cordon or failure, only where the driver tells that.
    pub clear_after: Duration,
}

/// What one XID does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct XidRule {
    pub action: Action,
    /// It acts at the so-manieth within [`REPEATS_WITHIN`]; before, it is noted.
    pub repeats: u32,
    /// It is about engines on several GPUs only.
    pub several_gpus_only: bool,
}

/// The time in which XIDs are counted together.
pub const REPEATS_WITHIN: Duration = Duration::from_secs(600);
/// Unknown XIDs of one GPU within this time, and how many of them are worth somebody's look.
pub(crate) const UNKNOWN_XIDS_WITHIN: Duration = Duration::from_secs(3_600);
pub(crate) const UNKNOWN_XIDS: u32 = 3;
/// Application faults of one GPU within that time before it is drained.
const APP_REPEATS: u32 = 3;

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Off: GPUs are shown as they are, and nothing is done.
    pub enabled: bool,
    /// Those that differ from their defaults.
    pub settings: BTreeMap<Rule, RuleSettings>,
    /// Operators' entries; they replace those of the table.
    pub xids: BTreeMap<u32, XidRule>,
    /// Causes that many GPUs share never take more of a pool than this, or one endpoint, and never its last one.
    pub brake_share: Ratio,
    /// How long an endpoint that comes back takes to its full share.
    pub probation: Duration,
}

impl Rules {
    /// The built-in values.
    #[must_use]
    pub fn by_default() -> Self {
        Self {
            enabled: true,
            settings: BTreeMap::new(),
            xids: BTreeMap::new(),
            brake_share: Ratio::clamped(0.2),
            probation: Duration::from_secs(60),
        }
    }

    /// What a rule does.
    #[must_use]
    pub fn of(&self, rule: Rule) -> RuleSettings {
        self.settings.get(&rule).copied().unwrap_or_else(|| rule.by_default())
    }

    /// Whether neither the table nor an operator knows an XID.
    pub(crate) fn is_unknown(&self, code: u32) -> bool {
        xid(code).is_none() && !self.xids.contains_key(&code)
    }

    /// What an XID does. An unknown one is noted.
    #[must_use]
    pub fn of_xid(&self, code: u32) -> XidRule {
        let by_table = || {
            let (action, repeats, several_gpus_only) = match xid(code).map(|row| row.class) {
                None | Some(XidClass::Log | XidClass::ResetSoon) => (Action::Note, 1, false),
                Some(XidClass::App) => (Action::Drain, APP_REPEATS, false),
                Some(XidClass::Link) => (Action::Drain, 1, true),
                Some(XidClass::Reset | XidClass::Board) => (Action::Cordon, 1, false),
                Some(XidClass::Gone) => (Action::Fail, 1, false),
            };
            XidRule { action, repeats, several_gpus_only }
        };
        self.xids.get(&code).copied().unwrap_or_else(by_table)
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::by_default()
    }
}

#[cfg(test)]
mod tests {
    use aya_domain::PcieLink;

    use super::*;

    #[test]
    fn every_cause_belongs_to_the_rule_of_its_name() {
        for (cause, rule) in [
            (Cause::Xid { code: 1 }, Rule::Xid),
            (Cause::EccUncorrected { errors: 1 }, Rule::EccUncorrected),
            (Cause::RowRemapPending, Rule::RowRemapPending),
            (Cause::RowRemapFailed, Rule::RowRemapFailed),
            (Cause::RecoveryAction { asked: 4 }, Rule::RecoveryReset),
            (Cause::RecoveryAction { asked: 2 }, Rule::RecoveryReboot),
            (Cause::RecoveryAction { asked: 3 }, Rule::RecoveryOther),
            (Cause::ThermalMargin { celsius: 1 }, Rule::ThermalMargin),
            (Cause::ThermalLimit { celsius: -1 }, Rule::ThermalLimit),
            (Cause::SwThermal, Rule::SwThermal),
            (Cause::HwThermal, Rule::HwThermal),
            (Cause::PowerBrake, Rule::PowerBrake),
            (Cause::HwSlowdown, Rule::HwSlowdown),
            (Cause::SlowClock { mhz: 1, max_mhz: 2 }, Rule::SlowClock),
            (Cause::PowerCap { mhz: 1, max_mhz: 2 }, Rule::PowerCap),
            (
                Cause::PcieLink {
                    link: PcieLink { generation: 1, lanes: 8, generation_max: 5, lanes_max: 16 },
                },
                Rule::PcieLink,
            ),
            (Cause::PcieReplays { per_minute: 32, most: 31 }, Rule::PcieReplays),
            (Cause::NvlinkErrors { errors: 1 }, Rule::NvlinkErrors),
            (Cause::NvlinkInactive { active: 1, before: 2 }, Rule::NvlinkInactive),
            (Cause::PageRetirementPending, Rule::PageRetirementPending),
            (Cause::PagesRetired { pages: 63 }, Rule::PagesRetired),
            (Cause::UnknownXids { count: 3 }, Rule::UnknownXids),
            (Cause::GpuLost, Rule::GpuLost),
            (Cause::DriverStalled, Rule::DriverStalled),
        ] {
            assert_eq!(Rule::of(&cause), Some(rule), "{cause}");
        }
    }

    #[test]
    fn operators_replace_what_the_table_says() {
        let mut rules = Rules::by_default();
        assert_eq!(rules.of_xid(79).action, Action::Fail);
        assert_eq!(rules.of_xid(31).repeats, 3);
        assert_eq!(rules.of_xid(4_711).action, Action::Note);
        let cordon = XidRule { action: Action::Cordon, repeats: 1, several_gpus_only: false };
        rules.xids.insert(31, cordon);
        assert_eq!(rules.of_xid(31), cordon);
    }
}
