//! Packed matrices, experts and convolutions on the CPU: run once as it is and once with
//! `MLX_CPU_KERNELS=off`.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use mlx_core::ops::conv::{ConvOptions, conv1d, conv2d};
use mlx_core::ops::linalg_basic::gather_mm;
use mlx_core::ops::quantized::{
    GatherIndices, QuantizationLayout, QuantizationMode, dequantize, gather_qmm, quantize,
    quantized_matmul,
};
use mlx_core::ops::random;
use mlx_core::{Array, Device, Dtype, Result};

fn normal(shape: &[i32], dtype: Dtype) -> Array {
    let array = random::normal::<f32>(0.0, 1.0, shape, None).unwrap();
    let array = array.astype(dtype).unwrap();
    array.eval().unwrap();
    array
}

fn time(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    operation: impl Fn() -> Result<Array>,
) {
    group.bench_function(BenchmarkId::from_parameter(name), |bench| {
        bench.iter(|| operation().unwrap().eval().unwrap());
    });
}

const LAYOUTS: [(&str, QuantizationMode, Option<i32>); 5] = [
    ("4 bits", QuantizationMode::Affine, Some(4)),
    ("1 bit", QuantizationMode::Affine, Some(1)),
    ("mxfp4", QuantizationMode::Mxfp4, None),
    ("mxfp8", QuantizationMode::Mxfp8, None),
    ("nvfp4", QuantizationMode::Nvfp4, None),
];

fn packed(group: &mut BenchmarkGroup<'_, WallTime>, dtype: Dtype) {
    let (experts, outer, inner) = (32, 768, 2048);
    let dense = normal(&[experts, outer, inner], dtype);
    let token = normal(&[1, 1, 1, inner], dtype);
    let chosen = Array::from_slice(&[3u32, 30, 7, 11, 19, 5, 23, 0], &[1, 8]).unwrap();
    let prompt = normal(&[512, 1, inner], dtype);
    let spread: Vec<u32> = (0..512).map(|i| i / 16).collect();
    let spread = Array::from_slice(&spread, &[512]).unwrap();
    for (name, mode, bits) in LAYOUTS {
        let mut layout = QuantizationLayout::of(mode);
        layout.bits = bits;
        let q = quantize(&dense, layout).unwrap();
        let biases = q.biases.as_ref();
        mlx_core::eval(&[&q.weight, &q.scales, biases.unwrap_or(&q.scales)]).unwrap();
        let square = normal(&[2048, 2048], dtype);
        let s = quantize(&square, layout).unwrap();
        mlx_core::eval(&[&s.weight, &s.scales, s.biases.as_ref().unwrap_or(&s.scales)]).unwrap();
        for rows in [1, 64] {
            let x = normal(&[rows, 2048], dtype);
            for transpose in [true, false] {
                let way = if transpose { "transposed" } else { "straight" };
                let name = format!("{name} {dtype:?} 2048², {way}, {rows} rows");
                time(group, &name, || {
                    let biases = s.biases.as_ref();
                    quantized_matmul(&x, &s.weight, &s.scales, biases, transpose, layout)
                });
            }
        }
        time(
            group,
            &format!("{name} {dtype:?} 2048², dequantize"),
            || dequantize(&s.weight, &s.scales, s.biases.as_ref(), layout, None),
        );
        let experts = |x: &Array, rhs| {
            let indices = GatherIndices {
                rhs: Some(rhs),
                ..GatherIndices::default()
            };
            gather_qmm(x, &q.weight, &q.scales, biases, indices, true, layout)
        };
        time(
            group,
            &format!("{name} {dtype:?} 8 experts, 1 token"),
            || experts(&token, &chosen),
        );
        time(
            group,
            &format!("{name} {dtype:?} 32 experts, 512 rows"),
            || experts(&prompt, &spread),
        );
    }
    // MLX has it for f32 only.
    if dtype == Dtype::Float32 {
        let stack = dense.swapaxes(1, 2).unwrap();
        for (name, x, rhs) in [
            ("8 experts, 1 token", &token, &chosen),
            ("32 experts, 512 rows", &prompt, &spread),
        ] {
            time(group, &format!("dense {dtype:?} {name}"), || {
                gather_mm(x, &stack, None, Some(rhs), false)
            });
        }
    }
}

fn convolutions(group: &mut BenchmarkGroup<'_, WallTime>, dtype: Dtype) {
    let sound = normal(&[1, 3000, 80], dtype);
    let (first, second) = (normal(&[384, 3, 80], dtype), normal(&[384, 3, 384], dtype));
    let hidden = normal(&[1, 3000, 384], dtype);
    let same = ConvOptions::default().padding([1]);
    time(group, &format!("conv1d {dtype:?} 3000×80 to 384"), || {
        conv1d(&sound, &first, same)
    });
    time(
        group,
        &format!("conv1d {dtype:?} 3000×384 to 384, stride 2"),
        || conv1d(&hidden, &second, same.stride([2])),
    );
    let gate = normal(&[384, 4, 1], dtype);
    let causal = ConvOptions::default().padding_sides([(3, 0)]).groups(384);
    time(
        group,
        &format!("conv1d {dtype:?} 3000×384, depthwise"),
        || conv1d(&hidden, &gate, causal),
    );
    let image = normal(&[1, 224, 224, 3], dtype);
    let patches = normal(&[768, 16, 16, 3], dtype);
    time(
        group,
        &format!("conv2d {dtype:?} 224²×3 in patches of 16²"),
        || conv2d(&image, &patches, ConvOptions::default().stride([16, 16])),
    );
    let features = normal(&[1, 56, 56, 64], dtype);
    let kernel = normal(&[64, 3, 3, 64], dtype);
    let same = ConvOptions::default().padding([1, 1]);
    time(group, &format!("conv2d {dtype:?} 56²×64, 3²"), || {
        conv2d(&features, &kernel, same)
    });
    let depthwise = normal(&[64, 3, 3, 1], dtype);
    time(
        group,
        &format!("conv2d {dtype:?} 56²×64, 3², depthwise"),
        || conv2d(&features, &depthwise, same.groups(64)),
    );
}

fn operations(criterion: &mut Criterion) {
    Device::cpu().set_default().unwrap();
    let mut group = criterion.benchmark_group("cpu_packed");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200));
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        packed(&mut group, dtype);
        convolutions(&mut group, dtype);
    }
    group.finish();
}

criterion_group!(benches, operations);
criterion_main!(benches);
