//! Our fused CPU kernels against the formulas, computed in f64 by plain loops.
#![cfg(target_os = "linux")]

use mlx_core::ffi::blas;
use mlx_core::ops::fast::{
    AttentionMask, RopeOptions, layer_norm, rms_norm, rope, rope_with_offsets,
    scaled_dot_product_attention, swiglu,
};
use mlx_core::ops::indexing::{slice, slice_update};
use mlx_core::ops::reduction::softmax;
use mlx_core::{Array, Dtype, async_eval};

/// A number in −1..1 that is the same on each run.
fn noise(seed: u64, i: usize) -> f32 {
    let mut z = (seed << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 40) as f32 / (1u64 << 23) as f32) - 1.0
}

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

fn random(seed: u64, shape: &[i32], dtype: Dtype) -> Array {
    let len: i32 = shape.iter().product();
    let values: Vec<f32> = (0..len as usize).map(|i| noise(seed, i)).collect();
    let array = Array::from_slice(&values, shape).unwrap();
    array.astype(dtype).unwrap()
}

fn wide(a: &Array) -> Vec<f64> {
    let a = a.astype(Dtype::Float32).unwrap();
    a.to_vec::<f32>()
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect()
}

/// Compares relative to the largest expected value.
fn assert_close(got: &Array, want: &[f64], tolerance: f64, what: &str) {
    let got = wide(got);
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-3f64, |size, v| size.max(v.abs()));
    for (at, (g, w)) in got.iter().zip(want).enumerate() {
        let far = (g - w).abs();
        assert!(
            far <= tolerance * size,
            "{what}, element {at}: {g} instead of {w}"
        );
    }
}

/// MLX rounds twice in half precision, ours once.
fn tolerance(dtype: Dtype) -> f64 {
    match dtype {
        Dtype::Float32 => 3e-6,
        Dtype::Float16 => 3e-3,
        _ => 2e-2,
    }
}

#[test]
fn norms_follow_their_formulas() {
    for (seed, n) in [1, 5, 16, 77, 576].into_iter().enumerate() {
        for dtype in DTYPES {
            let x = random(seed as u64, &[3, 4, n], dtype);
            let x = (x * Array::scalar_dtype(3.0, dtype).unwrap()).unwrap();
            let (w, b) = (random(50, &[n], dtype), random(51, &[n], dtype));
            let n = n as usize;
            let (values, ws, bs) = (wide(&x), wide(&w), wide(&b));
            let mean = |row: &[f64]| row.iter().sum::<f64>() / n as f64;
            let norm = |centred: bool, w: Option<&[f64]>, b: Option<&[f64]>| -> Vec<f64> {
                values
                    .chunks(n)
                    .flat_map(|row| {
                        let mu = if centred { mean(row) } else { 0.0 };
                        let squares: Vec<f64> = row.iter().map(|v| (v - mu).powi(2)).collect();
                        let scale = 1.0 / (mean(&squares) + 1e-5).sqrt();
                        (0..n)
                            .map(|i| {
                                (row[i] - mu) * scale * w.map_or(1.0, |w| w[i])
                                    + b.map_or(0.0, |b| b[i])
                            })
                            .collect::<Vec<_>>()
                    })
                    .collect()
            };
            let what = format!("{n} {dtype:?}");
            let t = 3.0 * tolerance(dtype);
            for (weight, plain) in [(None, None), (Some(&w), Some(&ws[..]))] {
                let y = rms_norm(&x, weight, 1e-5).unwrap();
                assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype), "{what}");
                assert_close(&y, &norm(false, plain, None), t, &what);
                let y = layer_norm(&x, weight, None, 1e-5).unwrap();
                assert_close(&y, &norm(true, plain, None), t, &what);
            }
            let y = layer_norm(&x, Some(&w), Some(&b), 1e-5).unwrap();
            assert_close(&y, &norm(true, Some(&ws), Some(&bs)), t, &what);
            // A weight of another dtype promotes.
            let w32 = w.astype(Dtype::Float32).unwrap();
            let y = rms_norm(&x, Some(&w32), 1e-5).unwrap();
            assert_eq!(y.dtype(), Dtype::Float32);
            assert_close(&y, &norm(false, Some(&ws), None), t, &what);
        }
    }
}

