// SPDX-License-Identifier: GPL-2.0-only
//! How fast scenarios run, in ops a second: with all oracles, with the slow
//! path beside the fast one, and what decoding costs. With the feature
//! `real-gup` also the C, the port that it is compared with, and both compared.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gup_core::history::Base;
use gup_fuzz::exec::Executor;
use gup_fuzz::generators::Generator;
use gup_fuzz::scenario::Scenario;

const SCENARIOS: usize = 2_000;

fn scenarios(base: Base) -> Vec<Scenario> {
    let mut g = Generator::new(1, base);
    (0..SCENARIOS)
        .map(|_| {
            let mut s = Scenario::default();
            g.scenario(&mut s);
            s
        })
        .collect()
}

fn executor(c: &mut Criterion) {
    let all = scenarios(Base::V5_15);
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

/// The same scenarios on the port, on the C, and on both step by step. What
/// the C is known to do wrong ends a scenario early, on the port as well.
#[cfg(feature = "real-gup")]
fn subjects(c: &mut Criterion) {
    use gup_fuzz::real::{against_c, kernel};
    use gup_fuzz::subject::Chosen;

    let all = scenarios(kernel().base());
    let mut exec = Executor::with_subject(kernel(), Chosen::Port);
    all.iter().for_each(|s| drop(exec.run(&s.ops)));
    let mut group = c.benchmark_group("subjects");
    group.throughput(Throughput::Elements(exec.ops_run())).sample_size(20);
    for (name, subject) in [("the port", Chosen::Port), ("the C", Chosen::C)] {
        let mut exec = Executor::with_subject(kernel(), subject);
        group.bench_function(name, |b| {
            b.iter(|| all.iter().filter(|s| exec.run(&s.ops).is_some()).count());
        });
    }
    let mut against = against_c();
    group.bench_function("both compared", |b| {
        b.iter(|| all.iter().filter(|s| against.run(&s.ops).is_some()).count());
    });
    group.finish();
}

#[cfg(not(feature = "real-gup"))]
fn subjects(_: &mut Criterion) {}

criterion_group!(benches, executor, subjects);
criterion_main!(benches);
