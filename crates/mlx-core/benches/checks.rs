//! What looking at indices and divisors costs: each op with its check and without, built and
//! computed, and only built. `cargo bench -p mlx-core --bench checks`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use mlx_core::ops::quantized::{GatherIndices, QuantizationLayout, gather_qmm, quantize};
use mlx_core::ops::{arithmetic, fast, indexing, random, unchecked};
use mlx_core::{Array, Device, Dtype, Result};

fn normal(shape: &[i32]) -> Array {
    let array = random::normal::<f32>(0.0, 1.0, shape, None).unwrap();
    array.eval().unwrap();
    array
}

/// `count` computed indices below `limit`.
fn indices(count: i32, limit: i32) -> Array {
    let values: Vec<i32> = (0..count).map(|i| (i * 7919) % limit).collect();
    Array::from_slice(&values, &[count]).unwrap()
}

fn experts(rhs: &Array) -> GatherIndices<'_> {
    GatherIndices {
        rhs: Some(rhs),
        ..GatherIndices::default()
    }
}

/// The same indices, not computed yet.
fn lazy(indices: &Array) -> Array {
    (indices + 0).unwrap()
}

/// An op as a function of its indices.
type Form<'a> = dyn Fn(&Array) -> Result<Array> + 'a;

/// Times both forms on indices that are computed and on indices that are not.
fn pair(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    indices: &Array,
    checked: impl Fn(&Array) -> Result<Array>,
    unchecked: impl Fn(&Array) -> Result<Array>,
) {
    let forms: [(&str, &Form<'_>); 2] = [("checked", &checked), ("unchecked", &unchecked)];
    for (form, f) in forms {
        group.bench_function(format!("{name}, computed, {form}"), |bench| {
            bench.iter(|| f(indices).unwrap().eval().unwrap());
        });
        group.bench_function(format!("{name}, lazy, {form}"), |bench| {
            bench.iter(|| f(&lazy(indices)).unwrap().eval().unwrap());
        });
        group.bench_function(format!("{name}, computed, only built, {form}"), |bench| {
            bench.iter(|| black_box(f(indices).unwrap()));
        });
        let waiting = lazy(indices);
        group.bench_function(format!("{name}, lazy, only built, {form}"), |bench| {
            bench.iter(|| black_box(f(&waiting).unwrap()));
        });
    }
}

#[expect(
    clippy::undocumented_unsafe_blocks,
    reason = "one reason for all: indices lie below the length of their axis, the divisor is 8"
)]
fn checks(criterion: &mut Criterion) {
    Device::cpu().set_default().unwrap();
    let mut group = criterion.benchmark_group("checks");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));

    let table = normal(&[32_000, 512]);
    for count in [1, 512] {
        pair(
            &mut group,
            &format!("take {count} of 32000 rows of 512"),
            &indices(count, 32_000),
            |i| indexing::take(&table, i, 0),
            |i| unsafe { unchecked::take_unchecked(&table, i, 0) },
        );
    }
    let long = normal(&[1 << 20]);
    pair(
        &mut group,
        "take 2^20 single numbers",
        &indices(1 << 20, 1 << 20),
        |i| indexing::take(&long, i, 0),
        |i| unsafe { unchecked::take_unchecked(&long, i, 0) },
    );
    let rows = normal(&[1, 32_000]);
    let along = indices(32_000, 32_000).reshape(&[1, 32_000]).unwrap();
    along.eval().unwrap();
    pair(
        &mut group,
        "take_along_axis 32000",
        &along,
        |i| indexing::take_along_axis(&rows, i, 1),
        |i| unsafe { unchecked::take_along_axis_unchecked(&rows, i, 1) },
    );
    let keys = normal(&[1, 8, 1024, 64]);
    pair(
        &mut group,
        "slice_dynamic 256 of 1024 keys",
        &indices(1, 512),
        |i| indexing::slice_dynamic(&keys, i, &[2], &[1, 8, 256, 64]),
        |i| unsafe { unchecked::slice_dynamic_unchecked(&keys, i, &[2], &[1, 8, 256, 64]) },
    );
    let logits = normal(&[256, 32_000]);
    pair(
        &mut group,
        "cross_entropy 256 of 32000 classes",
        &indices(256, 32_000),
        |i| fast::cross_entropy(&logits, i),
        |i| unsafe { unchecked::cross_entropy_unchecked(&logits, i) },
    );

    let layout = QuantizationLayout::affine(64, 4);
    let packed = quantize(&normal(&[8, 256, 512]), layout).unwrap();
    let biases = packed.biases.unwrap();
    mlx_core::eval(&[&packed.weight, &packed.scales, &biases]).unwrap();
    let x = normal(&[1, 1, 512]);
    pair(
        &mut group,
        "gather_qmm 2 of 8 experts",
        &indices(2, 8),
        |i| {
            let (w, scales) = (&packed.weight, &packed.scales);
            gather_qmm(&x, w, scales, Some(&biases), experts(i), true, layout)
        },
        |i| unsafe {
            let (w, scales) = (&packed.weight, &packed.scales);
            unchecked::gather_qmm_unchecked(&x, w, scales, Some(&biases), experts(i), true, layout)
        },
    );
    let divisor = Array::scalar_dtype(8.0, Dtype::Int32).unwrap();
    pair(
        &mut group,
        "floor_divide 4096 by a scalar",
        &indices(4096, 4096),
        |i| arithmetic::floor_divide(i, &divisor),
        |i| unsafe { unchecked::floor_divide_unchecked(i, &divisor) },
    );
    group.finish();
}

criterion_group!(benches, checks);
criterion_main!(benches);
