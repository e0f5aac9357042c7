//! The journal: every request's decision record, in a bounded ring for questions and, if configured, on disk.
//!
//! Requests hand their record over without waiting. At the limit of the queue the record is dropped and counted:
//! explaining must never slow down serving. One thread owns the ring and the files, because file writes block.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use aya_config::DecisionsConfig;
use aya_trace::{DecisionLog, Record, RecordJson};
use parking_lot::RwLock;
use tokio::sync::mpsc;
use tracing::{debug, error, warn};

use crate::metrics::Metrics;
use crate::pipeline::inputs::Captured;

/// Records taken from the queue at once.
const BATCH_MAX: usize = 256;
/// After a batch the thread lets records gather for this long: woken for each of them, it would cost a request more
/// than its decision does. A record can be asked for that much later at the most.
const GATHER: Duration = Duration::from_millis(5);

/// How far the journal's thread stands back behind those that serve requests. It still gets a tenth of a busy core, twice
/// of what it needs.
const NICENESS: i32 = 10;

/// The requests' end of the journal.
#[derive(Debug, Clone)]
pub(crate) struct JournalSender {
    entries: mpsc::Sender<Entry>,
    takes_inputs: bool,
}

/// What is written down.
#[derive(Debug)]
enum Entry {
    /// A decision was made; something comes of it.
    Decided(Box<Captured>),
    /// A request has ended.
    Ended(Box<Record>),
}

impl JournalSender {
    pub(crate) fn keep(&self, metrics: &Metrics, record: Record) {
        if self.entries.try_send(Entry::Ended(Box::new(record))).is_err() {
            metrics.records_dropped.inc();
        }
    }

    /// Whether inputs are written anywhere; else capturing them would be for nothing.
    pub(crate) const fn takes_inputs(&self) -> bool {
        self.takes_inputs
    }

    /// A decision that is lost here cannot be replayed; those around it can.
    pub(crate) fn decided(&self, metrics: &Metrics, captured: Captured) {
        if self.entries.try_send(Entry::Decided(Box::new(captured))).is_err() {
            metrics.inputs_dropped.inc();
        }
    }
}

/// The last records, newest last. Locked by the journal's thread and by operators' questions, never by a request.
#[derive(Debug)]
pub(crate) struct Ring {
    capacity: usize,
    bytes_max: usize,
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<Arc<Record>>,
    /// By [`Record::size`].
    bytes: usize,
}

impl Kept {
    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.records.pop_front() {
            self.bytes = self.bytes.saturating_sub(oldest.size());
        }
    }
}

/// Which records to show.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) limit: usize,
    pub(crate) model: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) outcome: Option<String>,
}

impl Ring {
    /// At most so many records of so many bytes together, but always the newest one.
    pub(crate) fn new(capacity: usize, bytes_max: usize) -> Self {
        Self { capacity: capacity.max(1), bytes_max, kept: RwLock::default() }
    }

    fn push(&self, batch: &mut Vec<Arc<Record>>) {
        let mut kept = self.kept.write();
        for record in batch.drain(..) {
            kept.bytes += record.size();
            kept.records.push_back(record);
            while kept.records.len() > self.capacity
                || (kept.bytes > self.bytes_max && kept.records.len() > 1)
            {
                kept.drop_oldest();
            }
        }
    }

    /// The newest records that match, newest first.
    pub(crate) fn find(&self, query: &Query) -> Vec<Arc<Record>> {
        let fits = |record: &Record| {
            let model = record.request.as_ref().map(|r| r.model.as_str());
            let endpoint = record.attempts.last().map(|a| a.endpoint.as_str());
            query.model.as_deref().is_none_or(|wanted| model == Some(wanted))
                && query.endpoint.as_deref().is_none_or(|wanted| endpoint == Some(wanted))
                && query.outcome.as_deref().is_none_or(|wanted| record.outcome.status.as_str() == wanted)
        };
        self.kept
            .read()
            .records
            .iter()
            .rev()
            .filter(|record| fits(record))
            .take(query.limit)
            .cloned()
            .collect()
    }

    /// The newest record of a decision or request id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Record>> {
        let is_it =
            |record: &&Arc<Record>| record.decision_id.as_str() == id || record.request_id.as_str() == id;
        self.kept.read().records.iter().rev().find(is_it).cloned()
    }
}

/// A journal before its thread runs: the sender is needed to build what the thread needs.
#[derive(Debug)]
pub(crate) struct Journal {
    pub(crate) ring: Arc<Ring>,
    entries: mpsc::Receiver<Entry>,
    log: Option<DecisionLog>,
}

impl Journal {
    pub(crate) fn new(config: &DecisionsConfig, log: Option<DecisionLog>) -> (Self, JournalSender) {
        let (sender, entries) = mpsc::channel(config.queue.max(1));
        let sender = JournalSender { entries: sender, takes_inputs: log.is_some() };
        (Self { ring: Arc::new(Ring::new(config.ring, config.ring_max)), entries, log }, sender)
    }

    /// Starts the thread; it ends when the last sender is gone, which is when the last request has ended.
    pub(crate) fn start(self, metrics: Arc<Metrics>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("aya-journal".to_owned()).spawn(move || self.run(&metrics))
    }

    fn run(mut self, metrics: &Metrics) {
        // Where it shares a core with requests they come first; at its limit records are dropped, not requests.
        if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
            debug!(%error, "the journal runs as urgently as requests do");
        }
        let mut taken = Vec::with_capacity(BATCH_MAX);
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut healthy = true;
        metrics.log_healthy.set(1);
        while self.entries.blocking_recv_many(&mut taken, BATCH_MAX) > 0 {
            for entry in taken.drain(..) {
                let written = self.log.as_mut().map(|log| match &entry {
                    Entry::Decided(captured) => log.decided(&captured.as_decided()),
                    Entry::Ended(record) => log.record(&RecordJson::beside_inputs(record)),
                });
                if let Some(written) = written {
                    healthy = note(metrics, written, healthy);
                    metrics.log_healthy.set(i64::from(healthy));
                }
                if let Entry::Ended(record) = entry {
                    metrics.rejected(&record);
                    batch.push(Arc::from(record));
                }
            }
            let kept = batch.len() as u64;
            self.ring.push(&mut batch);
            metrics.records.inc_by(kept);
            if self.entries.len() < BATCH_MAX {
                // Nobody unparks this thread; waking early would only make a smaller batch.
                std::thread::park_timeout(GATHER);
            }
        }
        if let Some(Err(error)) = self.log.as_mut().map(DecisionLog::flush) {
            warn!(%error, "the last decision records may be missing on disk");
        }
    }
}

/// Counts a failed write; logs only when writing begins to fail or works again.
fn note<E: std::fmt::Display>(metrics: &Metrics, written: Result<(), E>, was_healthy: bool) -> bool {
    match written {
        Ok(()) if was_healthy => true,
        Ok(()) => {
            warn!("decision records are written to disk again");
            true
        }
        Err(failure) => {
            metrics.record_write_errors.inc();
            if was_healthy {
                error!(error = %failure, "decision records cannot be written to disk; requests go on");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests;
