//! One decision on a mixed farm of 4, 64 and 1,024 endpoints. Bars: 5 us at 64, 80 us at 1,024; with all that can be known
//! (27 streams per endpoint, cached prefixes) 8 us at 64, 120 us at 1,024, 1.5 ms at 10,000.

use aya_benches::inputs;
use aya_estimate::LengthDistribution;
use aya_placement::{Consulted, Knowledge, Policy, Seen, decide, decide_noting};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;

fn decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let request = inputs::request();
    for name in Policy::names() {
        let Ok(policy) = Policy::named(name) else { continue };
        for endpoints in [4, 64, 1_024] {
            if name != "aya" && endpoints != 64 {
                continue;
            }
            let (snapshot, loads) = inputs::farm(endpoints);
            let mut seed = 0;
            group.bench_function(BenchmarkId::new(name, endpoints), |b| {
                b.iter(|| {
                    seed += 1;
                    decide(&snapshot, black_box(&loads), &request, &policy, inputs::NOW, seed)
                });
            });
        }
    }
    group.finish();
}

fn informed_decisions(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide, all known");
    let (request, Ok(policy)) = (inputs::request(), Policy::named("aya")) else { return };
    let mut lengths = LengthDistribution::default();
    for answer in 0..4_000 {
        lengths.observe(answer * answer % 997);
    }
    for (farm, mixed) in [("mixed", true), ("alike", false)] {
        for endpoints in [64, 1_024, 10_000] {
            let (mut snapshot, mut loads) = inputs::farm(endpoints);
            if !mixed {
                inputs::level(&mut snapshot, &mut loads);
            }
            let residents = inputs::Residents::new(&mut loads, 27, mixed);
            let knowledge =
                Knowledge { endpoints: Some(&residents), lengths: Some(&lengths), ..Knowledge::default() };
            let seen = Seen { snapshot: &snapshot, loads: &loads, knowledge };
            let (mut seed, mut consulted) = (0, Consulted::default());
            group.bench_function(BenchmarkId::new(farm, endpoints), |b| {
                b.iter(|| {
                    seed += 1;
                    decide_noting(black_box(seen), &request, &policy, inputs::NOW, seed, &mut consulted)
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decisions, informed_decisions);
criterion_main!(benches);
