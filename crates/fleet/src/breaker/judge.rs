//! The breakers of all endpoints together: the cap on what is ejected, peers to compare with, what is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aya_domain::{Condition, EndpointId, Health, KvAllocation, ModelId, MonoTime, Trip};

use super::{BreakerNotice, Outcomes, Sight, evidence};
use crate::endpoint::EndpointState;
use crate::{Effects, Fleet, Notice, Target};

/// What a breaker's step came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Judged {
    Same,
    /// It should be ejected, if its pools can spare it.
    Wants(Trip),
    Wedged {
        silent: Duration,
    },
    OnTrial,
    Recovered,
}

/// Members of one pool as the cap and the peers' pace see them.
#[derive(Debug, Default)]
struct PoolSight {
    members: u32,
    ejected: u32,
    /// In, eligible and not new.
    established: u32,
    /// Paces of the members that have one, with their ids.
    paces: Vec<f64>,
}

impl Fleet {
    /// What the ledger counted, endpoint by endpoint.
    pub(crate) fn take_outcomes(
        &mut self,
        now: MonoTime,
        all: Vec<(EndpointId, Outcomes)>,
        effects: &mut Effects,
    ) {
        let params = self.params.breaker;
        if !params.enabled {
            return;
        }
        let pools = self.pool_sights(now);
        for (id, seen) in all {
            let eligible = self.is_eligible(&id);
            let Some(endpoint) = self.endpoints.get_mut(&id) else { continue };
            let has_peer = others(endpoint, &pools).any(|pool| {
                pool.established > u32::from(eligible && endpoint.breaker.is_established(now, &params))
            });
            let sight = Sight {
                now,
                per_token_s: endpoint.info.profile.cost.per_token_s,
                eligible,
                loads_on_demand: endpoint.info.kind.capabilities().kv == KvAllocation::OnDemand,
                pulse: endpoint.heartbeat.pulse(now),
                has_peer,
            };
            let judged = endpoint.breaker.observe(seen, &sight, &params);
            self.follow(&id, judged, now, effects);
        }
        self.settle_breakers(now, &pools, effects);
    }

    /// A synthetic generation on an endpoint ended.
    pub(crate) fn take_probe(&mut self, id: &EndpointId, ok: bool, now: MonoTime, effects: &mut Effects) {
        let params = self.params.breaker;
        let Some(endpoint) = self.endpoints.get_mut(id).filter(|_| params.enabled) else { return };
        let judged = endpoint.breaker.probed(ok, now, &params);
        self.follow(id, judged, now, effects);
        let pools = self.pool_sights(now);
        self.settle_breakers(now, &pools, effects);
    }

    fn follow(&mut self, id: &EndpointId, judged: Judged, now: MonoTime, effects: &mut Effects) {
        let endpoint = id.clone();
        let notice = match judged {
            Judged::Same => return,
            Judged::Wants(trip) => {
                let spared = self.can_spare(id);
                let params = self.params.breaker;
                let Some(state) = self.endpoints.get_mut(id) else { return };
                if spared {
                    let lasts = state.breaker.eject(trip, now, &params);
                    BreakerNotice::Ejected { endpoint, trip, lasts }
                } else if state.breaker.keep(trip, now) {
                    BreakerNotice::Kept { endpoint, trip }
                } else {
                    return;
                }
            }
            Judged::Wedged { silent } => BreakerNotice::Wedged { endpoint, silent },
            Judged::OnTrial => BreakerNotice::OnTrial { endpoint },
            Judged::Recovered => BreakerNotice::Recovered { endpoint },
        };
        effects.notices.push(Notice::Breaker(notice));
    }

    /// Whether each of its pools keeps enough without it. What is ejected already may stay so.
    fn can_spare(&self, id: &EndpointId) -> bool {
        let Some(endpoint) = self.endpoints.get(id) else { return false };
        if endpoint.breaker.is_ejected() {
            return true;
        }
        let share = self.params.breaker.ejected_max_percent;
        endpoint.info.models.iter().all(|model| {
            let members = || {
                let serves = |e: &&EndpointState| e.info.models.iter().any(|m| m.id == model.id) && !e.gone;
                self.endpoints.values().filter(serves)
            };
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let (all, out) =
                (count(members().count()), count(members().filter(|e| e.breaker.is_ejected()).count()));
            out < most_ejected(all, share)
        })
    }

