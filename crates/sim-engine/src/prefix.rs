//! The prefix cache: full prompt blocks by their chained hash, reference counted, the unreferenced ones in
//! order of last use.
//!
//! It counts blocks and never decides how many may exist: `kv` owns the pool and asks for evictions.

use std::collections::{BTreeMap, HashMap};

#[derive(Debug, Clone, Copy)]
struct Entry {
    references: u32,
    /// Key in `idle` while nothing references the block.
    released_at: u64,
}

/// Blocks that later prompts may find again.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: HashMap<u64, Entry>,
    /// Unreferenced blocks, least recently used first.
    idle: BTreeMap<u64, u64>,
    ticks: u64,
}

impl PrefixCache {
    /// Blocks that somebody holds.
    pub(crate) fn referenced(&self) -> usize {
        self.entries.len().saturating_sub(self.idle.len())
    }

    /// Blocks that nobody holds; they count as free.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len()
    }

    /// How many leading hashes are cached.
    pub(crate) fn leading_hits(&self, hashes: &[u64]) -> usize {
        hashes.iter().take_while(|hash| self.entries.contains_key(hash)).count()
    }

    /// How many of these cached blocks nobody holds yet.
    pub(crate) fn idle_among(&self, hashes: &[u64]) -> usize {
        hashes.iter().filter(|hash| self.entries.get(hash).is_some_and(|e| e.references == 0)).count()
    }

    /// Holds a block; false if it is not cached.
    pub(crate) fn acquire(&mut self, hash: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&hash) else { return false };
        if entry.references == 0 {
            self.idle.remove(&entry.released_at);
        }
        entry.references = entry.references.saturating_add(1);
        true
    }

    /// Adds a block that its first holder has just computed.
    pub(crate) fn insert(&mut self, hash: u64) {
        let fresh = self.entries.insert(hash, Entry { references: 1, released_at: 0 }).is_none();
        debug_assert!(fresh, "a cached block was inserted again");
    }

    /// Lets go of a prompt's blocks. The last block of a prompt is the least useful, so it ages first.
    pub(crate) fn release_all(&mut self, hashes: &[u64]) {
        for hash in hashes.iter().rev() {
            let Some(entry) = self.entries.get_mut(hash) else {
                debug_assert!(false, "a released block was not cached");
                continue;
            };
            debug_assert!(entry.references > 0, "a block was released twice");
            entry.references = entry.references.saturating_sub(1);
            if entry.references == 0 {
                self.ticks += 1;
                entry.released_at = self.ticks;
                self.idle.insert(self.ticks, *hash);
            }
        }
    }

    /// Forgets the least recently used block that nobody holds; false if there is none.
    pub(crate) fn evict_oldest(&mut self) -> bool {
        let Some((_, hash)) = self.idle.pop_first() else { return false };
        self.entries.remove(&hash).is_some()
    }

    /// References of every cached block, for the invariants.
    pub(crate) fn references(&self) -> impl Iterator<Item = (u64, u32)> {
        self.entries.iter().map(|(hash, entry)| (*hash, entry.references))
    }
}
