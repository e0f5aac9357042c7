//! `/metrics`: the counters, and gauges set from the farm's state at this moment.

use aya_domain::MonoTime;

use crate::metrics::Metrics;
use crate::room::WaitingRoom;
use crate::view::FarmView;

/// The exposition text.
pub(super) fn render(
    metrics: &Metrics,
    view: &FarmView,
    room: &WaitingRoom,
    now: MonoTime,
) -> Result<String, prometheus::Error> {
    mirror_endpoints(metrics, view);
    metrics.sample_age.reset();
    for node in &view.snapshot.nodes {
        let age = now.since(node.last_report_at).as_secs_f64();
        metrics.sample_age.with_label_values(&[node.id.as_str()]).set(age);
    }
    metrics.queue_depth.reset();
    for (model, depth) in room.depths() {
        let label = metrics.label(model.as_str());
        metrics.queue_depth.with_label_values(&[&*label]).add(i64::try_from(depth).unwrap_or(i64::MAX));
    }
    metrics.render()
}

fn mirror_endpoints(metrics: &Metrics, view: &FarmView) {
    metrics.endpoints.set(i64::try_from(view.snapshot.endpoints.len()).unwrap_or(i64::MAX));
    metrics.endpoint_in_flight.reset();
    metrics.endpoint_ready.reset();
    for (endpoint, companion) in view.snapshot.endpoints.iter().zip(&view.companions) {
        let id = endpoint.info.id.as_str();
        metrics.endpoint_in_flight.with_label_values(&[id]).set(i64::from(companion.cell.in_flight()));
        metrics.endpoint_ready.with_label_values(&[id]).set(i64::from(super::is_ready(endpoint)));
    }
}
