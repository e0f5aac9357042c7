//! The one checker of every test's end, invariants I1 to I8: each accepted request has one outcome and one record (I1),
//! none was generated twice (I2), nothing is left in flight (I3), queued, connected or open (I4), memory stayed within
//! reason (I5), nobody panicked or failed for no request in particular (I6), nothing went where it did not fit (I7),
//! and nothing private was kept anywhere (I8).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::CANARY;
use crate::farm::{Farm, Scheduler};
use crate::wait::until;

/// The most memory a scheduler of these tests, built without optimisation, ever needs.
const MEMORY_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Open files of a scheduler besides those of its threads: its output, its configuration, signals, the journal.
const FILES_MAX: usize = 12;
/// Of each thread: its queue of events, and what wakes it.
const FILES_PER_THREAD_MAX: usize = 3;
/// Errors that are no request's: the disk is full, and requests go on.
const ERRORS_OF_NO_REQUEST: [&str; 1] = ["decision records cannot be written"];

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
        // Per id: how often engines were asked, and how often they generated to the end.
        let mut generated: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for engine in self.engines.iter().filter(|engine| !engine.dead) {
            let state = until("an engine to come to rest", async || {
                let state = engine.state().await;
                let rest = ["in_flight", "running", "waiting"].iter().all(|f| number(&state, f) == Some(0));
                if rest { Ok(state) } else { Err(state.to_string()) }
            })
            .await;
            for request in state.get("requests").and_then(Value::as_array).into_iter().flatten() {
                let (asked, finished) = generated.entry(string(request, "id").to_owned()).or_default();
                *asked += 1;
                *finished += usize::from(string(request, "state") == "finished");
            }
        }
        // Per id: its records (a client may use an id again), and the attempts in them.
        let mut recorded: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for record in &records {
            let (times, attempts) = recorded.entry(string(record, "request_id")).or_default();
            *times += 1;
            *attempts += record.get("attempts").and_then(Value::as_array).map_or(0, Vec::len);
        }
        for (id, (asked, finished)) in generated {
            // What was sent to an engine directly, or by another scheduler, is not in these records.
            if let Some((times, attempts)) = recorded.get(id.as_str()) {
                assert!(
                    asked <= *attempts,
                    "engines were asked {asked} times for {id} in {attempts} attempts"
                );
                assert!(finished <= *times, "{id} was generated {finished} times for {times} requests");
            }
        }
        let logs = self.agents.iter().map(|agent| &agent.process);
        for process in logs.chain(self.engines.iter().map(|engine| &engine.process)) {
            clean(&process.log());
        }
        nothing_private_below(self.dir.path());
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
        self.assert_nothing_is_left().await;
        clean(&self.process.log());
        for line in self.process.log().lines().filter(|line| line.contains(" ERROR ")) {
            let is_known = ERRORS_OF_NO_REQUEST.iter().any(|known| line.contains(known));
            assert!(is_known || line.contains("request="), "an error of nobody: {line}");
        }
        assert!(!serde_json::to_string(&records).unwrap().contains(CANARY), "a record holds a prompt");
        let page = self.admin_client().get("/metrics").await.ok();
        assert!(!page.text().contains(CANARY), "a metric holds a prompt or a key");
    }

    /// Connections and files of before, and no more memory than ever needed.
    async fn assert_nothing_is_left(&self) {
        let files_max =
            FILES_MAX + FILES_PER_THREAD_MAX * usize::try_from(self.process.threads()).unwrap_or(0);
        until("connections and files to be closed", async || {
            let clients = self.process.connections_at(self.api.port());
            let files = self.process.descriptors().unwrap_or_default().others;
            let rest = clients == 0 && files <= files_max;
            if rest { Ok(()) } else { Err((clients, files, files_max)) }
        })
        .await;
        let peak = self.process.peak_memory_bytes();
        assert!(peak < MEMORY_MAX_BYTES, "{} MiB of memory", peak / 1024 / 1024);
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
            assert_fits(record);
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
    assert!(!log.contains(CANARY), "a log holds a prompt or a key:\n{log}");
}

/// What was chosen had been found to fit.
fn assert_fits(record: &Value) {
    let Some(chosen) = record.get("chosen").filter(|chosen| chosen.is_string()) else { return };
    let all = record.get("candidates").and_then(Value::as_array).expect("candidates");
    let candidate = all.iter().find(|candidate| candidate.get("endpoint") == Some(chosen));
    let verdict = candidate.map(|candidate| string(candidate, "verdict"));
    assert_eq!(verdict, Some("scored"), "{chosen} was chosen against its verdict: {record}");
}

/// Logs, journals and whatever else was written; what the test itself put there, configurations and libraries, is left out.
fn nothing_private_below(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            nothing_private_below(&path);
        } else if !path
            .extension()
            .is_some_and(|extension| ["toml", "key", "1"].iter().any(|known| extension == *known))
        {
            // A journal may be renamed meanwhile.
            let text = std::fs::read(&path).unwrap_or_default();
            assert!(
                !String::from_utf8_lossy(&text).contains(CANARY),
                "{} holds a prompt or a key",
                path.display()
            );
        }
    }
}
