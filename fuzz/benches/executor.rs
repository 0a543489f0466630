// SPDX-License-Identifier: GPL-2.0-only
//! How fast scenarios run, in ops a second: with all oracles, with the slow
//! path beside the fast one, and what decoding costs.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gup_core::history::Base;
use gup_fuzz::exec::Executor;
use gup_fuzz::generators::Generator;
use gup_fuzz::scenario::Scenario;

const SCENARIOS: usize = 2_000;

fn scenarios() -> Vec<Scenario> {
    let mut g = Generator::new(1, Base::V5_15);
    (0..SCENARIOS)
        .map(|_| {
            let mut s = Scenario::default();
            g.scenario(&mut s);
            s
        })
        .collect()
}

fn executor(c: &mut Criterion) {
    let all = scenarios();
    let kernel = "v5.15 fixed".parse().expect("a kernel");
    let mut exec = Executor::new(kernel);
    all.iter().for_each(|s| assert_eq!(exec.run(&s.ops), None));
    let ops = exec.ops_run();

    let mut group = c.benchmark_group("executor");
    group.throughput(Throughput::Elements(ops)).sample_size(20);
    group.bench_function("all oracles", |b| {
        b.iter(|| all.iter().filter(|s| exec.run(&s.ops).is_some()).count());
    });
    group.bench_function("fast against slow", |b| {
        b.iter(|| all.iter().filter(|s| exec.fast_vs_slow(&s.ops).is_some()).count());
    });
    let bytes: Vec<Vec<u8>> = all.iter().map(Scenario::encode).collect();
    group.bench_function("decoding alone", |b| {
        b.iter_batched_ref(
            Scenario::default,
            |s| {
                bytes
                    .iter()
                    .map(|b| {
                        s.decode_from(b);
                        s.ops.len()
                    })
                    .sum::<usize>()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, executor);
criterion_main!(benches);
