//! What the scheduler has learned about each model: how long answers are, in all and per route, and bytes per token.
//!
//! A route is a tenant's way of asking (its kind, streaming or not): the same model writes 20 tokens for one and 800 for
//! another. A new route begins with what is known of the model, which weighs as much as [`START_WEIGHT`] answers.
//!
//! Readers take published numbers without a lock. A finished request teaches only if nobody else teaches at
//! this moment: a lost sample costs nothing, a wait would.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use aya_admission::{Strain, Strained};
use aya_domain::{MonoTime, Request, RequestKind, TenantId, Tokens};
use aya_estimate::{LengthDistribution, OutputPrior, TokenRatio};
use parking_lot::Mutex;

use crate::metrics::ModelMetrics;

/// Routes of one model with a prior of their own; further ones have the model's.
const ROUTES_MAX: usize = 1_024;
/// Answers that the model's prior weighs in a new route.
const START_WEIGHT: f64 = 8.0;

/// Whose answers are likely to be alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) kind: RequestKind,
    pub(crate) stream: bool,
}

impl<'a> Route<'a> {
    pub(crate) const fn of(request: &'a Request) -> Self {
        Self { tenant: &request.tenant, kind: request.kind, stream: request.stream }
    }

    const fn manner(&self) -> usize {
        let kind = match self.kind {
            RequestKind::Chat => 0,
            RequestKind::Completion => 1,
            RequestKind::Embedding => 2,
        };
        kind * 2 + self.stream as usize
    }
}

/// One tenant's priors, by its manners of asking.
type Manners = [Published; 6];
type Routes = BTreeMap<TenantId, Arc<Manners>>;

/// Mean output and mean rest, as bits; zero where nothing was learned.
#[derive(Debug, Default)]
struct Published {
    expected: AtomicU64,
    residual: AtomicU64,
}

impl Published {
    fn set(&self, prior: &OutputPrior) {
        self.residual.store(prior.residual().to_bits(), Ordering::Relaxed);
        self.expected.store(prior.expected().to_bits(), Ordering::Relaxed);
    }

    fn get(&self) -> Option<(f64, f64)> {
        let read = |cell: &AtomicU64| f64::from_bits(cell.load(Ordering::Relaxed));
        let (expected, residual) = (read(&self.expected), read(&self.residual));
        (expected > 0.0 && residual > 0.0).then_some((expected, residual))
    }
}

/// One model's state; lives as long as the scheduler, its number is bounded by the fleet's models.
#[derive(Debug)]
pub(crate) struct ModelState {
    pub(crate) metrics: Arc<ModelMetrics>,
    learned: Mutex<Learned>,
    /// Requests so far: the position of a round robin, and part of the seed.
    sequence: AtomicU64,
    output: Published,
    /// Copied when a tenant is new; at most [`ROUTES_MAX`] routes.
    routes: ArcSwap<Routes>,
    /// Published anew every 50 answers.
    lengths: ArcSwap<LengthDistribution>,
    bytes_per_token: AtomicU64,
    strain: Mutex<Strain>,
    /// The strain as it was last read, as bits: misses per request, and seconds to the first token.
    strained: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct Learned {
    output: OutputPrior,
    routes: BTreeMap<(TenantId, usize), OutputPrior>,
    lengths: LengthDistribution,
    ratio: TokenRatio,
}

/// What a finished request teaches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lesson<'a> {
    pub(crate) route: Route<'a>,
    pub(crate) prompt_bytes: u64,
    pub(crate) messages: u32,
    pub(crate) prompt_tokens: Option<u64>,
    pub(crate) completion_tokens: Option<u64>,
}

