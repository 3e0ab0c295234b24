//! Products with packed matrices, experts chosen by index, and dequantisation against numbers
//! unpacked here bit by bit.
#![cfg(target_os = "linux")]

use mlx_core::ffi::blas;
use mlx_core::ops::linalg_basic::gather_mm;
use mlx_core::ops::quantized::{
    GatherIndices, QuantizationLayout, QuantizationMode, dequantize, gather_qmm, quantized_matmul,
};
use mlx_core::{Array, Dtype};

use crate::cpu_kernels::{assert_close, f32s, noises, tolerance};

/// A stack of packed matrices and the numbers it stands for.
struct Packed {
    weight: Array,
    scales: Array,
    biases: Option<Array>,
    numbers: Vec<f32>,
    /// Matrices, and rows and columns of one as stored.
    dims: [usize; 3],
}

fn group_and_bits(layout: QuantizationLayout) -> (usize, usize) {
    let (group, bits) = match layout.mode {
        QuantizationMode::Mxfp4 => (32, 4),
        QuantizationMode::Mxfp8 => (32, 8),
        QuantizationMode::Nvfp4 => (16, 4),
        _ => (64, 4),
    };
    (
        layout.group_size.map_or(group, |size| size as usize),
        layout.bits.map_or(bits, |bits| bits as usize),
    )
}

fn fp4(code: u32) -> f32 {
    let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][code as usize & 7];
    if code & 8 == 0 { size } else { -size }
}

fn fp8(code: u32) -> f32 {
    let (exponent, fraction) = ((code >> 3 & 15) as i32, (code & 7) as f32 / 8.0);
    let size = if exponent == 0 {
        fraction * 2f32.powi(-6)
    } else {
        (1.0 + fraction) * 2f32.powi(exponent - 7)
    };
    if code & 128 == 0 { size } else { -size }
}

impl Packed {
    fn new(seed: u64, layout: QuantizationLayout, dims: [usize; 3], scale_type: Dtype) -> Self {
        let [count, rows, columns] = dims;
        let (group, bits) = group_and_bits(layout);
        let (words, groups) = (columns * bits / 32, columns / group);
        let byte = |v: f32| ((v + 1.0) * 128.0) as u32 & 255;
        let mut bytes: Vec<u32> = noises(seed, count * rows * words * 4)
            .into_iter()
            .map(byte)
            .collect();
        if layout.mode == QuantizationMode::Mxfp8 {
            // No NaNs.
            for b in &mut bytes {
                *b -= u32::from(*b & 127 == 127);
            }
        }
        let codes: Vec<u32> = bytes
            .chunks(words * 4)
            .flat_map(|row| {
                (0..columns).map(move |i| {
                    (0..bits).fold(0, |code, b| {
                        let at = i * bits + b;
                        code | (row[at / 8] >> (at % 8) & 1) << b
                    })
                })
            })
            .collect();
        let packed: Vec<u32> = bytes
            .chunks(4)
            .map(|b| b[0] | b[1] << 8 | b[2] << 16 | b[3] << 24)
            .collect();
        let int = |n: usize| n as i32;
        let of_groups = [int(count), int(rows), int(groups)];
        let total = count * rows * groups;
        let affine = layout.mode == QuantizationMode::Affine;
        let (scales, biases, factors, offsets) = if affine {
            let typed = |seed| {
                let values = noises(seed, total);
                Array::from_slice(&values, &of_groups)
                    .unwrap()
                    .astype(scale_type)
                    .unwrap()
            };
            let (scales, biases) = (typed(seed + 1), typed(seed + 2));
            let (factors, offsets) = (f32s(&scales), f32s(&biases));
            (scales, Some(biases), factors, offsets)
        } else {
            let raw: Vec<u8> = noises(seed + 1, total)
                .into_iter()
                .map(|v| match layout.mode {
                    // No NaNs, and nothing that makes a product too large for f16.
                    QuantizationMode::Nvfp4 => (byte(v) as u8) & 0xbf,
                    QuantizationMode::Mxfp8 => (118.0 + v * 4.0) as u8,
                    _ => (127.0 + v * 6.0) as u8,
                })
                .collect();
            let factors = raw
                .iter()
                .map(|&s| match layout.mode {
                    QuantizationMode::Nvfp4 => fp8(s.into()),
                    _ => 2f32.powi(i32::from(s) - 127),
                })
                .collect();
            (
                Array::from_slice(&raw, &of_groups).unwrap(),
                None,
                factors,
                vec![0.0; total],
            )
        };
        let numbers = codes
            .iter()
            .enumerate()
            .map(|(i, &code)| {
                let value = match layout.mode {
                    QuantizationMode::Affine => code as f32,
                    QuantizationMode::Mxfp8 => fp8(code),
                    _ => fp4(code),
                };
                value * factors[i / group] + offsets[i / group]
            })
            .collect();
        let weight = Array::from_slice(&packed, &[int(count), int(rows), int(words)]).unwrap();
        Packed {
            weight,
            scales,
            biases,
            numbers,
            dims,
        }
    }

