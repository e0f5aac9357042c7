//! What it takes to know who holds a prompt's beginning: hashing its blocks, and looking them up in the index of every
//! endpoint. Bar: 300 us in all for a prompt of 100,000 tokens.

use std::hint::black_box;

use aya_benches::inputs;
use aya_estimate::PrefixIndex;
use aya_proxy::{PrefixKey, ScanLimits, prompt_prefix, scan};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const BYTES: usize = 400_000;
/// Blocks of 256 bytes that a KV pool of 440,000 tokens holds.
const BLOCKS: usize = 6_875;

fn hashing(c: &mut Criterion) {
    let mut group = c.benchmark_group("prefix");
    let body = inputs::chat_body(BYTES);
    let Ok(view) = scan(&body, ScanLimits::DEFAULT) else { return };
    let key = PrefixKey::new(1);
    let prefix = || prompt_prefix(black_box(&body), &view, inputs::MODEL, key);
    group.bench_function(BenchmarkId::new("hash", "400 KB"), |b| b.iter(prefix));
    let blocks = prefix().blocks;
    for endpoints in [64, 1_024] {
        // A quarter holds all of it, a quarter its beginning, the others other prompts.
        let indexes: Vec<PrefixIndex> = (0..endpoints).map(|_| PrefixIndex::new(BLOCKS)).collect();
        for (at, index) in indexes.iter().enumerate() {
            let other: Vec<u64> = blocks.iter().map(|block| block ^ at as u64 ^ 0x5555).collect();
            index.insert(&other);
            match at % 4 {
                0 => index.insert(&blocks),
                1 => index.insert(blocks.get(..40).unwrap_or_default()),
                _ => {}
            }
        }
        group.bench_function(BenchmarkId::new("look up", endpoints), |b| {
            b.iter(|| indexes.iter().map(|index| index.matched(black_box(&blocks)).blocks).sum::<usize>());
        });
        group.bench_function(BenchmarkId::new("hash and look up", endpoints), |b| {
            b.iter(|| {
                let prefix = prefix();
                indexes.iter().map(|index| index.matched(&prefix.blocks).blocks).sum::<usize>()
            });
        });
    }
    let index = PrefixIndex::new(BLOCKS);
    group.bench_function("note", |b| b.iter(|| index.insert(black_box(&blocks))));
    group.finish();
}

criterion_group!(benches, hashing);
criterion_main!(benches);
