//! What was so before, where a reading alone says nothing: counters have counted since long before this scheduler.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::{GpuInfo, GpuSample, MonoTime};

use super::rules::UNKNOWN_XIDS_WITHIN;
use super::signals::is_locked_low;

/// Unknown XIDs remembered per GPU; the oldest is forgotten.
const REMEMBERED: usize = 32;

/// The window that replays are counted in.
const MINUTE: Duration = Duration::from_secs(60);

/// What earlier readings of one GPU said; absent where none did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// Memory errors that could not be corrected.
    pub(crate) ecc: Option<u64>,
    pub(crate) nvlink_errors: Option<u64>,
    /// The most NVLinks that were ever up.
    pub(crate) nvlinks_active: Option<u32>,
    /// How long it has worked at a clock far below the full one without a reason.
    pub(crate) low_for: Duration,
    low_since: Option<MonoTime>,
    /// PCIe replays of the last whole window.
    pub(crate) replays_per_minute: Option<u32>,
    replays_since: Option<(MonoTime, u64)>,
    energy: u64,
    unknown_xids: VecDeque<MonoTime>,
}

impl Before {
    /// Counters that went back: the driver was loaded anew, or the GPU was reset.
    pub(crate) fn was_reset(&mut self, sample: &GpuSample) -> bool {
        let fewer = sample.ecc_uncorrected.zip(self.ecc).is_some_and(|(now, before)| now < before);
        let reset = fewer || sample.energy_millijoules.is_some_and(|now| now < self.energy);
        if reset {
            // They count from zero again: whatever they say now is new.
            (self.ecc, self.nvlink_errors) = (self.ecc.map(|_| 0), self.nvlink_errors.map(|_| 0));
        }
        self.energy = sample.energy_millijoules.unwrap_or(self.energy);
        reset
    }

    /// Looks at the clock of this reading.
    pub(crate) fn time_clock(&mut self, info: &GpuInfo, sample: &GpuSample, at: MonoTime) {
        self.low_since = is_locked_low(info, sample).then(|| self.low_since.unwrap_or(at));
        self.low_for = self.low_since.map_or(Duration::ZERO, |since| at.since(since));
    }

    /// Counts the link's replays up to this reading.
    pub(crate) fn count_replays(&mut self, sample: &GpuSample, at: MonoTime) {
        let Some(replays) = sample.pcie_replays else { return };
        match self.replays_since {
            Some((since, before)) if replays >= before => {
                let passed = at.since(since);
                if passed >= MINUTE {
                    let rate = (replays - before).saturating_mul(60) / passed.as_secs().max(1);
                    self.replays_per_minute = Some(u32::try_from(rate).unwrap_or(u32::MAX));
                    self.replays_since = Some((at, replays));
                }
            }
            // The first count, or one that began anew.
            Some(_) | None => self.replays_since = Some((at, replays)),
        }
    }

    /// This reading has been looked at.
    pub(crate) fn note(&mut self, sample: &GpuSample) {
        self.ecc = sample.ecc_uncorrected.or(self.ecc);
        self.nvlink_errors = sample.nvlink_errors.or(self.nvlink_errors);
        self.nvlinks_active = self.nvlinks_active.max(sample.nvlinks_active);
    }

    /// An error that no table knows; how many there were within an hour.
    pub(crate) fn unknown_xid(&mut self, at: MonoTime) -> u32 {
        if self.unknown_xids.len() == REMEMBERED {
            self.unknown_xids.pop_front();
        }
        self.unknown_xids.push_back(at);
        self.unknown_xids.retain(|seen| at.since(*seen) < UNKNOWN_XIDS_WITHIN);
        u32::try_from(self.unknown_xids.len()).unwrap_or(u32::MAX)
    }
}
