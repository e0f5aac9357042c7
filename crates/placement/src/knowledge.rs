//! What a scheduler may know beyond the ledger's sums: cached prefixes, the streams themselves, how long answers
//! are. All of it is optional: without it every prompt counts as uncached and no misses are foreseen.
//!
//! A decision asks for little of it: the cached tokens of the endpoints that could take the request, and the streams
//! of the few that are in the running ([`crate::LOOKED_AT_MAX`]). [`Consulted`] is exactly that. It is itself a source
//! of knowledge, and a decision made from it has the same bytes, so a record of it is all that a replay needs: about
//! 6 bytes per stream and 3 per endpoint that holds some of the prompt. With it belong the length distribution
//! ([`LengthDistribution::histogram`], which changes once in 50 answers) and `affinity`.

use std::fmt;

use aya_domain::{EndpointIndex, Tokens};
use aya_estimate::LengthDistribution;

/// One answer that streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Tokens so far.
    pub tokens: u32,
    /// Milliseconds since its first token; whole ones, so that a record holds them exactly.
    pub since_first_ms: u32,
}

/// What is known of each endpoint about one request. Must not change its answers while a decision is made.
pub trait Insights: fmt::Debug {
    /// Leading prompt tokens that the endpoint's cache probably holds.
    fn cached(&self, endpoint: EndpointIndex) -> Tokens;

    /// Prompt tokens of everything of ours in flight there; `None`: not counted one by one.
    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens>;

    /// Appends the uncached prompt tokens of each request without a first token, in order of dispatch, and the streams.
    /// Asked once per endpoint and decision at the most.
    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>);
}

/// Everything beyond the ledger.
#[derive(Debug, Clone, Copy, Default)]
pub struct Knowledge<'a> {
    /// `None`: nothing is known of any endpoint.
    pub endpoints: Option<&'a dyn Insights>,
    /// Needed to foresee misses.
    pub lengths: Option<&'a LengthDistribution>,
    /// Requests with the same key share a session or the beginning of their prompt.
    pub affinity: Option<u64>,
}

impl Knowledge<'_> {
    pub(crate) fn cached(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        self.endpoints.map(|known| known.cached(endpoint))
    }

    pub(crate) fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        self.endpoints?.prompts_in_flight(endpoint)
    }
}

/// An endpoint whose streams were looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LookedAt {
    pub endpoint: EndpointIndex,
    /// How many of [`Consulted::pending`] are its own; those of the endpoints looked at before come first.
    pub pending: u32,
    /// How many of [`Consulted::streams`].
    pub streams: u32,
}

/// What a decision asked its [`Insights`] for, and nothing else. Kept by the caller and used again, it saves the
/// allocations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consulted {
    /// Endpoints that hold some of the prompt, in ascending order; all others hold nothing.
    pub cached: Vec<(EndpointIndex, Tokens)>,
    /// Prompts in flight, where the policy asks for them, in ascending order.
    pub prompts: Vec<(EndpointIndex, Tokens)>,
    /// In the order in which they were looked at: at most [`crate::LOOKED_AT_MAX`].
    pub looked_at: Vec<LookedAt>,
    pub pending: Vec<u32>,
    pub streams: Vec<Stream>,
}

impl Consulted {
    pub(crate) fn clear(&mut self) {
        self.cached.clear();
        self.prompts.clear();
        self.looked_at.clear();
        self.pending.clear();
        self.streams.clear();
    }

    /// Asks for an endpoint's residents and notes them.
    pub(crate) fn look(&mut self, known: &dyn Insights, endpoint: EndpointIndex) -> (&[u32], &[Stream]) {
        let (pending, streams) = (self.pending.len(), self.streams.len());
        known.residents(endpoint, &mut self.pending, &mut self.streams);
        let pending = self.pending.get(pending..).unwrap_or_default();
        let streams = self.streams.get(streams..).unwrap_or_default();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.looked_at.push(LookedAt {
            endpoint,
            pending: count(pending.len()),
            streams: count(streams.len()),
        });
        (pending, streams)
    }
}

impl Insights for Consulted {
    fn cached(&self, endpoint: EndpointIndex) -> Tokens {
        find(&self.cached, endpoint).unwrap_or_default()
    }

    fn prompts_in_flight(&self, endpoint: EndpointIndex) -> Option<Tokens> {
        find(&self.prompts, endpoint)
    }

    fn residents(&self, endpoint: EndpointIndex, pending: &mut Vec<u32>, streams: &mut Vec<Stream>) {
        let (mut waiting, mut streaming) = (self.pending.as_slice(), self.streams.as_slice());
        for looked_at in &self.looked_at {
            let cut = |count: u32, most: usize| usize::try_from(count).unwrap_or(most).min(most);
            let (here_pending, later) = waiting.split_at(cut(looked_at.pending, waiting.len()));
            let (here_streams, others) = streaming.split_at(cut(looked_at.streams, streaming.len()));
            if looked_at.endpoint == endpoint {
                pending.extend_from_slice(here_pending);
                streams.extend_from_slice(here_streams);
                return;
            }
            (waiting, streaming) = (later, others);
        }
    }
}

fn find(sorted: &[(EndpointIndex, Tokens)], endpoint: EndpointIndex) -> Option<Tokens> {
    let at = sorted.binary_search_by_key(&endpoint, |(index, _)| *index).ok()?;
    sorted.get(at).map(|(_, tokens)| *tokens)
}