#[test]
fn norms_and_softmax_take_views() {
    let x = random(1, &[40, 6], Dtype::Float32);
    let (columns, plain) = (
        x.transpose().unwrap(),
        x.transpose().unwrap().contiguous(false).unwrap(),
    );
    for f in [
        |x: &Array| rms_norm(x, None, 1e-6).unwrap(),
        |x: &Array| layer_norm(x, None, None, 1e-6).unwrap(),
        |x: &Array| softmax(x, &[-1]).unwrap(),
    ] {
        assert_close(&f(&columns), &wide(&f(&plain)), 1e-6, "columns");
        let part = slice(&x, &[3, 1], &[30, 5]).unwrap();
        let whole = part.contiguous(false).unwrap();
        assert_close(&f(&part), &wide(&f(&whole)), 1e-6, "a slice");
    }
    // The operand lives on and must not be overwritten.
    let before = wide(&x);
    let _kept = rms_norm(&x, None, 1e-6).unwrap().to_vec::<f32>().unwrap();
    assert_close(&x, &before, 0.0, "the operand");
}

#[test]
fn softmax_follows_its_formula_over_the_whole_range() {
    for n in [1, 3, 16, 33, 1000] {
        for dtype in DTYPES {
            if dtype != Dtype::Float32 && !blas::enabled() {
                continue; // MLX adds up in the operand's own precision.
            }
            let scale = Array::scalar_dtype(30.0, dtype).unwrap();
            let x = (random(n as u64, &[5, n], dtype) * scale).unwrap();
            let mut want = Vec::new();
            for row in wide(&x).chunks(n as usize) {
                let top = row.iter().fold(f64::MIN, |a, b| a.max(*b));
                let total: f64 = row.iter().map(|v| (v - top).exp()).sum();
                want.extend(row.iter().map(|v| (v - top).exp() / total));
            }
            let y = softmax(&x, &[-1]).unwrap();
            assert_close(&y, &want, tolerance(dtype), &format!("{n} {dtype:?}"));
        }
    }
    let odd = [f32::NEG_INFINITY, 0.0, -200.0, -0.0];
    let y = softmax(&Array::from_slice(&odd, &[1, 4]).unwrap(), &[-1]).unwrap();
    assert_close(&y, &[0.0, 0.5, 0.0, 0.5], 1e-6, "infinity");
    for bad in [
        [f32::NAN, 0.0, 1.0],
        [f32::NEG_INFINITY; 3],
        [f32::INFINITY, 0.0, 0.0],
    ] {
        let y = softmax(&Array::from_slice(&bad, &[1, 3]).unwrap(), &[-1]).unwrap();
        assert!(y.to_vec::<f32>().unwrap()[0].is_nan(), "{bad:?}");
    }
}

#[test]
fn swiglu_follows_its_formula() {
    for (n, dtype) in [
        (1, DTYPES[0]),
        (37, DTYPES[0]),
        (5000, DTYPES[0]),
        (37, DTYPES[1]),
        (4999, DTYPES[2]),
    ] {
        let scale = Array::scalar_dtype(12.0, dtype).unwrap();
        let gate = (random(7, &[2, n], dtype) * scale).unwrap();
        let x = random(8, &[2, n], dtype);
        let want: Vec<f64> = wide(&gate)
            .iter()
            .zip(wide(&x))
            .map(|(g, x)| g / (1.0 + (-g).exp()) * x)
            .collect();
        assert_close(
            &swiglu(&gate, &x).unwrap(),
            &want,
            tolerance(dtype),
            "same shapes",
        );
    }
    let (gate, x) = (
        random(1, &[3, 1], Dtype::Float32),
        random(2, &[1, 4], Dtype::Float32),
    );
    assert_eq!(swiglu(&gate, &x).unwrap().shape(), [3, 4]);
    let far = Array::from_slice(&[-1000.0f32, 1000.0, f32::NAN], &[3]).unwrap();
    let y = swiglu(&far, &Array::ones::<f32>(&[3]).unwrap())
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    assert_eq!((y[0], y[1], y[2].is_nan()), (0.0, 1000.0, true));
}

struct Turn {
    dims: usize,
    traditional: bool,
    scale: f64,
    periods: Vec<f64>,
}

impl Turn {
    /// Rotates `[B, H, L, D]` values.
    fn apply(&self, x: &[f64], shape: [usize; 4], offsets: &[f64]) -> Vec<f64> {
        let [_, heads, length, width] = shape;
        let half = self.dims / 2;
        let mut out = x.to_vec();
        for (row, values) in out.chunks_mut(width).enumerate() {
            let offset = offsets[if offsets.len() > 1 {
                row / length / heads
            } else {
                0
            }];
            let position = (offset + (row % length) as f64) * self.scale;
            for i in 0..half {
                let (a, b) = if self.traditional {
                    (2 * i, 2 * i + 1)
                } else {
                    (i, i + half)
                };
                let (sin, cos) = (position / self.periods[i]).sin_cos();
                let (x, y) = (values[a], values[b]);
                values[a] = x * cos - y * sin;
                values[b] = x * sin + y * cos;
            }
        }
        out
    }
}

