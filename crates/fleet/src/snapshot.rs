//! The view that readers share. What did not change is shared with the last one.

use std::collections::BTreeSet;
use std::sync::Arc;

use aya_domain::{Endpoint, EndpointId, Freshness, MonoTime, Node, Phase, Snapshot};

use crate::{Fleet, Notice, Target, invariants};

impl Fleet {
    /// The farm at this instant, one generation after the last.
    pub fn snapshot(&mut self, now: MonoTime) -> Snapshot {
        self.refresh_models(now);
        self.generation += 1;
        let params = self.params;
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.values_mut() {
            let draining = is_drained(&self.drained, || Target::Node(node.id.clone()));
            nodes.push(node.view(now, &params, draining));
        }
        let endpoints = self.endpoint_views(&nodes);
        let snapshot = Snapshot {
            generation: self.generation,
            taken_at: now,
            endpoints: endpoints.into(),
            directory: self.directory(),
            nodes,
            models: self.models.pools().clone(),
        };
        debug_assert_eq!(invariants::check(&snapshot), Ok(()), "a snapshot breaks its own rules");
        snapshot
    }

    fn endpoint_views(&self, nodes: &[Arc<Node>]) -> Vec<Endpoint> {
        let mut views = Vec::with_capacity(self.endpoints.len());
        // Ids begin with their node's name unless configured, so the next endpoint's node is mostly the last one's.
        let mut last: Option<&Arc<Node>> = None;
        for (id, endpoint) in &self.endpoints {
            if last.is_none_or(|node| node.id != endpoint.info.node) {
                let at = nodes.binary_search_by(|node| node.id.cmp(&endpoint.info.node)).ok();
                last = at.and_then(|at| nodes.get(at));
            }
            let draining = last.is_some_and(|node| node.phase == Phase::Draining)
                || is_drained(&self.drained, || Target::Endpoint(id.clone()));
            let freshness = last.map_or(Freshness::Suspect, |node| node.freshness);
            views.push(endpoint.view(freshness, draining));
        }
        views
    }

    fn directory(&mut self) -> Arc<[EndpointId]> {
        let endpoints = &self.endpoints;
        Arc::clone(self.directory.get_or_insert_with(|| endpoints.keys().cloned().collect()))
    }

    fn refresh_models(&mut self, now: MonoTime) {
        if !std::mem::take(&mut self.models_dirty) {
            return;
        }
        let max = self.params.models_max;
        for model in self.models.rebuild(&self.endpoints, max, now) {
            self.pending.push(Notice::ModelLimit { model, max });
        }
    }
}

/// Mostly nothing is drained, and then no target is made up.
fn is_drained(drained: &BTreeSet<Target>, target: impl FnOnce() -> Target) -> bool {
    !drained.is_empty() && drained.contains(&target())
}
