//! One decision on a mixed farm of 4, 64 and 1,024 endpoints. Bars: 5 us at 64, 80 us at 1,024.

use aya_benches::inputs;
use aya_placement::{Policy, decide};
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

criterion_group!(benches, decisions);
criterion_main!(benches);