#[test]
fn rope_turns_pairs_by_their_positions() {
    for dtype in DTYPES {
        for traditional in [false, true] {
            for (dims, width) in [(64, 64), (16, 24), (6, 6)] {
                let x = random(3, &[2, 5, 3, width], dtype); // [B, L, H, D]
                let x = x.transpose_axes(&[0, 2, 1, 3]).unwrap();
                let half = dims as usize / 2;
                let mut turn = Turn {
                    dims: dims as usize,
                    traditional,
                    scale: 0.5,
                    periods: (0..half)
                        .map(|i| 1e4f64.powf(i as f64 / half as f64))
                        .collect(),
                };
                let shape = [2, 3, 5, width as usize];
                let values = wide(&x);
                let options = RopeOptions::default().traditional(traditional).scale(0.5);
                let what = format!("{dims} of {width}, {dtype:?}, traditional {traditional}");
                let t = 10.0 * tolerance(dtype);
                let y = rope(&x, dims, 7, options).unwrap();
                assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype));
                assert_close(&y, &turn.apply(&values, shape, &[7.0]), t, &what);
                let offsets = Array::from_slice(&[3i32, 40], &[2]).unwrap();
                let y = rope_with_offsets(&x, dims, &offsets, options).unwrap();
                assert_close(&y, &turn.apply(&values, shape, &[3.0, 40.0]), t, &what);

                let periods: Vec<f32> = (0..half).map(|i| 1.5 + i as f32).collect();
                turn.periods = periods.iter().map(|p| f64::from(*p)).collect();
                let freqs = Array::from_slice(&periods, &[dims / 2]).unwrap();
                let y = rope(&x, dims, 11, options.freqs(&freqs)).unwrap();
                assert_close(&y, &turn.apply(&values, shape, &[11.0]), t, &what);
            }
        }
    }
    // Three axes: [B, L, D].
    let x = random(4, &[2, 5, 8], Dtype::Float32);
    let flat = rope(&x, 8, 2, RopeOptions::default()).unwrap();
    let four = rope(&x.expand_dims(&[1]).unwrap(), 8, 2, RopeOptions::default()).unwrap();
    assert_close(&flat, &wide(&four), 1e-6, "three axes");
    assert!(
        rope_with_offsets(
            &x,
            8,
            &Array::from_slice(&[1i32; 3], &[3]).unwrap(),
            RopeOptions::default()
        )
        .is_err()
    );
}

struct Case {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    length: usize,
    kept: usize,
    d: usize,
    dv: usize,
}

impl Case {
    fn operands(&self, dtype: Dtype) -> [Array; 3] {
        let shape = |heads: usize, length: usize, d: usize| {
            [self.batch as i32, heads as i32, length as i32, d as i32]
        };
        // Keys and values are a part of a longer buffer, queries a transposed projection.
        let rows = random(
            1,
            &[
                self.batch as i32,
                self.length as i32,
                self.heads as i32,
                self.d as i32,
            ],
            dtype,
        );
        let buffer = |seed, d: usize| {
            let long = random(seed, &shape(self.kv_heads, self.kept + 9, d), dtype);
            slice(&long, &[0; 4], &shape(self.kv_heads, self.kept, d)).unwrap()
        };
        [
            rows.transpose_axes(&[0, 2, 1, 3]).unwrap(),
            buffer(2, self.d),
            buffer(3, self.dv),
        ]
    }

    /// `visible(b, h, i, s)` is what is added to a score, or nothing where the key is hidden.
    fn expected(
        &self,
        operands: &[Array; 3],
        scale: f64,
        sinks: Option<&[f64]>,
        visible: impl Fn(usize, usize, usize, usize) -> Option<f64>,
    ) -> Vec<f64> {
        let [q, k, v] = operands.each_ref().map(wide);
        let mut out = Vec::new();
        for b in 0..self.batch {
            for h in 0..self.heads {
                let kv = b * self.kv_heads + h / (self.heads / self.kv_heads);
                for i in 0..self.length {
                    let query = &q[((b * self.heads + h) * self.length + i) * self.d..][..self.d];
                    let scores: Vec<f64> = (0..self.kept)
                        .map(|s| {
                            let key = &k[(kv * self.kept + s) * self.d..][..self.d];
                            let dot: f64 = query.iter().zip(key).map(|(a, b)| a * b).sum();
                            visible(b, h, i, s)
                                .map_or(f64::NEG_INFINITY, |added| dot * scale + added)
                        })
                        .collect();
                    let sink = sinks.map_or(f64::NEG_INFINITY, |sinks| sinks[h]);
                    let top = scores.iter().fold(sink, |a, b| a.max(*b));
                    let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                    let total: f64 = weights.iter().sum::<f64>() + (sink - top).exp();
                    for j in 0..self.dv {
                        let sum: f64 = (0..self.kept)
                            .map(|s| weights[s] * v[(kv * self.kept + s) * self.dv + j])
                            .sum();
                        out.push(sum / total);
                    }
                }
            }
        }
        out
    }
}

