//! The KV pool in blocks: who may have how many, and what is forgotten to make room.
//!
//! Blocks are counted, not addressed: paged attention makes every free block as good as another. A block is
//! held alone (private), held through the prefix cache, cached but held by nobody, or free.

use crate::prefix::PrefixCache;

/// Tokens per KV block.
pub const BLOCK_TOKENS: u32 = 16;

/// Blocks that hold this many tokens.
#[must_use]
pub const fn blocks_for(tokens: u32) -> u32 {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// The pool of one engine.
#[derive(Debug)]
pub(crate) struct KvPool {
    total: u32,
    private: u32,
    /// Blocks that one hash of the prefix cache stands for.
    pub(crate) unit: u32,
    pub(crate) prefix: PrefixCache,
}

impl KvPool {
    pub(crate) fn new(total: u32, unit: u32) -> Self {
        Self { total, private: 0, unit: unit.max(1), prefix: PrefixCache::default() }
    }

    pub(crate) const fn total(&self) -> u32 {
        self.total
    }

    /// Blocks held by a sequence alone.
    pub(crate) const fn private(&self) -> u32 {
        self.private
    }

    /// Blocks that running sequences hold. What is only cached counts as free.
    pub(crate) fn used(&self) -> u32 {
        self.private.saturating_add(self.blocks(self.prefix.referenced()))
    }

    /// Blocks a sequence may still get, by evicting cached ones if need be.
    pub(crate) fn available(&self) -> u32 {
        self.total.saturating_sub(self.used())
    }

    /// Blocks that would leave the free ones if a prompt with these cached and this many new blocks came in.
    pub(crate) fn demand(&self, cached: &[u64], new: u32) -> u32 {
        new.saturating_add(self.blocks(self.prefix.idle_among(cached)))
    }

    /// Takes blocks for one sequence alone; all or none.
    pub(crate) fn take(&mut self, blocks: u32) -> bool {
        if blocks > self.available() {
            return false;
        }
        self.private += blocks;
        while self.used().saturating_add(self.blocks(self.prefix.idle())) > self.total {
            if !self.prefix.evict_oldest() {
                break;
            }
        }
        true
    }

    /// Blocks of so many hashes of the prefix cache.
    fn blocks(&self, hashes: usize) -> u32 {
        count(hashes).saturating_mul(self.unit)
    }

    /// Turns the private blocks of one hash, whose content is now complete, into cached ones. If the same content was cached
    /// meanwhile, the private copy is freed and the cached block is shared.
    pub(crate) fn publish(&mut self, hash: u64) {
        debug_assert!(self.private >= self.unit, "published a block nobody holds");
        if !self.prefix.acquire(hash) {
            self.prefix.insert(hash);
        }
        self.private = self.private.saturating_sub(self.unit);
    }

    /// Returns everything a sequence held.
    pub(crate) fn release(&mut self, shared: &[u64], private: u32) {
        debug_assert!(private <= self.private, "released more blocks than are held");
        self.private = self.private.saturating_sub(private);
        self.prefix.release_all(shared);
    }
}

/// A block count as the pool counts; the pool itself bounds it to `u32`.
fn count(blocks: usize) -> u32 {
    u32::try_from(blocks).unwrap_or(u32::MAX)
}