    /// The first matrix alone.
    fn first(&self) -> [Option<Array>; 3] {
        let first = |a: &Array| a.index(0).unwrap();
        [
            Some(first(&self.weight)),
            Some(first(&self.scales)),
            self.biases.as_ref().map(first),
        ]
    }

    /// The result of multiplying with matrix `at`.
    fn times(&self, x: &[f32], at: usize, transpose: bool) -> Vec<f32> {
        let [_, rows, columns] = self.dims;
        let matrix = &self.numbers[at * rows * columns..][..rows * columns];
        let (inner, outer) = if transpose {
            (columns, rows)
        } else {
            (rows, columns)
        };
        x.chunks(inner)
            .flat_map(|row| {
                (0..outer).map(move |j| {
                    let terms = row.iter().enumerate().map(|(i, &v)| {
                        let place = if transpose {
                            j * columns + i
                        } else {
                            i * columns + j
                        };
                        f64::from(v) * f64::from(matrix[place])
                    });
                    terms.sum::<f64>() as f32
                })
            })
            .collect()
    }
}

fn layouts() -> Vec<QuantizationLayout> {
    let mut all: Vec<_> = [
        QuantizationMode::Mxfp4,
        QuantizationMode::Mxfp8,
        QuantizationMode::Nvfp4,
    ]
    .map(QuantizationLayout::of)
    .into();
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            all.push(QuantizationLayout::affine(group, bits));
        }
    }
    all
}

fn rows(seed: u64, shape: &[i32], dtype: Dtype) -> Array {
    let count = shape.iter().product::<i32>() as usize;
    Array::from_slice(&noises(seed, count), shape)
        .unwrap()
        .astype(dtype)
        .unwrap()
}

/// MLX's own products of halves are further from the reference, and it has no `gather_mm` of them.
fn dtypes() -> &'static [Dtype] {
    if blas::enabled() {
        &[Dtype::Float32, Dtype::Bfloat16, Dtype::Float16]
    } else {
        &[Dtype::Float32]
    }
}

#[test]
fn packed_products_equal_unpacked_ones_in_every_mode() {
    for (seed, layout) in layouts().into_iter().enumerate() {
        let seed = seed as u64 * 10;
        // Columns that end inside a step of the integer kernels and inside a block.
        for (stored_rows, columns) in [(37, 384), (300, 128)] {
            for (m, &dtype) in [1, 3, 8, 70].iter().zip(dtypes().iter().cycle()) {
                let packed = Packed::new(seed, layout, [1, stored_rows, columns], dtype);
                let [w, s, b] = packed.first();
                for transpose in [true, false] {
                    let inner = if transpose { columns } else { stored_rows };
                    let x = rows(seed + 5, &[*m, inner as i32], dtype);
                    let what = format!("{layout:?}, {m} rows, transpose {transpose}, {dtype:?}");
                    let ours = quantized_matmul(
                        &x,
                        w.as_ref().unwrap(),
                        s.as_ref().unwrap(),
                        b.as_ref(),
                        transpose,
                        layout,
                    )
                    .unwrap();
                    let outer = if transpose { stored_rows } else { columns };
                    assert_eq!(ours.dtype(), dtype, "{what}");
                    let want = packed.times(&f32s(&x), 0, transpose);
                    let want = Array::from_slice(&want, &[*m, outer as i32]).unwrap();
                    assert_close(&ours, &want, tolerance(dtype), &what);
                }
            }
        }
    }
}

