//! Label values that come from clients, bounded: a scanner that asks for a million models must not
//! make a million time series.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// What every value beyond the limit is called.
pub const OTHER: &str = "other";

/// The longest label value in bytes; longer ones are `other`.
const VALUE_BYTES_MAX: usize = 128;

/// The values one label has taken so far, at most a fixed number of them. Reading takes no lock.
#[derive(Debug)]
pub struct Labels {
    max: usize,
    known: ArcSwap<BTreeSet<Arc<str>>>,
    other: Arc<str>,
}

impl Labels {
    /// No values yet, at most `max` ever; `other` is not counted.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, known: ArcSwap::default(), other: Arc::from(OTHER) }
    }

    /// The value itself while there is room for it, else `other`. The first values win: a series, once
    /// begun, goes on.
    #[must_use]
    pub fn get(&self, value: &str) -> Arc<str> {
        if let Some(known) = self.known.load().get(value) {
            return Arc::clone(known);
        }
        if value.len() > VALUE_BYTES_MAX {
            return Arc::clone(&self.other);
        }
        self.insert(value)
    }

    /// The value if it has been taken, else `other`; takes no room. For values that a client may have made up.
    #[must_use]
    pub fn known(&self, value: &str) -> Arc<str> {
        Arc::clone(self.known.load().get(value).unwrap_or(&self.other))
    }

    /// Copies the set: at most `max` times in the life of the process.
    fn insert(&self, value: &str) -> Arc<str> {
        if self.known.load().len() >= self.max {
            return Arc::clone(&self.other);
        }
        let value: Arc<str> = Arc::from(value);
        self.known.rcu(|known| {
            let mut grown = BTreeSet::clone(known);
            if grown.len() < self.max {
                grown.insert(Arc::clone(&value));
            }
            grown
        });
        // Another thread may have taken the last room, or added the same value.
        self.known.load().get(&value).map_or_else(|| Arc::clone(&self.other), Arc::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_beyond_the_limit_are_other_and_the_first_ones_stay() {
        let labels = Labels::new(2);
        let seen: Vec<_> = ["a", "b", "c", "a", "d", "b"].iter().map(|v| labels.get(v)).collect();
        let seen: Vec<&str> = seen.iter().map(|v| &**v).collect();
        assert_eq!(seen, ["a", "b", "other", "a", "other", "b"]);
    }

    #[test]
    fn a_question_takes_no_room() {
        let labels = Labels::new(1);
        assert_eq!(&*labels.known("made up"), OTHER);
        assert_eq!(&*labels.get("a"), "a");
        assert_eq!((&*labels.known("a"), &*labels.known("b")), ("a", OTHER));
    }

    #[test]
    fn an_overlong_value_takes_no_room() {
        let labels = Labels::new(1);
        assert_eq!(&*labels.get(&"x".repeat(VALUE_BYTES_MAX + 1)), OTHER);
        assert_eq!(&*labels.get("a"), "a");
    }

    #[test]
    fn threads_that_race_never_pass_the_limit() {
        let labels = Labels::new(10);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let labels = &labels;
                scope.spawn(move || (0..50).for_each(|i| drop(labels.get(&format!("{thread}-{i}")))));
            }
        });
        assert_eq!(labels.known.load().len(), 10);
    }
}