#[test]
fn attention_follows_its_formula() {
    let cases = [
        Case {
            batch: 1,
            heads: 9,
            kv_heads: 3,
            length: 1,
            kept: 70,
            d: 64,
            dv: 64,
        },
        Case {
            batch: 2,
            heads: 4,
            kv_heads: 4,
            length: 3,
            kept: 5,
            d: 20,
            dv: 12,
        },
        Case {
            batch: 2,
            heads: 4,
            kv_heads: 2,
            length: 40,
            kept: 53,
            d: 64,
            dv: 32,
        },
        Case {
            batch: 1,
            heads: 2,
            kv_heads: 1,
            length: 65,
            kept: 65,
            d: 7,
            dv: 9,
        },
        Case {
            batch: 1,
            heads: 1,
            kv_heads: 1,
            length: 1,
            kept: 1,
            d: 1,
            dv: 1,
        },
    ];
    for case in &cases {
        let Case {
            length,
            kept,
            heads,
            ..
        } = *case;
        for dtype in DTYPES {
            let operands = case.operands(dtype);
            let [q, k, v] = &operands;
            let scale = 1.7 / (case.d as f64).sqrt();
            let t = 5.0 * tolerance(dtype);
            let attend = |mask: AttentionMask<'_>, sinks: Option<&Array>| {
                scaled_dot_product_attention(q, k, v, scale as f32, mask, sinks).unwrap()
            };
            let what = |name: &str| format!("{name}, {length} of {kept}, {dtype:?}");

            let y = attend(AttentionMask::None, None);
            assert_eq!(y.dtype(), dtype);
            assert_close(
                &y,
                &case.expected(&operands, scale, None, |_, _, _, _| Some(0.0)),
                t,
                &what("no mask"),
            );

            let causal = |_, _, i: usize, s: usize| (s <= i + kept - length).then_some(0.0);
            assert_close(
                &attend(AttentionMask::Causal, None),
                &case.expected(&operands, scale, None, causal),
                t,
                &what("causal"),
            );

            let sinks = random(9, &[heads as i32], dtype);
            let plain = wide(&sinks);
            assert_close(
                &attend(AttentionMask::Causal, Some(&sinks)),
                &case.expected(&operands, scale, Some(&plain), causal),
                t,
                &what("sinks"),
            );

            // A boolean mask for each head, of which key 0 is always seen.
            let shape = [heads, length, kept];
            let seen: Vec<bool> = (0..shape.iter().product())
                .map(|i| i % kept == 0 || noise(20, i) > 0.0)
                .collect();
            let mask = Array::from_slice(&seen, &shape.map(|n| n as i32)).unwrap();
            let visible =
                |_, h: usize, i: usize, s: usize| seen[(h * length + i) * kept + s].then_some(0.0);
            assert_close(
                &attend(AttentionMask::Array(&mask), None),
                &case.expected(&operands, scale, None, visible),
                t,
                &what("boolean"),
            );

            // An additive one, shared by heads and queries.
            let added = random(21, &[case.batch as i32, 1, 1, kept as i32], dtype);
            let plain = wide(&added);
            let visible = |b: usize, _, _, s: usize| Some(plain[b * kept + s]);
            assert_close(
                &attend(AttentionMask::Array(&added), None),
                &case.expected(&operands, scale, None, visible),
                t,
                &what("additive"),
            );
        }
    }
}

#[test]
fn a_query_that_sees_nothing_weighs_all_values_alike() {
    for length in [1, 40] {
        let q = random(1, &[1, 1, length, 8], Dtype::Float32);
        let v = random(2, &[1, 1, 3, 8], Dtype::Float32);
        let mask = Array::zeros_dtype(&[length, 3], Dtype::Bool).unwrap();
        let y = scaled_dot_product_attention(&q, &v, &v, 1.0, AttentionMask::Array(&mask), None)
            .unwrap();
        let values = wide(&v);
        let mean: Vec<f64> = (0..8)
            .map(|j| (values[j] + values[8 + j] + values[16 + j]) / 3.0)
            .collect();
        assert_close(&y, &mean.repeat(length as usize), 1e-5, "nothing seen");
    }
}

