//! The view that readers share. What did not change is shared with the last one.

use std::sync::Arc;

use aya_domain::{EndpointId, Freshness, MonoTime, NodeId, Snapshot};

use crate::{Fleet, Notice, Target, invariants};

impl Fleet {
    /// The farm at this instant, one generation after the last.
    pub fn snapshot(&mut self, now: MonoTime) -> Snapshot {
        self.refresh_models(now);
        self.generation += 1;
        let params = self.params;
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in self.nodes.values_mut() {
            let draining = is_drained(&self.drained, node.id.clone());
            nodes.push(node.view(node.freshness(now, &params), draining));
        }
        let mut endpoints = Vec::with_capacity(self.endpoints.len());
        for endpoint in self.endpoints.values() {
            let node = nodes.binary_search_by(|node| node.id.cmp(&endpoint.info.node)).ok();
            let node = node.and_then(|at| nodes.get(at));
            let draining = node.is_some_and(|node| node.phase == aya_domain::Phase::Draining)
                || (!self.drained.is_empty()
                    && self.drained.contains(&Target::Endpoint(endpoint.info.id.clone())));
            let freshness = node.map_or(Freshness::Suspect, |node| node.freshness);
            endpoints.push(endpoint.view(freshness, draining));
        }
        let snapshot = Snapshot {
            generation: self.generation,
            taken_at: now,
            endpoints,
            directory: self.directory(),
            nodes,
            models: self.models.pools().clone(),
        };
        debug_assert_eq!(invariants::check(&snapshot), Ok(()), "a snapshot breaks its own rules");
        snapshot
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

fn is_drained(drained: &std::collections::BTreeSet<Target>, node: NodeId) -> bool {
    !drained.is_empty() && drained.contains(&Target::Node(node))
}