#[test]
fn packed_products_of_batches_broadcast() {
    for mode in [QuantizationMode::Affine, QuantizationMode::Nvfp4] {
        let layout = QuantizationLayout::of(mode);
        let packed = Packed::new(3, layout, [3, 40, 320], Dtype::Float32);
        let x = rows(4, &[2, 1, 5, 320], Dtype::Float32);
        let ours = quantized_matmul(
            &x,
            &packed.weight,
            &packed.scales,
            packed.biases.as_ref(),
            true,
            layout,
        )
        .unwrap();
        assert_eq!(ours.shape(), [2, 3, 5, 40]);
        let values = f32s(&x);
        let want: Vec<f32> = (0..6)
            .flat_map(|i| packed.times(&values[i / 3 * 1600..][..1600], i % 3, true))
            .collect();
        let want = Array::from_slice(&want, &[2, 3, 5, 40]).unwrap();
        assert_close(&ours, &want, 4e-5, mode.as_str());
    }
}

/// Items of `m` rows: the position of each among the rows and among the matrices.
fn gathered(packed: &Packed, x: &[f32], m: usize, items: &[(usize, usize)], t: bool) -> Vec<f32> {
    let [_, stored_rows, columns] = packed.dims;
    let inner = if t { columns } else { stored_rows };
    items
        .iter()
        .flat_map(|&(l, r)| packed.times(&x[l * m * inner..][..m * inner], r, t))
        .collect()
}

fn positions(values: &[u32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape).unwrap()
}

#[test]
fn experts_are_multiplied_as_if_one_by_one() {
    let modes = [
        QuantizationLayout::affine(64, 4),
        QuantizationLayout::affine(32, 8),
        QuantizationLayout::affine(128, 3),
        QuantizationLayout::of(QuantizationMode::Mxfp4),
        QuantizationLayout::of(QuantizationMode::Mxfp8),
        QuantizationLayout::of(QuantizationMode::Nvfp4),
    ];
    let experts = 5;
    for (seed, layout) in modes.into_iter().enumerate() {
        for &dtype in dtypes() {
            let packed = Packed::new(seed as u64 * 7, layout, [experts, 128, 256], dtype);
            for transpose in [true, false] {
                let inner = if transpose { 256 } else { 128 };
                let outer = 384 - inner;
                let check = |what: &str,
                             x: &Array,
                             indices: GatherIndices<'_>,
                             items: &[(usize, usize)],
                             m: usize,
                             shape: &[i32]| {
                    let ours = gather_qmm(
                        x,
                        &packed.weight,
                        &packed.scales,
                        packed.biases.as_ref(),
                        indices,
                        transpose,
                        layout,
                    )
                    .unwrap();
                    let what = format!("{what}, {layout:?}, transpose {transpose}, {dtype:?}");
                    let mut full = shape.to_vec();
                    full.extend([m as i32, outer]);
                    assert_eq!(ours.shape(), full, "{what}");
                    assert_eq!(ours.dtype(), dtype, "{what}");
                    let want = gathered(&packed, &f32s(x), m, items, transpose);
                    let want = Array::from_slice(&want, &full).unwrap();
                    assert_close(&ours, &want, tolerance(dtype), &what);
                };
                // A decode step: each row goes to some experts.
                let x = rows(1, &[3, 1, 1, inner], dtype);
                let chosen = [4u32, 0, 2, 2, 1, 4];
                let rhs = positions(&chosen, &[3, 2]);
                let items: Vec<_> = (0..6).map(|i| (i / 2, chosen[i] as usize)).collect();
                let only = |rhs| GatherIndices {
                    rhs: Some(rhs),
                    ..GatherIndices::default()
                };
                check("decode", &x, only(&rhs), &items, 1, &[3, 2]);
                // The same with positions that are a transposed view, and rows that are one.
                let chosen_t = [4u32, 2, 1, 0, 2, 4];
                let view = positions(&chosen_t, &[2, 3]).transpose().unwrap();
                let column = rows(1, &[inner, 1, 1, 3], dtype).transpose().unwrap();
                check("views", &column, only(&view), &items, 1, &[3, 2]);
                // A prompt: many rows for one expert, few for others, none for the rest.
                let chosen: Vec<u32> = (0..70)
                    .map(|i| if i < 66 { 1 } else { i % 2 * 3 })
                    .collect();
                let x = rows(2, &[70, 1, inner], dtype);
                let items: Vec<_> = (0..70).map(|i| (i, chosen[i] as usize)).collect();
                check(
                    "prompt",
                    &x,
                    only(&positions(&chosen, &[70])),
                    &items,
                    1,
                    &[70],
                );
                // Both sides by index, several rows at a time.
                let x = rows(3, &[2, 7, inner], dtype);
                let (lhs, rhs) = (
                    positions(&[1, 0, 1, 1], &[4, 1]),
                    positions(&[0, 3, 3], &[3]),
                );
                let both = GatherIndices {
                    lhs: Some(&lhs),
                    rhs: Some(&rhs),
                    sorted: false,
                };
                let items: Vec<_> = (0..12)
                    .map(|i| ([1, 0, 1, 1][i / 3], [0, 3, 3][i % 3]))
                    .collect();
                check("both", &x, both, &items, 7, &[4, 3]);
                // The left side alone: all matrices in order.
                let lhs = positions(&[1, 1, 0, 0, 1], &[5]);
                let left = GatherIndices {
                    lhs: Some(&lhs),
                    ..GatherIndices::default()
                };
                let items = [(1, 0), (1, 1), (0, 2), (0, 3), (1, 4)];
                check("left", &x, left, &items, 7, &[5]);
            }
        }
    }
}

