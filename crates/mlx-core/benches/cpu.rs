//! Matrix products on the CPU: run once as it is and once with `MLX_CPU_KERNELS=off`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use mlx_core::ops::quantized::{QuantizationLayout, quantize, quantized_matmul};
use mlx_core::ops::random;
use mlx_core::{Array, Device, Dtype, Result};

fn normal(shape: &[i32], dtype: Dtype) -> Result<Array> {
    let array = random::normal::<f32>(0.0, 1.0, shape, None)?.astype(dtype)?;
    array.eval()?;
    Ok(array)
}

/// Times `product`, whose work is `flop` operations; criterion prints them as elements a second.
fn time(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    flop: u64,
    product: impl Fn() -> Result<Array>,
) {
    group.throughput(Throughput::Elements(flop));
    group.bench_function(BenchmarkId::from_parameter(name), |bench| {
        bench.iter(|| product().unwrap().eval().unwrap());
    });
}

fn products(criterion: &mut Criterion) {
    Device::cpu().set_default().unwrap();
    let mut group = criterion.benchmark_group("cpu");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100));
    group.measurement_time(Duration::from_millis(500));

    let cube = 2 * 1024u64.pow(3);
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let a = normal(&[1024, 1024], dtype).unwrap();
        let b = normal(&[1024, 1024], dtype).unwrap();
        time(&mut group, &format!("{dtype:?} 1024³"), cube, || {
            a.matmul(&b)
        });
        time(
            &mut group,
            &format!("{dtype:?} 1024³, transposed"),
            cube,
            || a.matmul(&b.transpose()?),
        );
    }
    let side = 4096;
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let w = normal(&[side, side], dtype).unwrap();
        let row = normal(&[1, side], dtype).unwrap();
        let work = 2 * u64::from(side.unsigned_abs()).pow(2);
        time(
            &mut group,
            &format!("{dtype:?} 4096², 1 row"),
            work,
            || row.matmul(&w.transpose()?),
        );

        let layout = QuantizationLayout::affine(64, 4);
        let q = quantize(&w, layout).unwrap();
        let biases = q.biases.unwrap();
        mlx_core::eval(&[&q.weight, &q.scales, &biases]).unwrap();
        for rows in [1, 128] {
            let x = normal(&[rows, side], dtype).unwrap();
            let work = work * u64::from(rows.unsigned_abs());
            time(
                &mut group,
                &format!("4 bits {dtype:?} 4096², {rows} rows"),
                work,
                || quantized_matmul(&x, &q.weight, &q.scales, Some(&biases), true, layout),
            );
        }
    }
    group.finish();
}

criterion_group!(benches, products);
criterion_main!(benches);
