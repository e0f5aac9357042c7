//! What must hold of an engine between any two calls: blocks, references and requests are conserved.
//!
//! The same predicates serve debug assertions, property tests and the farm simulator. [`cheap`] costs one pass
//! over the sequences and runs after every step of a debug build; [`full`] also counts every reference.

use std::collections::HashMap;

use crate::engine::Engine;
use crate::kv::blocks_for;

/// Which conservation law is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("sequences hold {held} private blocks, the pool counts {counted}")]
    PrivateBlocks { held: u32, counted: u32 },
    #[error("{used} blocks are used and {idle} cached in a pool of {total}")]
    PoolExceeded { used: u32, idle: usize, total: u32 },
    #[error("waiting request {id} holds KV")]
    WaitingHoldsKv { id: u64 },
    #[error("request {id} has more KV than blocks")]
    KvWithoutBlocks { id: u64 },
    #[error("{running} sequences run, {limit} may")]
    TooManyRunning { running: usize, limit: u32 },
    #[error("{submitted} requests came, {accounted} are accounted for")]
    RequestsLost { submitted: u64, accounted: u64 },
    #[error("an idle engine uses {used} blocks")]
    IdleHoldsKv { used: u32 },
    #[error("block {hash:#x} counts {counted} references, sequences hold {held}")]
    References { hash: u64, counted: u32, held: u32 },
}

/// Sums over the sequences.
///
/// # Errors
/// The first broken law.
pub fn cheap(engine: &Engine) -> Result<(), Violation> {
    let held = engine.running.iter().map(|s| s.private).sum();
    let counted = engine.kv.private();
    if held != counted {
        return Err(Violation::PrivateBlocks { held, counted });
    }
    let (used, idle, total) =
        (engine.kv.used(), engine.kv.prefix.idle() * engine.kv.unit as usize, engine.kv.total());
    if used as usize + idle > total as usize {
        return Err(Violation::PoolExceeded { used, idle, total });
    }
    if let Some(s) = engine.waiting.iter().find(|s| s.blocks() > 0 || s.computed > 0) {
        return Err(Violation::WaitingHoldsKv { id: s.request.id });
    }
    if let Some(s) = engine.running.iter().find(|s| s.blocks() < blocks_for(s.computed)) {
        return Err(Violation::KvWithoutBlocks { id: s.request.id });
    }
    let (running, limit) = (engine.running.len(), engine.profile.max_sequences);
    if running > limit as usize {
        return Err(Violation::TooManyRunning { running, limit });
    }
    let submitted = engine.counters.submitted;
    let accounted =
        engine.counters.finished + engine.counters.aborted + (running + engine.waiting.len()) as u64;
    if submitted != accounted {
        return Err(Violation::RequestsLost { submitted, accounted });
    }
    if engine.is_idle() && used > 0 {
        return Err(Violation::IdleHoldsKv { used });
    }
    Ok(())
}

/// [`cheap`], and every reference of every cached block.
///
/// # Errors
/// The first broken law.
pub fn full(engine: &Engine) -> Result<(), Violation> {
    cheap(engine)?;
    let mut held: HashMap<u64, u32> = HashMap::new();
    for hash in engine.running.iter().flat_map(|s| s.shared_hashes()) {
        *held.entry(*hash).or_default() += 1;
    }
    for (hash, counted) in engine.kv.prefix.references() {
        let held = held.remove(&hash).unwrap_or(0);
        if held != counted {
            return Err(Violation::References { hash, counted, held });
        }
    }
    // What is left is held by a sequence but unknown to the cache.
    held.into_iter()
        .next()
        .map_or(Ok(()), |(hash, held)| Err(Violation::References { hash, counted: 0, held }))
}
