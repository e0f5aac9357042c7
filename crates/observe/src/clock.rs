//! The only place that reads a clock of the machine.
//!
//! Durations are measured on [`MonoTime`]; wall time exists for people and records alone, and is never
//! subtracted from another wall time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aya_domain::{MonoTime, WallTime};

/// Where a process takes its time from; cheap to clone, and every clone shows the same time.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Machine { started: Instant },
    Manual(ManualTime),
    Told(Elapsed),
}

/// What tells the time of a simulated machine.
#[derive(Clone)]
struct Elapsed(Arc<dyn Fn() -> Duration + Send + Sync>);

impl fmt::Debug for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elapsed")
    }
}

impl Clock {
    /// The machine's clocks; [`MonoTime::ZERO`] is now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn start() -> Self {
        Self(Source::Machine { started: Instant::now() })
    }

    /// A clock that a test moves by hand, and the hand. It begins at [`MonoTime::ZERO`], the epoch's first instant.
    #[must_use]
    pub fn manual() -> (Self, ManualTime) {
        let time = ManualTime::default();
        (Self(Source::Manual(time.clone())), time)
    }

    /// The clock of a simulated machine, as told by `elapsed`: the time since its start, which never goes back. It
    /// begins at the epoch's first instant.
    #[must_use]
    pub fn told_by(elapsed: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Source::Told(Elapsed(Arc::new(elapsed))))
    }

    /// The present on the monotonic clock; never goes back.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn now(&self) -> MonoTime {
        match &self.0 {
            Source::Machine { started } => MonoTime::ZERO.after(Instant::now().duration_since(*started)),
            Source::Manual(time) => time.get(),
            Source::Told(elapsed) => MonoTime::ZERO.after((elapsed.0)()),
        }
    }

    /// The present on both clocks, for something whose beginning is shown to people.
    #[must_use]
    pub fn present(&self) -> (MonoTime, WallTime) {
        let (now, wall) = self.both();
        (now, wall_time(wall))
    }

    /// The wall time of an instant, counted back from the present: a correction of the machine's clock
    /// moves what is shown of the past, but never an age or an order.
    #[must_use]
    pub fn wall(&self, at: MonoTime) -> WallTime {
        let (present, wall) = self.both();
        wall_time(wall.saturating_sub(present.since(at)).saturating_add(at.since(present)))
    }

    /// The present, and how long after the epoch it is.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    fn both(&self) -> (MonoTime, Duration) {
        let now = self.now();
        let wall = match &self.0 {
            Source::Machine { .. } => {
                SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
            }
            Source::Manual(_) | Source::Told(_) => Duration::from_nanos(now.as_nanos()),
        };
        (now, wall)
    }
}

fn wall_time(since_epoch: Duration) -> WallTime {
    WallTime::from_unix_ms(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

/// The hand of a clock made by [`Clock::manual`].
#[derive(Debug, Clone, Default)]
pub struct ManualTime(Arc<AtomicU64>);

impl ManualTime {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        // Relaxed: the number is all there is, it guards no other memory.
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> MonoTime {
        MonoTime::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_clock_never_goes_back_and_is_shared_by_its_clones() {
        let clock = Clock::start();
        let first = clock.now();
        let clone = clock.clone();
        let second = clone.now();
        assert!(clock.now() >= second);
        assert!(second >= first);
        assert!(second.since(MonoTime::ZERO) < Duration::from_secs(60), "it counts from its own start");
    }

    #[test]
    fn wall_time_is_counted_back_from_the_present() {
        let (clock, time) = Clock::manual();
        assert_eq!(clock.present(), (clock.now(), clock.wall(clock.now())));
        time.advance(Duration::from_secs(86_400));
        assert_eq!(clock.wall(clock.now()).to_string(), "1970-01-02T00:00:00.000Z");
        assert_eq!(clock.wall(MonoTime::from_millis(1_500)).to_string(), "1970-01-01T00:00:01.500Z");
        let later = clock.now().after(Duration::from_millis(20));
        assert_eq!(clock.wall(later).to_string(), "1970-01-02T00:00:00.020Z");
    }

    #[test]
    fn a_simulated_machine_has_the_time_that_it_is_told() {
        let hand = Arc::new(AtomicU64::new(5));
        let told = Arc::clone(&hand);
        let clock = Clock::told_by(move || Duration::from_secs(told.load(Ordering::Relaxed)));
        assert_eq!(clock.now(), MonoTime::from_millis(5_000));
        hand.store(60, Ordering::Relaxed);
        assert_eq!(clock.wall(clock.now()).to_string(), "1970-01-01T00:01:00.000Z");
    }

    #[test]
    fn the_machines_wall_time_lies_in_this_century() {
        let clock = Clock::start();
        let text = clock.wall(clock.now()).to_string();
        assert!(text.starts_with("20") && text.ends_with('Z'), "{text}");
    }
}
