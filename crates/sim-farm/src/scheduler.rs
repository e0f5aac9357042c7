//! One scheduler of the farm: its own view of the fleet, its own ledger, what it has learned, and who waits.
//!
//! The parts are those of the live scheduler; only the atomics are plain numbers here.

use std::collections::VecDeque;
use std::time::Duration;

use aya_domain::{Decision, MonoTime, OwnLoad, Report, Request, Snapshot, Tokens, splitmix64};
use aya_estimate::OutputPrior;
use aya_fleet::{Event, Fleet, OwnInFlight, Params};
use aya_placement::{Policy, decide};

use crate::ledger::Cell;
use crate::workload::Arrival;

/// A changed view is published at most this often, as live.
const PUBLISH_EVERY: Duration = Duration::from_millis(20);

/// One scheduler.
#[derive(Debug)]
pub(crate) struct Scheduler {
    fleet: Fleet,
    snapshot: Snapshot,
    changed: bool,
    published_at: MonoTime,
    pub(crate) cells: Vec<Cell>,
    pub(crate) output: OutputPrior,
    sequence: u64,
    /// Requests for which no endpoint had room, first come first served.
    pub(crate) held: VecDeque<usize>,
    loads: Vec<OwnLoad>,
    /// Filled anew for every decision.
    request: Request,
}

impl Scheduler {
    pub(crate) fn new(endpoints: usize, request: Request) -> Self {
        Self {
            fleet: Fleet::new(Params::DEFAULT),
            snapshot: Snapshot::empty(),
            changed: false,
            published_at: MonoTime::ZERO,
            cells: std::iter::repeat_with(Cell::default).take(endpoints).collect(),
            output: OutputPrior::default(),
            sequence: 0,
            held: VecDeque::new(),
            loads: Vec::with_capacity(endpoints),
            request,
        }
    }

    /// Takes a report of the agent of the endpoint at this position.
    pub(crate) fn hear(&mut self, report: Report, now: MonoTime) {
        let event = Event::Report { report: Box::new(report), received_at: now };
        self.changed |= self.fleet.apply(event, now).changed;
    }

    /// Notes the ledger for the fleet's history, from which foreign load is told.
    pub(crate) fn note(&mut self, now: MonoTime) {
        let directory = self.snapshot.directory.iter();
        let loads = directory.zip(&self.cells).map(|(id, cell)| {
            let own = cell.read(now);
            let noted = OwnInFlight {
                in_flight: own.in_flight,
                decoding: own.decoding,
                kv_tokens: own.decode_kv_tokens,
            };
            (id.clone(), noted)
        });
        let loads = loads.collect();
        self.changed |= self.fleet.apply(Event::OwnLoad { at: now, loads }, now).changed;
    }

    /// Time passes for the fleet: nodes grow stale.
    pub(crate) fn tick(&mut self, now: MonoTime) {
        self.changed |= self.fleet.apply(Event::Tick, now).changed;
    }

    fn publish(&mut self, now: MonoTime) {
        let first = self.snapshot.generation == 0;
        if self.changed && (first || now.since(self.published_at) >= PUBLISH_EVERY) {
            self.snapshot = self.fleet.snapshot(now);
            self.published_at = now;
            self.changed = false;
        }
    }

    /// Decides where a request goes; the same call that the live scheduler makes.
    pub(crate) fn decide(
        &mut self,
        arrival: &Arrival,
        policy: &Policy,
        now: MonoTime,
        seed: u64,
    ) -> Decision {
        self.publish(now);
        self.loads.clear();
        self.loads.extend(self.cells.iter().map(|cell| cell.read(now)));
        let prompt = Tokens(u64::from(arrival.prompt_tokens));
        self.request.sequence = self.sequence;
        self.request.prompt_tokens = prompt;
        self.request.prompt_tokens_min = prompt;
        self.request.expected_output = self.output.expected();
        self.request.expected_residual = self.output.residual();
        self.request.arrived_at = now;
        let seed = splitmix64(seed ^ self.sequence);
        self.sequence += 1;
        decide(&self.snapshot, &self.loads, &self.request, policy, now, seed)
    }
}
