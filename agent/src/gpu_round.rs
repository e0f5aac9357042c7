//! When which device is read, and when its processes are listed.
//!
//! The devices of a host are read one after another through the period, not in one burst: a driver serves one call at a
//! time, for its own clients too.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use aya_domain::{Bytes, GpuSample, GpuUuid, MonoTime};

/// The shortest time between two questions; more devices than fit into a period are read several at a time.
const STEP_MIN: Duration = Duration::from_millis(10);
/// How often the processes are listed, and the change of a GPU's memory that makes it worth looking at once.
const PROCESSES_PERIOD: Duration = Duration::from_secs(5);
const VRAM_JUMP_BYTES: u64 = 256 << 20;

/// Whose turn it is.
#[derive(Debug)]
pub(crate) struct Round {
    period: Duration,
    devices: usize,
    next: usize,
}

impl Round {
    /// Each device once in a period.
    pub(crate) const fn new(period: Duration) -> Self {
        Self { period, devices: 1, next: 0 }
    }

    pub(crate) fn set_devices(&mut self, devices: usize) {
        self.devices = devices.max(1);
    }

    pub(crate) const fn all(&self) -> Range<usize> {
        0..self.devices
    }

    /// How many times in a period something is read.
    fn turns(&self) -> u32 {
        let fit = self.period.as_millis() / STEP_MIN.as_millis();
        let turns = u128::try_from(self.devices).unwrap_or(u128::MAX).min(fit);
        u32::try_from(turns).unwrap_or(u32::MAX).max(1)
    }

    /// Between two questions.
    pub(crate) fn step(&self) -> Duration {
        self.period / self.turns()
    }

    /// The devices that are read now; a question that could not be asked is to be asked the next time.
    pub(crate) fn turn(&self) -> Range<usize> {
        let count = self.devices.div_ceil(usize::try_from(self.turns()).unwrap_or(usize::MAX));
        let from = if self.next < self.devices { self.next } else { 0 };
        from..(from + count).min(self.devices)
    }

    /// These have been asked for.
    pub(crate) const fn done(&mut self, turn: &Range<usize>) {
        self.next = turn.end;
    }
}

/// When the processes were last listed, what each GPU held then, and what it holds now.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    at: Option<MonoTime>,
    then: BTreeMap<GpuUuid, Bytes>,
    now: BTreeMap<GpuUuid, Bytes>,
}

impl Listed {
    /// Whether it is time for another list of all, which is taken to be made then; these GPUs have just been read.
    pub(crate) fn is_due(&mut self, samples: &[(GpuUuid, GpuSample)], now: MonoTime) -> bool {
        let jumped = |(uuid, sample): &(GpuUuid, GpuSample)| {
            let (then, used) = (self.then.get(uuid), sample.vram_used);
            used.is_some_and(|used| then.is_none_or(|then| then.get().abs_diff(used.get()) > VRAM_JUMP_BYTES))
        };
        let old = self.at.is_none_or(|at| now.since(at) >= PROCESSES_PERIOD);
        let due = old || samples.iter().any(jumped);
        self.now.extend(samples.iter().filter_map(|(uuid, sample)| Some((uuid.clone(), sample.vram_used?))));
        if due {
            self.at = Some(now);
            self.then = self.now.clone();
        }
        due
    }

    /// The list of GPUs has been read again: those that are gone are forgotten.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&GpuUuid) -> bool) {
        self.now.retain(|uuid, _| is_there(uuid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_turn_once_in_a_period() {
        let check = |devices, period_ms, steps: usize, step_ms| {
            let mut round = Round::new(Duration::from_millis(period_ms));
            round.set_devices(devices);
            assert_eq!(round.step(), Duration::from_millis(step_ms), "{devices} in {period_ms} ms");
            for _ in 0..3 {
                let mut seen = Vec::new();
                for _ in 0..steps {
                    let turn = round.turn();
                    assert_eq!(turn, round.turn(), "a turn that is not done stays");
                    round.done(&turn);
                    seen.extend(turn);
                }
                assert_eq!(seen, (0..devices).collect::<Vec<_>>(), "{devices} in {period_ms} ms");
            }
        };
        check(1, 1_000, 1, 1_000);
        check(8, 1_000, 8, 125);
        check(64, 80, 8, 10);
        check(5, 50, 5, 10);
    }

    #[test]
    fn processes_are_listed_when_a_list_is_old_or_memory_jumps() {
        let mut listed = Listed::default();
        let mut due = |name: &str, mib: u64, at_ms: u64| {
            let sample = GpuSample { vram_used: Some(Bytes(mib << 20)), ..GpuSample::default() };
            listed.is_due(&[(GpuUuid::parse(name).unwrap(), sample)], MonoTime::from_millis(at_ms))
        };
        for (name, mib, at_ms, expect) in [
            ("a", 0, 0, true),
            ("b", 0, 100, true),
            ("a", 200, 1_000, false),
            ("b", 300, 1_100, true),
            ("a", 300, 2_000, false),
            ("a", 500, 3_000, true),
            ("b", 300, 7_900, false),
            ("a", 500, 8_000, true),
            ("b", 300, 8_100, false),
        ] {
            assert_eq!(due(name, mib, at_ms), expect, "{name} {mib} at {at_ms}");
        }
    }
}
