//! Which prompt blocks an endpoint's cache probably holds: a bounded table filled when a request is dispatched.
//!
//! Filled at dispatch and not when an engine reports, because requests with the same beginning arrive while the
//! first is still being computed. A block's hash covers everything before it, so one block that is held stands for all
//! before it. It guesses; the engine may have evicted what it names, and [`PrefixIndex::correct`] hears of that.
//!
//! All requests read and fill it at once without a lock: sets of eight words, each a tag and the time of its last use.
//! Whoever writes last wins, so a race can lose a block or hold one twice, which costs a guess and nothing else. An
//! entry is not evicted but outlived: what was used longer ago than the endpoint's cache reaches back is not held.
//! Twice as many words as blocks keep sets from overflowing before that.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya_domain::splitmix64;

/// Words of a set: one line of a processor's cache.
const WAYS: usize = 8;
/// Words per block that may be held.
const SLACK: usize = 2;
/// Bits of the time of last use, in blocks written; the clock wraps and so do differences.
const AGE_BITS: u32 = 24;
const AGE_MASK: u64 = (1 << AGE_BITS) - 1;
/// The most blocks an index can hold: ages must stay far from wrapping.
pub const PREFIX_BLOCKS_MAX: usize = 1 << 20;
/// A set that is full forgets its oldest, so up to so many blocks in a row may be missing although later ones are held.
const HOLES_MAX: usize = 2;
/// The cache is believed to reach back at least so far, as a share of the whole: else nothing would ever be found again
/// and the belief could not be corrected.
const REACH_LEAST: u32 = 64;

/// The blocks of one endpoint, the least recently used forgotten first.
pub struct PrefixIndex {
    /// Blocks held at the most.
    capacity: u32,
    /// Blocks written so long ago are taken to be evicted: at most the capacity.
    reach: AtomicU32,
    /// Blocks written.
    clock: AtomicU32,
    /// Made when the first prompt comes.
    sets: OnceLock<Box<[Set]>>,
}

type Set = [AtomicU64; WAYS];

/// A prompt's beginning as an index knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Match {
    /// Leading blocks held.
    pub blocks: usize,
    /// Blocks written since the last of them was used.
    pub age: u32,
}

