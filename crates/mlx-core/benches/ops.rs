//! Host cost of recording operations: `cargo bench -p mlx-core --bench ops`.

#![allow(missing_docs, reason = "the macros of criterion make public items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mlx_core::{Array, ffi, ops::arithmetic::add};

fn overhead(c: &mut Criterion) {
    let (Ok(a), Ok(b)) = (Array::ones::<f32>(&[4]), Array::ones::<f32>(&[4])) else {
        return;
    };
    c.bench_function("record a + b and drop it", |bencher| {
        bencher.iter(|| black_box(add(black_box(&a), black_box(&b))));
    });
    c.bench_function("clone and drop an array", |bencher| {
        bencher.iter(|| black_box(a.clone()))
    });
    c.bench_function("take and release the lock", |bencher| {
        bencher.iter(|| drop(black_box(ffi::enter())));
    });
}

criterion_group!(benches, overhead);
criterion_main!(benches);
