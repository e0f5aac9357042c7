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
    /// As the last discovery found.
    known: Option<usize>,
    next: usize,
}

impl Round {
    /// Each device once in a period.
    pub(crate) const fn new(period: Duration) -> Self {
        Self { period, devices: 1, known: None, next: 0 }
    }

    /// There are so many devices now; whether that is another number than before.
    pub(crate) fn set_devices(&mut self, devices: usize) -> bool {
        let before = self.known.replace(devices);
        self.devices = devices.max(1);
        before != self.known
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

/// When the processes of each GPU were last listed, and whose they are was last found out.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    of: BTreeMap<GpuUuid, List>,
    counted: Option<MonoTime>,
    /// A GPU's memory changed: whose it is now is found out without waiting for the other lists.
    jumped: bool,
}

/// One GPU's list.
#[derive(Debug)]
struct List {
    at: MonoTime,
    /// What the GPU held then.
    used: Option<Bytes>,
}

impl Listed {
    /// Whether it is time for another list of these GPUs, which have just been read; it is taken to be made then.
    ///
    /// Each GPU is listed after a reading of its own, so that the lists are spread over the period as the readings are.
    pub(crate) fn is_due(&mut self, samples: &[(GpuUuid, GpuSample)], now: MonoTime) -> bool {
        let jumped = samples.iter().any(|(uuid, sample)| {
            let then = self.of.get(uuid).and_then(|list| list.used);
            then.zip(sample.vram_used)
                .is_some_and(|(then, used)| then.get().abs_diff(used.get()) > VRAM_JUMP_BYTES)
        });
        let old = |uuid| self.of.get(uuid).is_none_or(|list| now.since(list.at) >= PROCESSES_PERIOD);
        let due = jumped || samples.iter().any(|(uuid, _)| old(uuid));
        if due {
            let list = |(uuid, sample): &(GpuUuid, GpuSample)| {
                (uuid.clone(), List { at: now, used: sample.vram_used })
            };
            self.of.extend(samples.iter().map(list));
        }
        self.jumped |= jumped;
        due
    }

    /// Whether the lists are to be looked through, now that another one has come: after a jump, and when every GPU has
    /// been listed since the last time, or should have been.
    pub(crate) fn is_whole(&mut self, now: MonoTime) -> bool {
        let since = |counted: MonoTime| {
            self.of.values().all(|list| list.at > counted) || now.since(counted) >= PROCESSES_PERIOD * 2
        };
        let whole = self.jumped || self.counted.is_none_or(since);
        if whole {
            (self.counted, self.jumped) = (Some(now), false);
        }
        whole
    }

    /// The list of GPUs has been read again: those that are gone are forgotten.
    pub(crate) fn keep(&mut self, is_there: impl Fn(&GpuUuid) -> bool) {
        self.of.retain(|uuid, _| is_there(uuid));
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
    fn processes_are_listed_after_a_reading_of_their_gpu_when_the_list_is_old_or_memory_jumps() {
        let mut listed = Listed::default();
        let mut due = |name: &str, mib: u64, at_ms: u64| {
            let sample = GpuSample { vram_used: Some(Bytes(mib << 20)), ..GpuSample::default() };
            let now = MonoTime::from_millis(at_ms);
            let due = listed.is_due(&[(GpuUuid::parse(name).unwrap(), sample)], now);
            (due, due && listed.is_whole(now.after(Duration::from_millis(1))))
        };
        for (name, mib, at_ms, expect) in [
            ("a", 0, 0, (true, true)),
            // Nobody waits for the second list of a GPU that has not been listed yet.
            ("b", 0, 500, (true, false)),
            ("a", 200, 1_000, (false, false)),
            // A jump does not wait for the others.
            ("b", 300, 1_500, (true, true)),
            ("a", 300, 2_000, (true, true)),
            ("b", 300, 2_500, (false, false)),
            ("b", 300, 6_500, (true, false)),
            // Both have been listed since.
            ("a", 300, 7_000, (true, true)),
            ("b", 300, 11_500, (true, false)),
            // The other one does not answer.
            ("b", 300, 16_500, (true, false)),
            ("b", 300, 21_500, (true, true)),
        ] {
            assert_eq!(due(name, mib, at_ms), expect, "{name} {mib} at {at_ms}");
        }
    }
}
