//! What was so before, where a reading alone says nothing: counters have counted since long before this scheduler.

use std::collections::VecDeque;

use aya_domain::{GpuSample, MonoTime};

use super::rules::UNKNOWN_XIDS_WITHIN;

/// Unknown XIDs remembered per GPU; the oldest is forgotten.
const REMEMBERED: usize = 32;

/// What earlier readings of one GPU said; absent where none did.
#[derive(Debug, Clone, Default)]
pub(crate) struct Before {
    /// Memory errors that could not be corrected.
    pub(crate) ecc: Option<u64>,
    pub(crate) nvlink_errors: Option<u64>,
    /// The most NVLinks that were ever up.
    pub(crate) nvlinks_active: Option<u32>,
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
