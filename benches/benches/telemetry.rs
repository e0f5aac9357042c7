//! Telemetry from the bytes of a message to the changed fleet, and the snapshot of a large farm.
//! Bar: 20 us for a report of 8 GPUs and 4 engines.
#![expect(clippy::unwrap_used, reason = "a bench whose input is refused has nothing to measure")]

use aya_benches::inputs;
use aya_domain::{Report, ReportKind};
use aya_fleet::Event;
use aya_proto::convert::agent_message;
use aya_proto::{Limits, report_of_message, wire};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use prost::Message;
use std::hint::black_box;

fn received(bytes: &[u8]) -> Report {
    let message = wire::AgentMessage::decode(bytes).unwrap();
    report_of_message(message, &Limits::DEFAULT).unwrap()
}

fn ingest(c: &mut Criterion) {
    let mut group = c.benchmark_group("ingest");
    for (name, kind) in [("full", ReportKind::Full), ("delta", ReportKind::Delta)] {
        let mut fleet = inputs::fleet(16);
        let mut sequence = 1;
        // The wire's bytes differ in every round, as those of a live agent do.
        group.bench_function(format!("{name}_8_gpus_4_engines"), |b| {
            b.iter_batched(
                || {
                    sequence += 1;
                    agent_message(&Report { kind, ..inputs::whole_report(3, sequence) }).encode_to_vec()
                },
                |bytes| {
                    let report = Box::new(received(black_box(&bytes)));
                    fleet.apply(Event::Report { report, received_at: inputs::NOW }, inputs::NOW)
                },
                BatchSize::SmallInput,
            );
        });
    }
    let bytes = agent_message(&inputs::whole_report(3, 2)).encode_to_vec();
    group.bench_function("decode_and_convert_only", |b| b.iter(|| received(black_box(&bytes))));
    group.finish();
}

fn snapshot(c: &mut Criterion) {
    let mut fleet = inputs::fleet(500);
    c.bench_function("snapshot/2000_endpoints_4000_gpus", |b| b.iter(|| fleet.snapshot(inputs::NOW)));
}

criterion_group!(benches, ingest, snapshot);
criterion_main!(benches);