#[test]
fn experts_outside_are_errors_or_the_nearest() {
    let layout = QuantizationLayout::of(QuantizationMode::Mxfp4);
    let packed = Packed::new(11, layout, [3, 32, 256], Dtype::Float32);
    let x = rows(1, &[2, 1, 256], Dtype::Float32);
    let product = |rhs: &Array| {
        let indices = GatherIndices {
            rhs: Some(rhs),
            ..GatherIndices::default()
        };
        gather_qmm(
            &x,
            &packed.weight,
            &packed.scales,
            None,
            indices,
            true,
            layout,
        )
    };
    assert!(product(&positions(&[0, 3], &[2])).is_err());
    let lazy = (positions(&[500, 0], &[2]) + 2).unwrap();
    let inside = product(&positions(&[2, 2], &[2])).unwrap();
    assert_eq!(f32s(&product(&lazy).unwrap()), f32s(&inside));
}

#[test]
fn nothing_times_a_packed_matrix_is_nothing() {
    let layout = QuantizationLayout::of(QuantizationMode::Mxfp8);
    let packed = Packed::new(12, layout, [2, 32, 64], Dtype::Float32);
    let [w, s, _] = packed.first();
    let (w, s) = (w.unwrap(), s.unwrap());
    let x = Array::zeros::<f32>(&[0, 64]).unwrap();
    let y = quantized_matmul(&x, &w, &s, None, true, layout).unwrap();
    assert_eq!(y.to_vec::<f32>().unwrap(), [0f32; 0]);
    assert_eq!(y.shape(), [0, 32]);
    let x = rows(1, &[2, 1, 64], Dtype::Float32);
    let none = positions(&[], &[0]);
    let indices = GatherIndices {
        rhs: Some(&none),
        lhs: Some(&none),
        sorted: false,
    };
    let y = gather_qmm(
        &x,
        &packed.weight,
        &packed.scales,
        None,
        indices,
        true,
        layout,
    )
    .unwrap();
    assert_eq!(y.shape(), [0, 1, 32]);
    assert!(y.eval().is_ok());
    let short = rows(1, &[2, 32], Dtype::Float32);
    assert!(quantized_matmul(&short, &w, &s, None, true, layout).is_err());
}