    fn is_eligible(&self, id: &EndpointId) -> bool {
        self.endpoints.get(id).is_some_and(|endpoint| {
            !endpoint.gone
                && matches!(endpoint.health, Health::Healthy | Health::Degraded { .. })
                && (self.drained.is_empty()
                    || !self.drained.contains(&Target::Endpoint(id.clone()))
                        && !self.drained.contains(&Target::Node(endpoint.info.node.clone())))
        })
    }

    fn pool_sights(&self, now: MonoTime) -> BTreeMap<ModelId, PoolSight> {
        let mut pools: BTreeMap<ModelId, PoolSight> = BTreeMap::new();
        for endpoint in self.endpoints.values().filter(|endpoint| !endpoint.gone) {
            for model in &endpoint.info.models {
                if !pools.contains_key(&model.id) {
                    pools.insert(model.id.clone(), PoolSight::default());
                }
                let Some(pool) = pools.get_mut(&model.id) else { continue };
                pool.members += 1;
                pool.ejected += u32::from(endpoint.breaker.is_ejected());
                pool.established += u32::from(endpoint.breaker.is_established(now, &self.params.breaker));
                pool.paces.extend(endpoint.breaker.pace.known());
            }
        }
        for pool in pools.values_mut() {
            pool.paces.sort_unstable_by(f64::total_cmp);
        }
        pools
    }

    /// Writes what follows into the endpoints; what changed there is told.
    fn settle_breakers(
        &mut self,
        now: MonoTime,
        pools: &BTreeMap<ModelId, PoolSight>,
        effects: &mut Effects,
    ) {
        let params = self.params.breaker;
        for (id, endpoint) in &mut self.endpoints {
            let peers =
                others(endpoint, pools).find_map(|pool| peers_pace(pool, endpoint.breaker.pace.known()?));
            let least = f64::from(params.slower_percent) / 100.0;
            let was_slow = endpoint.breaker.pace.is_slow();
            let slow = peers.filter(|_| least >= 1.0);
            let slow = slow.and_then(|peers| endpoint.breaker.pace.times_slower(peers, least, now));
            let endpoint_id = || id.clone();
            match (was_slow, slow) {
                (false, Some(times)) => {
                    let percent = evidence::percent(times);
                    let notice = BreakerNotice::Slow { endpoint: endpoint_id(), percent };
                    effects.notices.push(Notice::Breaker(notice));
                }
                (true, None) => {
                    // Idle as it is by now it would be flooded.
                    endpoint.breaker.ramp_up(now, &params);
                    let notice = BreakerNotice::AsFastAgain { endpoint: endpoint_id() };
                    effects.notices.push(Notice::Breaker(notice));
                }
                (false, None) | (true, Some(_)) => {}
            }
            let conditions: Vec<Condition> = endpoint.breaker.conditions(now, slow, &params);
            if endpoint.watched[..] != conditions[..] {
                endpoint.watched = Arc::from(conditions);
                effects.changed = true;
            }
        }
    }
}

/// How many of a pool may be ejected at once: never the last one.
pub(crate) fn most_ejected(members: u32, share_percent: u32) -> u32 {
    let share = u64::from(members) * u64::from(share_percent) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(1).min(members.saturating_sub(1))
}

fn others<'a>(
    endpoint: &'a EndpointState,
    pools: &'a BTreeMap<ModelId, PoolSight>,
) -> impl Iterator<Item = &'a PoolSight> {
    endpoint.info.models.iter().filter_map(|model| pools.get(&model.id))
}

/// The median pace of the others in a pool; `None` without others.
fn peers_pace(pool: &PoolSight, own: f64) -> Option<f64> {
    let mut others = pool.paces.clone();
    let at = others.iter().position(|pace| pace.total_cmp(&own).is_eq())?;
    others.remove(at);
    // Of two, the faster one: half a pool may be slow.
    others.get(others.len().saturating_sub(1) / 2).copied()
}
