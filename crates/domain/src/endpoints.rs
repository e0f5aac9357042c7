//! The endpoints of a snapshot, and side by side what every decision reads of each.
//!
//! An endpoint is a quarter of a kilobyte and its info more than that elsewhere; a decision reads a tenth of both, of
//! every endpoint, for every request, while a snapshot lasts for many of them. So that tenth ([`Outline`]) is laid out
//! once, when the first decision asks for it. It follows from the endpoints alone: whoever changes one loses it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use crate::{
    Condition, Endpoint, EndpointIndex, ForeignLoad, Freshness, Health, KvAllocation, MonoTime, Phase,
    StepCost, Tokens,
};

/// What no request changes about an endpoint, as far as most decisions need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outline {
    /// At its present speed.
    pub cost: StepCost,
    /// Prefill and decode tokens in one iteration.
    pub batch_tokens: f64,
    /// KV tokens that newcomers share with residents; infinite where they share none.
    pub kv_pool: f64,
    pub foreign: ForeignLoad,
    /// The KV pool where the engine told it: the most that one request may need. [`u64::MAX`] where it did not.
    pub size_limit: Tokens,
    /// Requests at once, those included that may wait inside; [`u32::MAX`] where nobody says.
    pub slots: u32,
    pub freshness: Freshness,
    pub sampled_at: Option<MonoTime>,
    /// It serves and works, nothing keeps requests away, and its free VRAM does not matter: only size and load are left
    /// to be judged. Otherwise the endpoint has to be looked at.
    pub is_open: bool,
}

impl Outline {
    /// The outline of an endpoint.
    #[must_use]
    pub fn of(endpoint: &Endpoint) -> Self {
        let info = &endpoint.info;
        let capabilities = info.kind.capabilities();
        let profile = info.profile.at_speed(endpoint.speed);
        let kv_pool = if capabilities.kv == KvAllocation::Preallocated {
            info.kv_capacity.unwrap_or(profile.kv_capacity).as_f64()
        } else {
            f64::INFINITY
        };
        let beyond = capabilities.in_flight_beyond_slots.unwrap_or(0);
        Self {
            cost: profile.cost,
            batch_tokens: f64::from(profile.max_batched_tokens),
            kv_pool,
            foreign: endpoint.foreign,
            size_limit: info.told_kv_capacity().unwrap_or(Tokens(u64::MAX)),
            slots: info.max_sequences.map_or(u32::MAX, |slots| slots.saturating_add(beyond)),
            freshness: endpoint.freshness,
            sampled_at: endpoint.sampled_at,
            is_open: endpoint.phase == Phase::Serving
                && matches!(endpoint.health, Health::Healthy | Health::Degraded { .. })
                && endpoint.excluded_by().is_none()
                && endpoint.limited_to().is_none()
                && capabilities.kv != KvAllocation::OnDemand,
        }
    }
}

/// What is wrong with endpoints, in their order; one without an entry has nothing.
pub type Conditions = Arc<[(EndpointIndex, Arc<[Condition]>)]>;

#[derive(Debug, Clone)]
struct Derived {
    outlines: Box<[Outline]>,
    conditions: Conditions,
}

/// The endpoints of a snapshot in their order. Reads as a vector of them.
#[derive(Debug, Clone, Default)]
pub struct Endpoints {
    list: Vec<Endpoint>,
    derived: OnceLock<Derived>,
}

impl Endpoints {
    /// What decisions read of each, parallel to the endpoints.
    #[must_use]
    pub fn outlines(&self) -> &[Outline] {
        &self.derived().outlines
    }

    /// Lays that out now, so that no decision has to.
    pub fn prepare(&self) {
        self.derived();
    }

    /// What is wrong with any of them.
    #[must_use]
    pub fn conditions(&self) -> &Conditions {
        &self.derived().conditions
    }

    fn derived(&self) -> &Derived {
        self.derived.get_or_init(|| {
            let entries = (0..).map(EndpointIndex).zip(&self.list);
            let conditions = entries
                .filter(|(_, endpoint)| !endpoint.conditions.is_empty())
                .map(|(at, endpoint)| (at, Arc::clone(&endpoint.conditions)));
            Derived {
                outlines: self.list.iter().map(Outline::of).collect(),
                conditions: conditions.collect(),
            }
        })
    }
}

impl Deref for Endpoints {
    type Target = Vec<Endpoint>;

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl DerefMut for Endpoints {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.derived = OnceLock::new();
        &mut self.list
    }
}

impl PartialEq for Endpoints {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl From<Vec<Endpoint>> for Endpoints {
    fn from(list: Vec<Endpoint>) -> Self {
        Self { list, derived: OnceLock::new() }
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(endpoints: I) -> Self {
        Vec::from_iter(endpoints).into()
    }
}

impl<'a> IntoIterator for &'a Endpoints {
    type Item = &'a Endpoint;
    type IntoIter = std::slice::Iter<'a, Endpoint>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a mut Endpoints {
    type Item = &'a mut Endpoint;
    type IntoIter = std::slice::IterMut<'a, Endpoint>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AbortPolicy, EndpointId, EndpointInfo, EndpointUrl, EngineKind, EngineProfile, NodeId, Ratio,
    };

    fn endpoint(profile: EngineProfile) -> Endpoint {
        Endpoint::unread(Arc::new(EndpointInfo {
            id: EndpointId::parse("e").unwrap(),
            node: NodeId::parse("n").unwrap(),
            kind: EngineKind::Vllm,
            url: EndpointUrl::parse("http://10.0.0.1:8000").unwrap(),
            models: Vec::new(),
            profile,
            profile_source: "engine".to_owned(),
            learned: None,
            max_sequences: Some(7),
            kv_capacity: None,
            kv_bytes_per_token: None,
            gpus: Vec::new(),
            version: None,
            abort: AbortPolicy::Cancel,
        }))
    }

    #[test]
    fn an_outline_follows_its_endpoint_through_every_change() {
        let cost = StepCost {
            base_s: 0.01,
            per_token_s: 1e-4,
            overhead_s: 0.0,
            per_kv_token_s: 1e-8,
            attention_s: 0.0,
        };
        let profile =
            EngineProfile { cost, kv_capacity: Tokens(9_000), max_batched_tokens: 2048, max_sequences: 256 };
        let mut endpoints = Endpoints::from(vec![endpoint(profile)]);
        let outline = endpoints.outlines()[0];
        assert!(outline.is_open && outline.slots == 7 && outline.size_limit == Tokens(9_000), "{outline:?}");
        let before = endpoints.clone();
        endpoints[0].speed = Ratio::clamped(0.5);
        assert!((endpoints.outlines()[0].cost.base_s - 0.02).abs() < 1e-12);
        for endpoint in &mut endpoints {
            endpoint.phase = Phase::Draining;
        }
        assert!(!endpoints.outlines()[0].is_open && before.outlines()[0].is_open);
        endpoints.clear();
        assert!(endpoints.outlines().is_empty() && endpoints.conditions().is_empty());
    }
}