#[test]
fn dense_experts_are_multiplied_as_if_one_by_one() {
    for &dtype in dtypes() {
        let (count, inner, outer) = (4, 70, 45);
        let straight = rows(1, &[count, inner, outer], dtype);
        let flipped = rows(1, &[count, outer, inner], dtype)
            .swapaxes(1, 2)
            .unwrap();
        let odd = rows(1, &[inner, count, 2 * outer], dtype)
            .swapaxes(0, 1)
            .unwrap()
            .index((.., .., ..outer))
            .unwrap();
        for (name, b) in [
            ("straight", straight),
            ("transposed", flipped),
            ("a view", odd),
        ] {
            let matrices = f32s(&b);
            for (m, items) in [(1i32, 3u32), (2, 40), (9, 5)] {
                let a = rows(2, &[items as i32, m, inner], dtype);
                let chosen: Vec<u32> = (0..items).map(|i| i * i % 4).collect();
                let rhs = positions(&chosen, &[items as i32]);
                let ours = gather_mm(&a, &b, None, Some(&rhs), false).unwrap();
                let values = f32s(&a);
                let (inner, outer, m) = (inner as usize, outer as usize, m as usize);
                let want: Vec<f32> = values
                    .chunks(inner)
                    .enumerate()
                    .flat_map(|(row, x)| {
                        let at = chosen[row / m] as usize * inner * outer;
                        let matrix = &matrices[at..at + inner * outer];
                        (0..outer).map(move |j| {
                            x.iter()
                                .enumerate()
                                .map(|(i, v)| v * matrix[i * outer + j])
                                .sum::<f32>()
                        })
                    })
                    .collect();
                let want =
                    Array::from_slice(&want, &[items as i32, m as i32, outer as i32]).unwrap();
                let what = format!("{name}, {m} rows of {items}, {dtype:?}");
                assert_eq!(ours.dtype(), dtype, "{what}");
                assert_eq!(ours.shape(), want.shape(), "{what}");
                assert_close(&ours, &want, tolerance(dtype), &what);
            }
        }
    }
}

#[test]
fn dequantized_numbers_are_exact() {
    for (seed, layout) in layouts().into_iter().enumerate() {
        let packed = Packed::new(seed as u64, layout, [3, 5, 1152], Dtype::Float32);
        let ours = dequantize(
            &packed.weight,
            &packed.scales,
            packed.biases.as_ref(),
            layout,
            Some(Dtype::Float32),
        )
        .unwrap();
        assert_eq!(ours.shape(), [3, 5, 1152]);
        assert_eq!(f32s(&ours), packed.numbers, "{layout:?}");
        // A view of some rows.
        let view = |a: &Array| a.index((.., 1..3, ..)).unwrap();
        let some = dequantize(
            &view(&packed.weight),
            &view(&packed.scales),
            packed.biases.as_ref().map(view).as_ref(),
            layout,
            Some(Dtype::Float32),
        )
        .unwrap();
        assert_eq!(f32s(&some), f32s(&view(&ours)), "{layout:?}");
    }
}

#[test]
fn dequantized_halves_are_rounded_as_in_mlx() {
    let (scale_type, layout) = (Dtype::Bfloat16, QuantizationLayout::affine(32, 4));
    let packed = Packed::new(5, layout, [1, 7, 64], scale_type);
    let [w, s, b] = packed.first();
    let (s, b) = (s.unwrap(), b.unwrap());
    let ours = dequantize(w.as_ref().unwrap(), &s, Some(&b), layout, None).unwrap();
    assert_eq!(ours.dtype(), scale_type);
    // The codes alone, then a rounded product and a rounded sum.
    let (ones, zeros) = (s.ones_like().unwrap(), b.zeros_like().unwrap());
    let codes = dequantize(w.as_ref().unwrap(), &ones, Some(&zeros), layout, None).unwrap();
    let spread = |a: &Array| a.repeat_axis(32, -1).unwrap();
    let want = ((codes * spread(&s)).unwrap() + spread(&b)).unwrap();
    assert_eq!(f32s(&ours), f32s(&want));
}
