//! Who waited how long, who was refused, and whose requests they were. Classes are a closed list, and tenants are
//! bounded before they come here: those beyond the configured number are one, `other`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aya_admission::Shed;
use aya_domain::{Priority, Request, TenantId};
use aya_observe::metrics::{MetricError, Registry, TIME_BUCKETS_S};
use aya_trace::OutcomeStatus;
use prometheus::{Histogram, IntCounter, IntCounterVec};

type Outcomes = [IntCounter; OutcomeStatus::ALL.len()];

/// The series of admission.
#[derive(Debug)]
pub(crate) struct AdmissionMetrics {
    sheds: IntCounterVec,
    waits: [Histogram; Priority::ALL.len()],
    tenants: IntCounterVec,
    /// Handles of tenants seen so far; copied when one is new.
    known: ArcSwap<BTreeMap<TenantId, Arc<Outcomes>>>,
}

impl AdmissionMetrics {
    pub(super) fn new(make: &Registry) -> Result<Self, MetricError> {
        let waits = make.histogram_vec(
            "aya_queue_wait_seconds",
            "Time in the scheduler's queue of those who waited, by class.",
            &["priority"],
            TIME_BUCKETS_S,
        )?;
        Ok(Self {
            sheds: make.counter_vec(
                "aya_requests_shed_total",
                "Requests refused for a predicted wait, by what it would have exceeded.",
                &["priority", "reason"],
            )?,
            waits: Priority::ALL.map(|class| waits.with_label_values(&[class.as_str()])),
            tenants: make.counter_vec(
                "aya_tenant_requests_total",
                "Ended requests whose tenant and model were read, by tenant.",
                &["tenant", "outcome"],
            )?,
            known: ArcSwap::default(),
        })
    }

    /// A request was refused for what was predicted.
    pub(crate) fn shed(&self, shed: &Shed, request: Option<&Request>) {
        let class = request.map_or_else(Priority::default, |request| request.priority);
        self.sheds.with_label_values(&[class.as_str(), shed.reason.as_str()]).inc();
    }

    /// A request that waited ended, or went to an engine.
    pub(crate) fn waited(&self, class: Priority, wait_s: f64) {
        if let Some(histogram) = self.waits.get(class.index()) {
            histogram.observe(wait_s);
        }
    }

    /// A tenant's request ended.
    pub(crate) fn ended(&self, tenant: &TenantId, status: OutcomeStatus) {
        if let Some(counter) = self.of(tenant).get(status.index()) {
            counter.inc();
        }
    }

    fn of(&self, tenant: &TenantId) -> Arc<Outcomes> {
        if let Some(known) = self.known.load().get(tenant) {
            return Arc::clone(known);
        }
        let counter =
            |status: OutcomeStatus| self.tenants.with_label_values(&[tenant.as_str(), status.as_str()]);
        let new = Arc::new(OutcomeStatus::ALL.map(counter));
        self.known.rcu(|known| {
            let mut grown = BTreeMap::clone(known);
            grown.insert(tenant.clone(), Arc::clone(&new));
            grown
        });
        new
    }
}
