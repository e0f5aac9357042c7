//! What this scheduler knows beyond the ledger's sums, as a decision may ask for it: who holds how much of the prompt, and
//! the requests on an endpoint one by one.
//!
//! Who holds what is found out once per decision, so that all of it sees the same; the residents are read when asked
//! for, which is once per endpoint at the most. Nothing here waits.

use std::cell::RefCell;
use std::sync::Arc;

use aya_domain::{EndpointIndex, MonoTime, Request, Tokens};
use aya_estimate::{Match, PrefixIndex};
use aya_placement::{Insights, Stream};

use crate::view::FarmView;

/// Blocks at the beginning of a prompt that make its key for policies that hash.
const AFFINITY_BLOCKS: usize = 4;

thread_local! {
    static SCRATCH: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// How much of one prompt every endpoint holds, parallel to the snapshot's endpoints. Reused by all requests of a core.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(Match, Tokens)>);

impl Held {
    /// Looks the request's prompt up in the indexes of the endpoints that serve its model.
    pub(crate) fn find(&mut self, view: &FarmView, request: &Request) {
        self.0.clear();
        let blocks = &request.prefix.blocks;
        let Some(pool) = view.snapshot.models.get(&request.model) else { return };
        if blocks.is_empty() {
            return;
        }
        self.0.resize(view.companions.len(), (Match::default(), Tokens(0)));
        // One token at least is always computed.
        let most = Tokens(request.prompt_tokens.get().saturating_sub(1));
        // Many endpoints hold as much of a prompt as the one before them.
        let mut last = (0, Tokens(0));
        for (index, _) in &pool.members {
            let (Some(held), Some(companion)) = (self.0.get_mut(index.get()), view.companion(*index)) else {
                continue;
            };
            let found = companion.prefixes.matched(blocks);
            if found.blocks != last.0 {
                last = (found.blocks, request.prefix.tokens(found.blocks, request.prompt_tokens).min(most));
            }
            *held = (found, last.1);
        }
    }

    fn at(&self, endpoint: EndpointIndex) -> (Match, Tokens) {
        self.0.get(endpoint.get()).copied().unwrap_or_default()
    }

    /// What was expected of an endpoint's cache, to be compared with what the engine says.
    pub(crate) fn guess(&self, view: &FarmView, endpoint: EndpointIndex) -> Option<CacheGuess> {
        let (found, tokens) = self.at(endpoint);
        let index = Arc::clone(&view.companion(endpoint)?.prefixes);
        (found.blocks > 0).then_some(CacheGuess { index, found, tokens })
    }
}

/// What an endpoint's cache was expected to hold of a prompt that was sent to it.
#[derive(Debug)]
pub(crate) struct CacheGuess {
    index: Arc<PrefixIndex>,
    found: Match,
    tokens: Tokens,
}

impl CacheGuess {
    /// The engine says how many prompt tokens it had.
    pub(crate) fn told(&self, cached: Tokens) {
        self.index.correct(self.found, cached.as_f64() / self.tokens.as_f64().max(1.0));
    }
}

/// The view as an [`Insights`].
#[derive(Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) view: &'a FarmView,
    pub(crate) held: &'a Held,
    pub(crate) now: MonoTime,
}

impl Insights for Sight<'_> {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        self.held.at(endpoint).1
    }

    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        self.view.companion(endpoint).map(|companion| companion.cell.prompts())
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        let Some(companion) = self.view.companion(endpoint) else { return };
        SCRATCH.with_borrow_mut(|scratch| {
            companion.cell.residents().read(self.now, pending, streams, scratch);
        });
    }
}

/// Requests with the same key begin alike.
pub(crate) fn affinity(request: &Request) -> Option<u64> {
    request.prefix.blocks.iter().take(AFFINITY_BLOCKS).next_back().copied()
}
