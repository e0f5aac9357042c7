//! What is given up, and in which order, as memory or connections run short.
//!
//! Pure: the scheduler measures, this decides. A step is taken as soon as its mark is reached and taken back only a few
//! percent below it, so that a level that hovers around a mark does not open and close connections all the time.

/// What is given up; each step includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    #[default]
    None,
    /// Idle connections close early.
    ShortIdle,
    /// No connection outlives its answer.
    NoKeepAlive,
    /// New requests are refused.
    Refuse,
}

impl Pressure {
    /// Every step, in order.
    pub const ALL: [Self; 4] = [Self::None, Self::ShortIdle, Self::NoKeepAlive, Self::Refuse];

    /// 0 to 3.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::None => 0,
            Self::ShortIdle => 1,
            Self::NoKeepAlive => 2,
            Self::Refuse => 3,
        }
    }

    /// The step of this number; the last one beyond it.
    #[must_use]
    pub const fn of_level(level: u8) -> Self {
        match level {
            0 => Self::None,
            1 => Self::ShortIdle,
            2 => Self::NoKeepAlive,
            _ => Self::Refuse,
        }
    }

    /// What is done, for logs and events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "nothing is given up",
            Self::ShortIdle => "idle connections close early",
            Self::NoKeepAlive => "connections close after their answer",
            Self::Refuse => "new requests are refused",
        }
    }
}

/// At which percentage of a limit each step is taken; ascending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    pub short_idle: u32,
    pub no_keep_alive: u32,
    pub refuse: u32,
}

/// A step is taken back this many percentage points below its mark.
pub const HYSTERESIS_PERCENT: u32 = 3;
/// Connections in use, in percent of their limit, from which idle ones close early. They are no reason for more.
pub const CONNECTIONS_PERCENT: u32 = 95;

/// What was measured, in percent of the respective limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// `None`: there is no limit, or it cannot be read.
    pub memory: Option<u32>,
    pub connections: u32,
}

impl Watermarks {
    /// The step after `was`, with so much in use.
    #[must_use]
    pub fn next(&self, was: Pressure, used: Used) -> Pressure {
        let of = |step: Pressure| {
            let (memory, connections) = match step {
                Pressure::None => return true,
                Pressure::ShortIdle => (self.short_idle, Some(CONNECTIONS_PERCENT)),
                Pressure::NoKeepAlive => (self.no_keep_alive, None),
                Pressure::Refuse => (self.refuse, None),
            };
            let held = if was >= step { HYSTERESIS_PERCENT } else { 0 };
            let reached = |used: u32, mark: u32| used >= mark.saturating_sub(held);
            used.memory.is_some_and(|used| reached(used, memory))
                || connections.is_some_and(|mark| reached(used.connections, mark))
        };
        Pressure::ALL.into_iter().rev().find(|step| of(*step)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use Pressure::{NoKeepAlive, None, Refuse, ShortIdle};

    use super::*;

    const MARKS: Watermarks = Watermarks { short_idle: 85, no_keep_alive: 92, refuse: 95 };

    fn steps(measured: impl IntoIterator<Item = Used>) -> Vec<Pressure> {
        let mut at = None;
        measured
            .into_iter()
            .map(|used| {
                at = MARKS.next(at, used);
                at
            })
            .collect()
    }

    #[test]
    fn each_mark_is_a_step_and_a_jump_takes_all_of_them() {
        let memory = |percent| Used { memory: Some(percent), connections: 0 };
        assert_eq!(
            steps([84, 85, 91, 92, 94, 95, 100].map(memory)),
            [None, ShortIdle, ShortIdle, NoKeepAlive, NoKeepAlive, Refuse, Refuse]
        );
        assert_eq!(steps([10, 99, 10].map(memory)), [None, Refuse, None]);
    }

    #[test]
    fn a_step_is_taken_back_only_below_its_mark() {
        let memory = |percent| Used { memory: Some(percent), connections: 0 };
        assert_eq!(
            steps([95, 93, 92, 91, 90, 89, 88, 83, 82, 81, 84].map(memory)),
            [
                Refuse,
                Refuse,
                Refuse,
                NoKeepAlive,
                NoKeepAlive,
                NoKeepAlive,
                ShortIdle,
                ShortIdle,
                ShortIdle,
                None,
                None
            ]
        );
    }

    #[test]
    fn connections_shorten_the_idle_time_and_nothing_else() {
        let of = |connections| Used { memory: Option::None, connections };
        assert_eq!(steps([94, 95, 100, 92, 91].map(of)), [None, ShortIdle, ShortIdle, ShortIdle, None]);
    }

    #[test]
    fn an_unknown_limit_is_no_pressure() {
        assert_eq!(steps([Used::default()]), [None]);
        for step in Pressure::ALL {
            assert_eq!(Pressure::of_level(step.level()), step);
        }
    }
}
