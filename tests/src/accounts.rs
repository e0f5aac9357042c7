//! The one checker of every test's end: each accepted request has one outcome and one record, nothing is left
//! in flight, no engine was asked twice without a recorded retry, nobody panicked, nothing private leaked.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::CANARY;
use crate::farm::{Farm, Scheduler};
use crate::wait::until;

/// Records that one page of decisions can hold; tests stay below it.
const PAGE: usize = 1_000;

impl Farm {
    /// Invariants I1 to I4, I6 and I8, once everything has come to rest.
    ///
    /// # Panics
    /// If one of them does not hold.
    pub async fn assert_accounted(&self) {
        self.scheduler.assert_accounted().await;
        let records = self.scheduler.decisions().await;
        let mut submitted: BTreeMap<String, usize> = BTreeMap::new();
        for engine in self.engines.iter().filter(|engine| !engine.dead) {
            let state = until("an engine to come to rest", async || {
                let state = engine.state().await;
                let rest = ["in_flight", "running", "waiting"].iter().all(|f| number(&state, f) == Some(0));
                if rest { Ok(state) } else { Err(state.to_string()) }
            })
            .await;
            for request in state.get("requests").and_then(Value::as_array).into_iter().flatten() {
                *submitted.entry(string(request, "id").to_owned()).or_default() += 1;
            }
        }
        let mut attempts: BTreeMap<&str, usize> = BTreeMap::new();
        for record in &records {
            let made = record.get("attempts").and_then(Value::as_array).map_or(0, Vec::len);
            *attempts.entry(string(record, "request_id")).or_default() += made;
        }
        for (id, times) in submitted {
            // What was sent to an engine directly, or by another scheduler, is not in these records.
            if let Some(recorded) = attempts.get(id.as_str()) {
                assert!(times <= *recorded, "{id} was generated {times} times with {recorded} attempts");
            }
        }
        let logs = self.agents.iter().map(|agent| &agent.process);
        for process in logs.chain(self.engines.iter().map(|engine| &engine.process)) {
            clean(&process.log());
        }
    }
}

impl Scheduler {
    /// The sum of outcomes, the records, the ledger, the queue and the privacy of one scheduler.
    ///
    /// # Panics
    /// If one of them is wrong.
    pub async fn assert_accounted(&self) {
        let metrics = until("every request to end", async || {
            let metrics = self.metrics().await;
            let open = metrics.sum("aya_requests_in_flight")
                + metrics.sum("aya_endpoint_inflight")
                + metrics.sum("aya_queue_depth")
                + metrics.sum("aya_client_connections");
            let (accepted, recorded) =
                (metrics.sum("aya_requests_accepted_total"), metrics.sum("aya_decision_records_total"));
            let rest = open.abs() < 0.5 && (accepted - recorded).abs() < 0.5;
            if rest { Ok(metrics) } else { Err((open, accepted, recorded)) }
        })
        .await;
        let (accepted, ended) =
            (metrics.sum("aya_requests_accepted_total"), metrics.sum("aya_requests_total"));
        assert!((accepted - ended).abs() < 0.5, "{accepted} accepted, {ended} ended");
        assert!(metrics.sum("aya_decision_records_dropped_total") < 0.5, "records were dropped");
        let records = self.decisions().await;
        assert!(records.len() < PAGE, "too many requests for one page of records");
        #[expect(clippy::cast_precision_loss, reason = "below a thousand")]
        let kept = records.len() as f64;
        assert!((accepted - kept).abs() < 0.5, "{accepted} accepted, {kept} records");
        self.assert_each_recorded_once(&records, &metrics);
        clean(&self.process.log());
        assert!(!serde_json::to_string(&records).unwrap().contains(CANARY), "a record holds a prompt");
        assert!(metrics.of("aya_requests_total").all(|(labels, _)| !labels.contains(CANARY)));
    }

    fn assert_each_recorded_once(&self, records: &[Value], metrics: &crate::Metrics) {
        let mut by_outcome: BTreeMap<&str, f64> = BTreeMap::new();
        let mut ids: Vec<&str> = records.iter().map(|record| string(record, "decision_id")).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), records.len(), "one decision id was given twice");
        for record in records {
            let outcome = record.get("outcome").expect("an outcome in every record");
            *by_outcome.entry(string(outcome, "status")).or_default() += 1.0;
        }
        for status in
            ["completed", "client_error", "upstream_error", "truncated", "client_cancelled", "refused"]
        {
            let counted = metrics.with("aya_requests_total", &format!("outcome=\"{status}\""));
            let recorded = by_outcome.get(status).copied().unwrap_or(0.0);
            assert!((counted - recorded).abs() < 0.5, "{counted} counted as {status}, {recorded} recorded");
        }
    }
}

fn number(value: &Value, field: &str) -> Option<u64> {
    value.get(field).and_then(Value::as_u64)
}

fn string<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_else(|| panic!("no {field} in {value}"))
}

fn clean(log: &str) {
    assert!(!log.contains("panicked"), "a process panicked:\n{log}");
    assert!(!log.contains(CANARY), "a log holds a prompt:\n{log}");
}