#[test]
fn attention_that_does_not_fit_fails_as_before() {
    let zeros = |shape: [i32; 4]| Array::zeros::<f32>(&shape).unwrap();
    let attend = |q: &Array, k: &Array, v: &Array, mask: AttentionMask<'_>| {
        scaled_dot_product_attention(q, k, v, 1.0, mask, None)
    };
    let (q, k) = (zeros([1, 4, 3, 8]), zeros([1, 2, 5, 8]));
    assert!(attend(&q, &k, &k, AttentionMask::None).is_ok());
    assert!(
        attend(
            &q,
            &zeros([1, 3, 5, 8]),
            &zeros([1, 3, 5, 8]),
            AttentionMask::None
        )
        .is_err()
    );
    assert!(attend(&q, &zeros([1, 2, 5, 9]), &k, AttentionMask::None).is_err());
    assert!(attend(&q, &k, &zeros([1, 1, 5, 8]), AttentionMask::None).is_err());
    assert!(
        attend(
            &q,
            &zeros([2, 2, 5, 8]),
            &zeros([2, 2, 5, 8]),
            AttentionMask::None
        )
        .is_err()
    );
    let mask = zeros([1, 1, 3, 4]);
    assert!(attend(&q, &k, &k, AttentionMask::Array(&mask)).is_err());
    // More queries than keys under a causal mask: MLX decides.
    assert!(
        attend(
            &k,
            &zeros([1, 2, 3, 8]),
            &zeros([1, 2, 3, 8]),
            AttentionMask::Causal
        )
        .is_ok()
    );
}

#[test]
fn slice_update_writes_a_part_and_leaves_every_other_handle_alone() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Int8, Dtype::Int64] {
        let base = Array::arange_dtype(0.0, 60.0, 1.0, dtype)
            .unwrap()
            .reshape(&[3, 4, 5])
            .unwrap();
        let update = Array::full(&[2, 2, 3], 77.0f32)
            .unwrap()
            .astype(dtype)
            .unwrap();
        let kept = base.clone();
        let y = slice_update(&base, &update, &[1, 1, 2], &[3, 3, 5]).unwrap();
        let mut want: Vec<f64> = (0..60).map(f64::from).collect();
        for i in 1..3 {
            for j in 1..3 {
                for l in 2..5 {
                    want[(i * 4 + j) * 5 + l] = 77.0;
                }
            }
        }
        assert_close(&y, &want, 0.0, "the result");
        assert_close(
            &kept,
            &(0..60).map(f64::from).collect::<Vec<_>>(),
            0.0,
            "the operand",
        );
        // Views, as operand and as update.
        let y = slice_update(
            &base.transpose().unwrap(),
            &update.transpose().unwrap(),
            &[2, 1, 1],
            &[5, 3, 3],
        )
        .unwrap();
        assert_close(&y.transpose().unwrap(), &want, 0.0, "views");
    }
}

/// What a decode loop does: every step writes into the buffer of the step before, while that step
/// is still being computed.
#[test]
fn buffers_written_in_place_keep_the_values_that_earlier_steps_read() {
    let (steps, width) = (40, 512);
    let mut buffer = Array::zeros::<f32>(&[1, 2, 64, width]).unwrap();
    let mut sums = Vec::new();
    let mut views = Vec::new();
    for step in 0..steps {
        let row = Array::full(&[1, 2, 1, width], step as f32 + 1.0).unwrap();
        buffer = slice_update(&buffer, &row, &[0, 0, step, 0], &[1, 2, step + 1, width]).unwrap();
        let head = slice(&buffer, &[0; 4], &[1, 2, step + 1, width]).unwrap();
        let sum = head.sum(false).unwrap();
        async_eval(&[&sum, &buffer]).unwrap();
        sums.push(sum);
        if step % 10 == 3 {
            views.push((step, slice(&buffer, &[0; 4], &[1, 2, 64, width]).unwrap()));
        }
    }
    let total = |step: i32| f64::from((1..=step + 1).sum::<i32>() * 2 * width);
    for (step, sum) in sums.iter().enumerate() {
        assert_eq!(wide(sum), [total(step as i32)], "step {step}");
    }
    for (step, view) in views {
        assert_eq!(
            wide(&view.sum(false).unwrap()),
            [total(step)],
            "the buffer as of step {step}"
        );
    }
}
