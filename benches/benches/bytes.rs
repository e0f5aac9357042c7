//! What the relay does to bytes: the scan of a request body, the splice, the scan of an answer's event stream.
#![expect(clippy::unwrap_used, reason = "a bench whose input is refused has nothing to measure")]

use aya_benches::inputs;
use aya_proxy::{Edits, ScanLimits, SseScanner, scan, splice};
use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

fn scans(c: &mut Criterion) {
    let mut group = c.benchmark_group("scan");
    for kilobytes in [1, 32, 400] {
        let body = inputs::chat_body(kilobytes * 1024);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("chat_kb", kilobytes), |b| {
            b.iter(|| scan(black_box(&body), ScanLimits::DEFAULT).unwrap());
        });
    }
    group.finish();
}

fn splices(c: &mut Criterion) {
    let body = Bytes::from(inputs::chat_body(32 * 1024));
    let view = scan(&body, ScanLimits::DEFAULT).unwrap();
    let edits = Edits { stream: Some(true), include_usage: true, model: Some("renamed") };
    c.bench_function("splice/three_edits_32_kb", |b| b.iter(|| splice(black_box(&body), &view, edits)));
    c.bench_function("splice/nothing_to_change", |b| {
        b.iter(|| splice(black_box(&body), &view, Edits::default()));
    });
}

fn events(c: &mut Criterion) {
    let mut group = c.benchmark_group("sse");
    for (name, at_once) in [("one_event_per_read", 1_usize), ("eight_events_per_read", 8)] {
        let chunk = inputs::TOKEN_EVENT.repeat(at_once);
        group.throughput(Throughput::Elements(at_once as u64));
        let mut scanner = SseScanner::default();
        group.bench_function(name, |b| b.iter(|| scanner.feed(black_box(&chunk)).unwrap().content_events));
    }
    group.finish();
}

criterion_group!(benches, scans, splices, events);
criterion_main!(benches);
