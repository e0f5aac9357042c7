//! `/metrics`: the counters, and gauges set from the farm's state at this moment.

use aya_domain::{Cause, Condition, Endpoint, MonoTime, Priority};

use crate::metrics::Metrics;
use crate::room::{PoolDepth, WaitingRoom};
use crate::view::FarmView;

/// The exposition text.
pub(super) fn render(
    metrics: &Metrics,
    view: &FarmView,
    room: &WaitingRoom,
    now: MonoTime,
) -> Result<String, aya_observe::metrics::MetricError> {
    let _one_at_a_time = metrics.begin_scrape();
    mirror_endpoints(metrics, view);
    metrics.sample_age.reset();
    for node in &view.snapshot.nodes {
        let age = now.since(node.last_report_at).as_secs_f64();
        metrics.sample_age.with_label_values(&[node.id.as_str()]).set(age);
    }
    mirror_conditions(metrics, view);
    metrics.queue_depth.reset();
    for PoolDepth { model, waiting, .. } in room.depths() {
        let label = metrics.label(&model);
        for (class, depth) in Priority::ALL.into_iter().zip(waiting) {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            metrics.queue_depth.with_label_values(&[&*label, class.as_str()]).add(depth);
        }
    }
    metrics.render()
}

fn mirror_endpoints(metrics: &Metrics, view: &FarmView) {
    metrics.endpoints.set(i64::try_from(view.snapshot.endpoints.len()).unwrap_or(i64::MAX));
    metrics.endpoint_in_flight.reset();
    metrics.endpoint_ready.reset();
    metrics.health.speed.reset();
    metrics.endpoint_signal.reset();
    metrics.breaker.state.reset();
    for (endpoint, companion) in view.snapshot.endpoints.iter().zip(&view.companions) {
        let id = endpoint.info.id.as_str();
        metrics.endpoint_in_flight.with_label_values(&[id]).set(i64::from(companion.cell.in_flight()));
        metrics.breaker.state.with_label_values(&[id]).set(state(endpoint));
        metrics.health.speed.with_label_values(&[id]).set(endpoint.speed.get());
        metrics.endpoint_ready.with_label_values(&[id]).set(i64::from(crate::view::is_ready(endpoint)));
        for told in &*endpoint.signals {
            let labels = [id, told.signal.as_str(), told.state.as_str()];
            metrics.endpoint_signal.with_label_values(&labels).set(1);
        }
    }
}

fn mirror_conditions(metrics: &Metrics, view: &FarmView) {
    metrics.health.conditions.reset();
    for condition in view.snapshot.nodes.iter().flat_map(|node| &node.gpus).flat_map(|gpu| &*gpu.conditions) {
        metrics
            .health
            .conditions
            .with_label_values(&[condition.action.as_str(), condition.cause.rule()])
            .inc();
    }
}

/// What the endpoint's requests told, as one number.
fn state(endpoint: &Endpoint) -> i64 {
    let of = |condition: &Condition| {
        if matches!(condition.cause, Cause::Ejected { .. } | Cause::Wedged { .. }) {
            3
        } else if matches!(condition.cause, Cause::HalfOpen { .. }) {
            2
        } else {
            i64::from(matches!(condition.cause, Cause::SlowStart | Cause::SlowerThanPeers { .. }))
        }
    };
    endpoint.conditions.iter().map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aya_admission::{Entry, QueueRules};
    use aya_domain::{ModelId, TenantId, Tokens};
    use aya_observe::Clock;

    use super::*;

    #[test]
    fn scrapes_at_the_same_time_each_see_the_queue_once_and_made_up_models_as_other() {
        let metrics = Metrics::new(10).unwrap();
        let served = ModelId::parse("served").unwrap();
        let _handles = metrics.model(Some(&served));
        let room = Arc::new(WaitingRoom::new(QueueRules::DEFAULT, Clock::start()));
        let entry = Entry {
            class: Priority::Batch,
            tenant: TenantId::default(),
            weight: 1,
            cost: Tokens(1),
            deadline: MonoTime::from_millis(3_600_000),
        };
        let enter = |name: &str| room.enter(&ModelId::parse(name).unwrap(), &entry).unwrap();
        let _tickets = ["served", "made-up-1", "made-up-2"].map(enter);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let page = render(&metrics, &FarmView::empty(), &room, MonoTime::ZERO).unwrap();
                        let of_batch =
                            |line: &&str| line.starts_with("aya_queue_depth{") && line.contains("batch");
                        let depths: Vec<&str> = page.lines().filter(of_batch).collect();
                        let expect = [
                            "aya_queue_depth{model=\"other\",priority=\"batch\"} 2",
                            "aya_queue_depth{model=\"served\",priority=\"batch\"} 1",
                        ];
                        assert_eq!(depths, expect);
                    }
                });
            }
        });
    }
}