impl PrefixIndex {
    /// An empty index of at most so many blocks, and never more than [`PREFIX_BLOCKS_MAX`]; 16 bytes per block once it is
    /// used. With 0 it holds nothing.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = u32::try_from(capacity.min(PREFIX_BLOCKS_MAX)).unwrap_or(0);
        Self { capacity, reach: AtomicU32::new(capacity), clock: AtomicU32::new(0), sets: OnceLock::new() }
    }

    /// Blocks that it holds at the most.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Whether anything was ever noted.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.sets.get().is_some()
    }

    /// How many leading blocks are held. Looks at a logarithmic number of them.
    #[must_use]
    pub fn matched(&self, blocks: &[u64]) -> Match {
        let (Some(sets), Some(first)) = (self.sets.get(), blocks.first()) else { return Match::default() };
        let clock = self.clock.load(Ordering::Relaxed);
        let reach = self.reach.load(Ordering::Relaxed);
        let age_at = |at: usize| {
            let age = age(sets, *blocks.get(at)?, clock)?;
            (age <= reach).then_some(age)
        };
        // The head of a prompt is its youngest block.
        if age(sets, *first, clock).is_none_or(|age| age > reach) {
            return Match::default();
        }
        let held = |at: usize| (at..at + HOLES_MAX + 1).any(|at| age_at(at).is_some());
        // A prompt that is asked again is held to its last block, and then that one says it all.
        if let Some(age) = age_at(blocks.len() - 1) {
            return Match { blocks: blocks.len(), age };
        }
        let (mut known, mut step) = (1, 1);
        while known < blocks.len() && held(known + step - 1) {
            known = (known + step).min(blocks.len());
            step *= 2;
        }
        // Between what is known to be held and what is known not to be.
        let mut beyond = (known + step - 1).min(blocks.len());
        while known < beyond {
            let middle = known + (beyond - known) / 2;
            if held(middle) {
                known = middle + 1;
            } else {
                beyond = middle;
            }
        }
        Match { blocks: known, age: age_at(known - 1).unwrap_or(0) }
    }

    /// Notes that a prompt of these blocks was sent. Its last block is the least useful, so it ages first.
    pub fn insert(&self, blocks: &[u64]) {
        let blocks = blocks.get(..blocks.len().min(self.capacity())).unwrap_or_default();
        if blocks.is_empty() {
            return;
        }
        let sets = self.sets.get_or_init(|| {
            let count = (self.capacity() * SLACK).div_ceil(WAYS);
            std::iter::repeat_with(Set::default).take(count).collect()
        });
        let fresh = blocks.len() - self.matched(blocks).blocks;
        let fresh = u32::try_from(fresh).unwrap_or(0);
        let now = self.clock.fetch_add(fresh, Ordering::Relaxed).wrapping_add(fresh);
        for (block, depth) in blocks.iter().zip(0_u32..) {
            touch(sets, *block, now, now.wrapping_sub(depth));
        }
    }

    /// What became of a prompt of which [`PrefixIndex::matched`] found this much when it was sent: the engine says how
    /// much of that it had, as a share from 0 to 1. Less than half moves the reach an eighth of the way to the age of
    /// what was not there; more than that lets it grow again by a sixty-fourth of the capacity.
    pub fn correct(&self, found: Match, share: f64) {
        let least = (self.capacity / REACH_LEAST).max(1);
        let next = |reach: u32| {
            if share < 0.5 {
                reach.saturating_sub(reach.saturating_sub(found.age).div_ceil(8)).max(least)
            } else {
                reach.saturating_add(least).min(self.capacity)
            }
        };
        if found.blocks > 0 {
            // The closure never declines, so the update cannot fail.
            let _ = self.reach.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |reach| Some(next(reach)));
        }
    }

    /// Forgets all of it: the engine was started anew.
    pub fn clear(&mut self) {
        *self = Self::new(self.capacity());
    }

    /// How many blocks back the endpoint's cache is believed to reach.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.reach.load(Ordering::Relaxed) as usize
    }
}

impl fmt::Debug for PrefixIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let written = self.clock.load(Ordering::Relaxed);
        f.debug_struct("PrefixIndex")
            .field("capacity", &self.capacity)
            .field("reach", &self.reach())
            .field("written", &written)
            .finish_non_exhaustive()
    }
}

/// The set of a block, and its tag: never 0, and without the bits of the age.
fn place(sets: &[Set], block: u64) -> Option<(&Set, u64)> {
    let mixed = splitmix64(block);
    let at = (u128::from(mixed) * sets.len() as u128) >> 64;
    let set = sets.get(usize::try_from(at).ok()?)?;
    // The set took the upper bits, so the lower ones tell its blocks apart: 39 of them, and one that says "taken".
    Some((set, mixed << AGE_BITS | 1 << 63))
}

/// Blocks written since this one was used; `None`: it is not held.
fn age(sets: &[Set], block: u64, clock: u32) -> Option<u32> {
    let (set, tag) = place(sets, block)?;
    let word = set.iter().map(|word| word.load(Ordering::Relaxed)).find(|word| word & !AGE_MASK == tag)?;
    Some(age_of(word, clock))
}

fn age_of(word: u64, clock: u32) -> u32 {
    let age = u64::from(clock).wrapping_sub(word) & AGE_MASK;
    u32::try_from(age).unwrap_or(u32::MAX)
}

