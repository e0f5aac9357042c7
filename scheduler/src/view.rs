//! What a request sees of the farm: the published snapshot and, parallel to it, the ledger's cells.
//!
//! The fleet writer swaps the view; readers take it without a lock. A view is immutable, the cells in it are not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aya_domain::{Endpoint, EndpointIndex, EndpointUrl, Health, ModelId, MonoTime, OwnLoad, Phase, Snapshot};
use aya_estimate::{DecayedRate, PrefixIndex};
use aya_trace::OwnRead;

use crate::ledger::LedgerCell;
use crate::metrics::EndpointMetrics;
use crate::models::ModelState;

/// One endpoint's mutable companions.
#[derive(Debug, Clone)]
pub(crate) struct Companion {
    pub(crate) cell: Arc<LedgerCell>,
    /// What its engine's cache probably holds; replaced by an empty one when the engine has lost it.
    pub(crate) prefixes: Arc<PrefixIndex>,
    pub(crate) metrics: Arc<EndpointMetrics>,
    /// When this scheduler first saw it.
    pub(crate) since: MonoTime,
    pub(crate) url: EndpointUrl,
    /// Read from the URL once; `None`: there is a name in it.
    pub(crate) address: Option<SocketAddr>,
}

/// The ledger at one instant, parallel to a snapshot's endpoints.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    pub(crate) loads: Vec<OwnLoad>,
    /// The rates as they are kept.
    pub(crate) rates: Vec<DecayedRate>,
}

impl Loads {
    /// Both together, to be kept.
    pub(crate) fn copied(&self) -> Vec<OwnRead> {
        self.loads.iter().zip(&self.rates).map(|(load, rate)| OwnRead { load: *load, rate: *rate }).collect()
    }
}

/// Whether an endpoint takes requests as far as anyone knows.
pub(crate) fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.phase == Phase::Serving
        && matches!(endpoint.health, Health::Healthy | Health::Degraded { .. })
        && endpoint.excluded_by().is_none()
}

/// One published state of the farm.
#[derive(Debug)]
pub(crate) struct FarmView {
    pub(crate) snapshot: Snapshot,
    /// Parallel to `snapshot.endpoints`.
    pub(crate) companions: Vec<Companion>,
    /// What was learned about each model of the snapshot.
    pub(crate) models: BTreeMap<ModelId, Arc<ModelState>>,
}

impl FarmView {
    pub(crate) fn empty() -> Self {
        Self { snapshot: Snapshot::empty(), companions: Vec::new(), models: BTreeMap::new() }
    }

    /// Endpoints that take requests as far as anyone knows.
    pub(crate) fn ready(&self) -> usize {
        self.snapshot.endpoints.iter().filter(|endpoint| is_ready(endpoint)).count()
    }

    pub(crate) fn companion(&self, index: EndpointIndex) -> Option<&Companion> {
        self.companions.get(index.get())
    }

    /// Reads the ledger into `loads`, parallel to the snapshot's endpoints.
    pub(crate) fn read_loads(&self, now: MonoTime, loads: &mut Loads) {
        let Loads { loads, rates } = loads;
        loads.clear();
        rates.clear();
        for companion in &self.companions {
            let OwnRead { load, rate } = companion.cell.read_own(now);
            loads.push(load);
            rates.push(rate);
        }
    }
}
