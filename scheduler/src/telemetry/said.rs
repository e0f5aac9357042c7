//! When an agent made a message, by the scheduler's own clock: data is as old as it is, however long it was under way.
//!
//! No clock of an agent is believed, only how long ago something was that both know: the last acknowledgement that the
//! agent had heard, or the connection. What the acknowledgement took to get there is taken for age too, so that data may
//! look older than it is by one way, and never younger.

use std::collections::VecDeque;

use aya_domain::MonoTime;
use aya_proto::Heard;

/// Acknowledgements remembered: those of eight seconds at four reports per second.
const ANSWERS_KEPT: usize = 32;

/// What both ends of one stream know.
#[derive(Debug)]
pub(crate) struct SaidAt {
    opened_at: MonoTime,
    /// Reports and when they were acknowledged, the oldest first.
    answers: VecDeque<(u64, MonoTime)>,
    /// Of the last message: they come in order.
    last: MonoTime,
}

impl SaidAt {
    /// A stream over a connection that was made at this time.
    pub(crate) const fn new(opened_at: MonoTime) -> Self {
        Self { opened_at, answers: VecDeque::new(), last: opened_at }
    }

    /// A report was acknowledged.
    pub(crate) fn answered(&mut self, sequence: u64, at: MonoTime) {
        if self.answers.len() == ANSWERS_KEPT {
            self.answers.pop_front();
        }
        self.answers.push_back((sequence, at));
    }

    /// When a message that was received now was made. Without a word of what its agent had heard: now.
    pub(crate) fn of(&mut self, heard: Option<Heard>, received_at: MonoTime) -> MonoTime {
        let said_at = heard.and_then(|heard| Some(self.known(heard.sequence)?.after(heard.age)));
        self.last = said_at.unwrap_or(received_at).min(received_at).max(self.last);
        self.last
    }

    /// When the acknowledgement left; one that is forgotten left before the oldest that is not.
    fn known(&self, sequence: u64) -> Option<MonoTime> {
        if sequence == 0 {
            return Some(self.opened_at);
        }
        let at = self.answers.partition_point(|(answered, _)| *answered < sequence);
        self.answers.get(at).map(|(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const fn ms(ms: u64) -> MonoTime {
        MonoTime::from_millis(ms)
    }

    fn heard(sequence: u64, age_ms: u64) -> Option<Heard> {
        Some(Heard { sequence, age: Duration::from_millis(age_ms) })
    }

    #[test]
    fn a_message_is_as_old_as_the_last_that_its_agent_had_heard_and_the_time_since() {
        let mut said = SaidAt::new(ms(1_000));
        assert_eq!(said.of(heard(0, 20), ms(1_030)), ms(1_020), "the first, 20 ms after the connection");
        said.answered(1, ms(1_030));
        assert_eq!(said.of(heard(1, 200), ms(1_240)), ms(1_230));
        said.answered(2, ms(1_240));
        // The link was held for 8 s; what was said meanwhile comes at once.
        assert_eq!(said.of(heard(2, 240), ms(9_500)), ms(1_480));
        assert_eq!(said.of(heard(2, 490), ms(9_500)), ms(1_730));
        said.answered(4, ms(9_500));
        assert_eq!(said.of(heard(4, 100), ms(9_610)), ms(9_600));
    }

    #[test]
    fn nothing_comes_from_the_future_or_before_what_came_before() {
        let mut said = SaidAt::new(ms(1_000));
        said.answered(1, ms(2_000));
        assert_eq!(said.of(heard(1, 5_000), ms(2_100)), ms(2_100));
        assert_eq!(said.of(heard(1, 0), ms(2_200)), ms(2_100));
        assert_eq!(said.of(heard(9, 0), ms(2_300)), ms(2_300), "an acknowledgement that never was");
        assert_eq!(said.of(None, ms(2_400)), ms(2_400), "an older agent");
    }

    #[test]
    fn an_acknowledgement_that_is_forgotten_left_before_the_oldest_that_is_not() {
        let mut said = SaidAt::new(ms(0));
        for sequence in 1..=100 {
            said.answered(sequence, ms(sequence * 250));
        }
        assert_eq!(said.answers.len(), ANSWERS_KEPT);
        assert_eq!(said.of(heard(3, 10), ms(26_000)), ms(69 * 250 + 10));
    }
}