impl ModelState {
    pub(crate) fn new(metrics: Arc<ModelMetrics>) -> Self {
        let state = Self {
            metrics,
            learned: Mutex::new(Learned::default()),
            sequence: AtomicU64::new(0),
            output: Published::default(),
            routes: ArcSwap::default(),
            lengths: ArcSwap::default(),
            bytes_per_token: AtomicU64::new(0),
            strain: Mutex::default(),
            strained: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        state.publish(&state.learned.lock());
        state
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Mean output in tokens of this route, and the mean remaining output of a running request of the model.
    pub(crate) fn output(&self, route: Route<'_>) -> (f64, f64) {
        let model = self.output.get().unwrap_or((1.0, 1.0));
        let routes = self.routes.load();
        let own = routes.get(route.tenant).and_then(|manners| manners.get(route.manner())?.get());
        // Who runs somewhere is of any route.
        (own.map_or(model.0, |(expected, _)| expected), model.1)
    }

    /// How long answers of the model are.
    pub(crate) fn lengths(&self) -> Arc<LengthDistribution> {
        self.lengths.load_full()
    }

    pub(crate) fn prompt_tokens(&self, prompt_bytes: u64, messages: u32) -> Tokens {
        let ratio = TokenRatio::known(f64::from_bits(self.bytes_per_token.load(Ordering::Relaxed)));
        ratio.estimate(prompt_bytes, messages)
    }

    /// Counts a newcomer for which so many misses and seconds to the first token are expected, and tells how hard the
    /// model's endpoints are strained. While somebody else counts, that one's reading is as good.
    pub(crate) fn strain(&self, misses: f64, ttft_s: f64, now: MonoTime) -> Strained {
        let [ratio, seconds] = &self.strained;
        let Some(mut strain) = self.strain.try_lock() else {
            let read = |cell: &AtomicU64| f64::from_bits(cell.load(Ordering::Relaxed));
            return Strained { misses_ratio: read(ratio), ttft_s: read(seconds) };
        };
        strain.note(misses, ttft_s, now);
        let strained = strain.read(now);
        ratio.store(strained.misses_ratio.to_bits(), Ordering::Relaxed);
        seconds.store(strained.ttft_s.to_bits(), Ordering::Relaxed);
        strained
    }

    pub(crate) fn learn(&self, lesson: Lesson<'_>) {
        let Some(mut learned) = self.learned.try_lock() else { return };
        if let Some(tokens) = lesson.completion_tokens {
            let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
            learned.output.observe(tokens);
            if learned.lengths.observe(tokens) {
                self.lengths.store(Arc::new(learned.lengths.published()));
            }
            self.learn_route(&mut learned, lesson.route, tokens);
        }
        if let Some(tokens) = lesson.prompt_tokens {
            learned.ratio.observe(lesson.prompt_bytes, lesson.messages, Tokens(tokens));
        }
        self.publish(&learned);
    }

    fn learn_route(&self, learned: &mut Learned, route: Route<'_>, tokens: u32) {
        let key = (route.tenant.clone(), route.manner());
        let full = learned.routes.len() >= ROUTES_MAX;
        let prior = match learned.routes.get_mut(&key) {
            Some(prior) => prior,
            None if full => return,
            None => learned.routes.entry(key).or_insert(learned.output.weighing(START_WEIGHT)),
        };
        prior.observe(tokens);
        if !self.routes.load().contains_key(route.tenant) {
            let mut routes = Routes::clone(&self.routes.load());
            routes.insert(route.tenant.clone(), Arc::default());
            self.routes.store(Arc::new(routes));
        }
        let routes = self.routes.load();
        if let Some(own) = routes.get(route.tenant).and_then(|manners| manners.get(route.manner())) {
            own.set(prior);
        }
    }

    fn publish(&self, learned: &Learned) {
        self.output.set(&learned.output);
        self.bytes_per_token.store(learned.ratio.bytes_per_token().to_bits(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_learns_its_own_lengths_and_a_new_one_begins_with_the_models() {
        let registry = crate::metrics::Metrics::new(4).unwrap();
        let state = ModelState::new(registry.model(None));
        let (short, long) = (TenantId::default(), TenantId::parse("long").unwrap());
        let route = |tenant| Route { tenant, kind: RequestKind::Chat, stream: true };
        assert!((state.output(route(&short)).0 - 200.0).abs() < 1e-9);
        for _ in 0..300 {
            for (tenant, tokens) in [(&short, 20), (&long, 800)] {
                let (prompt_bytes, messages, prompt_tokens) = (400, 1, None);
                let (route, completion_tokens) = (route(tenant), Some(tokens));
                state.learn(Lesson { route, prompt_bytes, messages, prompt_tokens, completion_tokens });
            }
        }
        let expected = |route| state.output(route).0;
        assert!(expected(route(&short)) < 40.0, "{}", expected(route(&short)));
        assert!(expected(route(&long)) > 760.0, "{}", expected(route(&long)));
        let other = Route { stream: false, ..route(&short) };
        assert!((390.0..430.0).contains(&expected(other)), "{}", expected(other));
        assert!((state.lengths().share_below(400.0) - 0.5).abs() < 0.05);
    }
}
