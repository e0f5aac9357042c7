//! Which models the farm serves or served, and by which endpoints.
//!
//! A model that was served once stays a key, its pool possibly empty: "nobody serves it now" is a reason to wait,
//! "nobody ever did" is a 404.

use std::collections::BTreeMap;

use aya_domain::{EndpointId, EndpointIndex, ModelId, MonoTime, Pool, ServedModel, Tokens};

use crate::endpoint::EndpointState;

/// The pools of the present membership, and the memory of former ones.
#[derive(Debug, Default)]
pub(crate) struct Models {
    pools: BTreeMap<ModelId, Pool>,
    /// When each model that nobody serves now was last served.
    unserved_since: BTreeMap<ModelId, MonoTime>,
}

impl Models {
    pub(crate) const fn pools(&self) -> &BTreeMap<ModelId, Pool> {
        &self.pools
    }

    /// Remembers models at once, so that one served only between two snapshots is known too.
    pub(crate) fn learn(&mut self, served: &[ServedModel], models_max: usize, now: MonoTime) {
        for model in served {
            if !self.pools.contains_key(&model.id) && self.make_room(models_max) {
                self.pools.insert(model.id.clone(), Pool::default());
                self.unserved_since.insert(model.id.clone(), now);
            }
        }
    }

    /// Works out the pools anew; names the models that found no place.
    pub(crate) fn rebuild(
        &mut self,
        endpoints: &BTreeMap<EndpointId, EndpointState>,
        models_max: usize,
        now: MonoTime,
    ) -> Vec<ModelId> {
        let mut left_out = Vec::new();
        let mut served_before: Vec<ModelId> = Vec::new();
        for (model, pool) in &mut self.pools {
            if !pool.members.is_empty() {
                served_before.push(model.clone());
                pool.members.clear();
            }
        }
        let indices = (0_u32..).map(EndpointIndex);
        for (index, endpoint) in indices.zip(endpoints.values()).filter(|(_, endpoint)| !endpoint.gone) {
            for model in &endpoint.info.models {
                if !self.join(&model.id, index, model.context_length, models_max)
                    && !left_out.contains(&model.id)
                {
                    left_out.push(model.id.clone());
                }
            }
        }
        for model in served_before {
            if self.pools.get(&model).is_some_and(|pool| pool.members.is_empty()) {
                self.unserved_since.entry(model).or_insert(now);
            }
        }
        left_out
    }

    fn join(
        &mut self,
        model: &ModelId,
        index: EndpointIndex,
        context: Option<Tokens>,
        models_max: usize,
    ) -> bool {
        if !self.pools.contains_key(model) {
            if !self.make_room(models_max) {
                return false;
            }
            self.pools.insert(model.clone(), Pool::default());
        }
        self.unserved_since.remove(model);
        if let Some(pool) = self.pools.get_mut(model) {
            // An engine that names a model twice serves it once.
            if pool.members.last().is_none_or(|(last, _)| *last != index) {
                pool.members.push((index, context));
            }
        }
        true
    }

    fn make_room(&mut self, models_max: usize) -> bool {
        self.pools.len() < models_max || self.forget_one()
    }

    /// Forgets the model that nobody serves for the longest time.
    fn forget_one(&mut self) -> bool {
        let oldest =
            self.unserved_since.iter().min_by_key(|(_, since)| **since).map(|(model, _)| model.clone());
        let Some(model) = oldest else { return false };
        self.unserved_since.remove(&model);
        self.pools.remove(&model);
        true
    }
}
