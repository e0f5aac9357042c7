//! Which prompt blocks an endpoint's cache probably holds: a bounded LRU filled when a request is dispatched.
//!
//! Filled at dispatch and not when an engine reports, because requests with the same beginning arrive while the
//! first is still being computed. A block's hash covers everything before it, so a match is a run of leading
//! blocks. It guesses; the engine may have evicted what it names.

use std::collections::BTreeMap;

/// The blocks of one endpoint, the least recently used forgotten first.
#[derive(Debug, Clone, Default)]
pub struct PrefixIndex {
    capacity: usize,
    /// When each block was last used.
    used: BTreeMap<u64, u64>,
    order: BTreeMap<u64, u64>,
    ticks: u64,
}

impl PrefixIndex {
    /// An empty index of at most so many blocks.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { capacity, used: BTreeMap::new(), order: BTreeMap::new(), ticks: 0 }
    }

    /// How many leading blocks are held.
    #[must_use]
    pub fn matched(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|block| self.used.contains_key(block)).count()
    }

    /// Notes that a prompt of these blocks was sent. Its last block is the least useful, so it ages first.
    pub fn insert(&mut self, blocks: &[u64]) {
        for block in blocks.iter().take(self.capacity).rev() {
            self.ticks += 1;
            if let Some(before) = self.used.insert(*block, self.ticks) {
                self.order.remove(&before);
            }
            self.order.insert(self.ticks, *block);
        }
        while self.used.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.used.remove(&oldest);
        }
    }

    /// Forgets all of it: the engine was started anew.
    pub fn clear(&mut self) {
        self.used.clear();
        self.order.clear();
    }

    /// Blocks held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_is_a_run_of_leading_blocks() {
        let mut index = PrefixIndex::new(10);
        index.insert(&[1, 2, 3]);
        for (blocks, expect) in [(&[1, 2, 3, 4][..], 3), (&[1, 9, 3], 1), (&[2, 3], 2), (&[9], 0), (&[], 0)] {
            assert_eq!(index.matched(blocks), expect, "{blocks:?}");
        }
    }

    #[test]
    fn the_end_of_the_oldest_prompt_is_forgotten_first() {
        let mut index = PrefixIndex::new(4);
        index.insert(&[1, 2, 3]);
        index.insert(&[7, 8]);
        assert_eq!((index.matched(&[1, 2, 3]), index.matched(&[7, 8]), index.len()), (2, 2, 4));
        index.insert(&[1]);
        index.insert(&[9]);
        assert_eq!((index.matched(&[1, 2]), index.matched(&[7, 8])), (1, 2));
    }

    #[test]
    fn it_never_holds_more_than_it_may() {
        let mut index = PrefixIndex::new(3);
        index.insert(&(0..100).collect::<Vec<_>>());
        assert_eq!((index.len(), index.matched(&[0, 1, 2, 3])), (3, 3));
        let mut none = PrefixIndex::new(0);
        none.insert(&[1]);
        assert!(none.is_empty());
    }
}