/// Sets the time of a block's last use, in place of the set's oldest block if it is new there.
fn touch(sets: &[Set], block: u64, now: u32, used: u32) {
    let Some((set, tag)) = place(sets, block) else { return };
    let mut victim = None;
    let mut oldest = 0;
    for word in set {
        let content = word.load(Ordering::Relaxed);
        if content & !AGE_MASK == tag {
            victim = Some(word);
            break;
        }
        let age = if content == 0 { u32::MAX } else { age_of(content, now) };
        if victim.is_none() || age > oldest {
            (victim, oldest) = (Some(word), age);
        }
    }
    if let Some(word) = victim {
        word.store(tag | (u64::from(used) & AGE_MASK), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(from: u64, blocks: u64) -> Vec<u64> {
        (0..blocks).map(|at| splitmix64(from << 32 | at)).collect()
    }

    fn matched(index: &PrefixIndex, blocks: &[u64]) -> usize {
        index.matched(blocks).blocks
    }

    #[test]
    fn a_match_is_a_run_of_leading_blocks() {
        let index = PrefixIndex::new(1_000);
        for length in [1, 2, 3, 4, 7, 8, 9, 31, 100, 500] {
            let sent = prompt(length, length);
            index.insert(&sent);
            assert_eq!(matched(&index, &sent), sent.len());
            for shared in [0, 1, 2, 3, 5, 6, 16, 99, 400] {
                let shared = sent.len().min(shared);
                let other: Vec<u64> = sent.iter().take(shared).copied().chain(prompt(99_999, 700)).collect();
                assert_eq!(matched(&index, &other), shared, "{shared} of {length}");
            }
        }
        assert_eq!(matched(&index, &[]), 0);
        assert_eq!(matched(&PrefixIndex::new(10), &prompt(1, 3)), 0);
    }

    #[test]
    fn what_was_not_used_for_long_is_forgotten_and_the_end_of_a_prompt_first() {
        let index = PrefixIndex::new(100);
        let (old, kept) = (prompt(1, 40), prompt(2, 10));
        index.insert(&old);
        index.insert(&kept);
        for round in 0..8 {
            index.insert(&prompt(10 + round, 10));
            index.insert(&kept);
        }
        let left = matched(&index, &old);
        assert!((1..40).contains(&left), "{left} of 40 left after 90 further blocks");
        for round in 0..8 {
            index.insert(&prompt(30 + round, 10));
        }
        assert_eq!((matched(&index, &old), matched(&index, &kept)), (0, 10));
    }

    #[test]
    fn it_holds_as_much_as_it_may_with_few_holes() {
        let index = PrefixIndex::new(6_875);
        let prompts: Vec<_> = (0..60).map(|at| prompt(at, 100)).collect();
        prompts.iter().for_each(|prompt| index.insert(prompt));
        let found: usize = prompts.iter().map(|prompt| matched(&index, prompt)).sum();
        assert!(found >= 5_990, "{found} of 6,000");
        let none = PrefixIndex::new(0);
        none.insert(&prompt(1, 5));
        assert_eq!(matched(&none, &prompt(1, 5)), 0);
        assert!(matched(&index, &prompt(7_777, 8_000)) == 0);
    }

    #[test]
    fn an_engine_that_evicted_earlier_is_believed_and_one_that_has_it_too() {
        let index = PrefixIndex::new(1_000);
        let old = prompt(1, 10);
        index.insert(&old);
        for at in 0..80 {
            index.insert(&prompt(100 + at, 10));
        }
        let found = index.matched(&old);
        assert_eq!(found.blocks, 10);
        assert!((800..830).contains(&found.age), "{found:?}");
        for _ in 0..60 {
            index.correct(found, 0.0);
        }
        assert_eq!(matched(&index, &old), 10, "at its very age it may still be there");
        index.correct(Match { age: 0, ..found }, 0.1);
        assert_eq!(matched(&index, &old), 0);
        assert_eq!(matched(&index, &prompt(179, 10)), 10, "younger ones are not doubted");
        for _ in 0..400 {
            index.correct(Match { age: 0, ..found }, 0.0);
        }
        assert_eq!(index.reach(), 15, "never nothing");
        for _ in 0..80 {
            index.correct(found, 0.9);
        }
        assert_eq!((index.reach(), matched(&index, &old)), (1_000, 10));
    }

    #[test]
    fn many_threads_lose_at_most_guesses() {
        let index = PrefixIndex::new(10_000);
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let index = &index;
                scope.spawn(move || {
                    for at in 0..20 {
                        index.insert(&prompt(thread << 8 | at, 100));
                    }
                });
            }
        });
        let prompts = (0..4_u64).flat_map(|thread| (0..20).map(move |at| prompt(thread << 8 | at, 100)));
        let found: usize = prompts.map(|prompt| matched(&index, &prompt)).sum();
        assert!(found >= 7_900, "{found} of 8,000");
    }
}
