//! Our own CPU kernels against plain products and against MLX's own results.
#![cfg(target_os = "linux")]

use mlx_core::ffi::blas;
use mlx_core::ops::linalg_basic::addmm;
use mlx_core::ops::quantized::{QuantizationLayout, dequantize, quantize, quantized_matmul};
use mlx_core::{Array, Complex32, Dtype, Element};
use proptest::prelude::*;

/// A number in −1..1 that is the same on each run.
fn noise(seed: u64) -> f32 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z >> 40) as f32 / (1u64 << 23) as f32) - 1.0
}

pub(crate) fn noises(seed: u64, len: usize) -> Vec<f32> {
    (0..len as u64)
        .map(|i| noise(seed.wrapping_mul(0x1000_0000).wrapping_add(i)))
        .collect()
}

#[test]
fn matmul_of_the_packaged_library_calls_our_blas() {
    let product = |a: &Array, b: &Array| {
        let before = blas::calls();
        a.matmul(b).unwrap().eval().unwrap();
        blas::calls() - before
    };
    fn eye<T: Element>(one: T) -> Array {
        Array::full(&[3, 3], one).unwrap()
    }
    let one = Complex32::new(1.0, 0.0);
    let counts = [
        product(&eye(1.0f32), &eye(1.0f32)),
        product(&eye(1.0f64), &eye(1.0f64)),
        product(&eye(one), &eye(one)),
    ];
    if blas::enabled() {
        // Other tests multiply meanwhile: at least one call is ours.
        assert!(counts.iter().all(|&count| count >= 1), "{counts:?}");
    } else {
        assert_eq!(counts, [0; 3], "turned off, the packaged BLAS computes");
    }
}

/// What `cblas` promises, element by element.
struct Problem {
    row_major: bool,
    trans: [bool; 2],
    dims: [usize; 3],
    pad: usize,
    alpha: f64,
    beta: f64,
}

impl Problem {
    fn at(&self, transposed: bool, i: usize, j: usize, ld: usize) -> usize {
        let (i, j) = if transposed { (j, i) } else { (i, j) };
        if self.row_major {
            i * ld + j
        } else {
            j * ld + i
        }
    }

    /// The leading dimension and the length of a matrix of `rows` × `cols` after transposition.
    fn storage(&self, transposed: bool, rows: usize, cols: usize) -> (usize, usize) {
        let (rows, cols) = if transposed {
            (cols, rows)
        } else {
            (rows, cols)
        };
        let (outer, inner) = if self.row_major {
            (rows, cols)
        } else {
            (cols, rows)
        };
        let ld = inner.max(1) + self.pad;
        (ld, outer * ld)
    }

    fn codes(&self) -> [i32; 3] {
        let code = |t| if t { 112 } else { 111 };
        [
            if self.row_major { 101 } else { 102 },
            code(self.trans[0]),
            code(self.trans[1]),
        ]
    }
}

macro_rules! check {
    ($problem:expr, $function:path, $type:ty, $make:expr, $scalar:expr, $distance:expr, $tolerance:expr) => {{
        let p: &Problem = $problem;
        let [m, n, k] = p.dims;
        let (lda, len_a) = p.storage(p.trans[0], m, k);
        let (ldb, len_b) = p.storage(p.trans[1], k, n);
        let (ldc, len_c) = p.storage(false, m, n);
        let make = $make;
        let a: Vec<$type> = (0..len_a as u64).map(|i| make(i)).collect();
        let b: Vec<$type> = (0..len_b as u64).map(|i| make(i + 1_000_000)).collect();
        let old: Vec<$type> = (0..len_c as u64).map(|i| make(i + 2_000_000)).collect();
        let mut c = old.clone();
        if p.beta == 0.0 {
            // A NaN stays if the old value is read.
            for i in 0..m {
                for j in 0..n {
                    c[p.at(false, i, j, ldc)] *= <$type>::from(f32::NAN);
                }
            }
        }
        let (alpha, beta) = (<$type>::from(p.alpha as f32), <$type>::from(p.beta as f32));
        let codes = p.codes();
        let scalar = $scalar;
        // SAFETY: the vectors have the lengths of the matrices described.
        unsafe {
            $function(
                codes[0],
                codes[1],
                codes[2],
                m as i32,
                n as i32,
                k as i32,
                scalar(&alpha),
                a.as_ptr(),
                lda as i32,
                b.as_ptr(),
                ldb as i32,
                scalar(&beta),
                c.as_mut_ptr(),
                ldc as i32,
            );
        }
        let mut expected = old.clone();
        for i in 0..m {
            for j in 0..n {
                let mut sum = <$type>::from(0.0f32);
                for l in 0..k {
                    sum += a[p.at(p.trans[0], i, l, lda)] * b[p.at(p.trans[1], l, j, ldb)];
                }
                let place = p.at(false, i, j, ldc);
                let before = if p.beta == 0.0 {
                    <$type>::from(0.0f32)
                } else {
                    old[place] * beta
                };
                expected[place] = sum * alpha + before;
            }
        }
        for (at, (got, want)) in c.iter().zip(&expected).enumerate() {
            let distance = $distance(*got, *want);
            prop_assert!(
                distance <= $tolerance,
                "element {at}: {got} instead of {want}"
            );
        }
    }};
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn blas_products_equal_a_plain_loop(
        row_major: bool,
        trans: [bool; 2],
        m in 0usize..70,
        n in 0usize..70,
        k in 0usize..90,
        pad in 0usize..4,
        alpha in prop::sample::select(vec![1.0, 0.0, -0.5]),
        beta in prop::sample::select(vec![0.0, 1.0, 2.0]),
    ) {
        let p = Problem { row_major, trans, dims: [m, n, k], pad, alpha, beta };
        check!(&p, blas::cblas_sgemm, f32, |i| noise(i), |v: &f32| *v,
            |a: f32, b: f32| (a - b).abs(), 2e-5);
        check!(&p, blas::cblas_dgemm, f64, |i| f64::from(noise(i)), |v: &f64| *v,
            |a: f64, b: f64| (a - b).abs(), 1e-12);
        check!(&p, blas::cblas_cgemm, Complex32, |i| Complex32::new(noise(i), noise(i + 77)),
            |v: &Complex32| std::ptr::from_ref(v),
            |a: Complex32, b: Complex32| (a - b).norm(), 5e-5);
    }
}

#[test]
fn conjugate_transposes_conjugate() {
    let i = Complex32::new(0.0, 1.0);
    let (one, zero) = (Complex32::new(1.0, 0.0), Complex32::new(0.0, 0.0));
    let mut c = [zero];
    // SAFETY: matrices of one element.
    unsafe {
        blas::cblas_cgemm(
            101,
            113,
            111,
            1,
            1,
            1,
            &raw const one,
            &raw const i,
            1,
            &raw const i,
            1,
            &raw const zero,
            c.as_mut_ptr(),
            1,
        );
    }
    assert_eq!(c[0], one);
}

#[test]
fn a_big_product_on_all_threads_equals_rows_computed_alone() {
    let (m, n, k) = (257, 193, 301);
    let a = Array::from_slice(&noises(1, m * k), &[m as i32, k as i32]).unwrap();
    let b = Array::from_slice(&noises(2, n * k), &[n as i32, k as i32]).unwrap();
    let whole = a
        .matmul(&b.transpose().unwrap())
        .unwrap()
        .to_vec::<f32>()
        .unwrap();
    let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
    for (i, row) in whole.chunks(n).enumerate() {
        for (j, got) in row.iter().enumerate() {
            let want: f64 = (0..k)
                .map(|l| f64::from(a[i * k + l]) * f64::from(b[j * k + l]))
                .sum();
            assert!(
                (f64::from(*got) - want).abs() < 1e-4,
                "({i}, {j}): {got} instead of {want}"
            );
        }
    }
}

/// The product with the numbers that the packed ones stand for, in f32.
fn unpacked_product(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: &Array,
    layout: QuantizationLayout,
) -> Array {
    let up = |a: &Array| a.astype(Dtype::Float32).unwrap();
    let plain = dequantize(w, &up(scales), Some(&up(biases)), layout, None).unwrap();
    up(x).matmul(&plain.transpose().unwrap()).unwrap()
}

pub(crate) fn f32s(a: &Array) -> Vec<f32> {
    a.astype(Dtype::Float32).unwrap().to_vec::<f32>().unwrap()
}

/// Compares with a tolerance that is relative to the largest value.
pub(crate) fn assert_close(got: &Array, want: &Array, tolerance: f32, what: &str) {
    let (got, want) = (f32s(got), f32s(want));
    assert_eq!(got.len(), want.len(), "{what}");
    let size = want.iter().fold(1e-3f32, |size, v| size.max(v.abs()));
    for (at, (g, w)) in got.iter().zip(&want).enumerate() {
        let far = (g - w).abs();
        assert!(
            far <= tolerance * size,
            "{what}, element {at}: {g} instead of {w}"
        );
    }
}

pub(crate) fn tolerance(dtype: Dtype) -> f32 {
    match dtype {
        Dtype::Float32 => 4e-5, // Vectors have 16 bits in integer products.
        Dtype::Float16 => 1e-3,
        _ => 8e-3, // one rounding of eight bits
    }
}

#[test]
fn quantized_products_equal_mlx_for_every_layout_and_dtype() {
    let dtypes = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];
    let mut seed = 0;
    for bits in [1, 2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            // Rows for the vector kernels (1, 3, 8) and for the blocked one; inner sizes that end
            // inside a vector (384 = 3 groups of 128) and inside a block (640).
            for (m, k) in [(1, 128), (3, 640), (8, 384), (21, 896)] {
                seed += 1;
                let n = 37;
                let layout = QuantizationLayout::affine(group, bits);
                let w = Array::from_slice(&noises(seed, (n * k) as usize), &[n, k]).unwrap();
                let q = quantize(&w, layout).unwrap();
                let biases = q.biases.unwrap();
                let x = Array::from_slice(&noises(seed + 1000, (m * k) as usize), &[m, k]).unwrap();
                for (x_type, s_type) in dtypes
                    .iter()
                    .flat_map(|x| dtypes.iter().map(move |s| (*x, *s)))
                {
                    if !blas::enabled() && (x_type, s_type) != (Dtype::Float32, Dtype::Float32) {
                        continue; // MLX's own halves are further from the reference.
                    }
                    let what =
                        format!("{bits} bits, group {group}, {m}×{k}, {x_type:?}·{s_type:?}");
                    let x = x.astype(x_type).unwrap();
                    let (s, b) = (
                        q.scales.astype(s_type).unwrap(),
                        biases.astype(s_type).unwrap(),
                    );
                    let ours = quantized_matmul(&x, &q.weight, &s, Some(&b), true, layout).unwrap();
                    // The reference is computed in f32, as MLX rounds every step in halves.
                    let up = |a: &Array| a.astype(Dtype::Float32).unwrap();
                    let want = unpacked_product(&up(&x), &q.weight, &up(&s), &up(&b), layout);
                    let result = if x_type == s_type {
                        x_type
                    } else {
                        Dtype::Float32
                    };
                    assert_eq!(ours.dtype(), result, "{what}");
                    assert_eq!(ours.shape(), [m, n], "{what}");
                    assert_close(&ours, &want, tolerance(result), &what);
                }
            }
        }
    }
}

#[test]
fn quantized_products_take_strided_broadcast_and_batched_rows() {
    let layout = QuantizationLayout::affine(32, 4);
    let (n, k) = (300, 1024);
    let w = Array::from_slice(&noises(5, (n * k) as usize), &[n, k]).unwrap();
    let q = quantize(&w, layout).unwrap();
    let biases = q.biases.unwrap();
    let x = Array::from_slice(&noises(6, 2 * 6 * 1024), &[2, 6, k]).unwrap();
    let column = Array::from_slice(&noises(7, 1024 * 3), &[k, 3]).unwrap();
    let cases = [
        ("a batch", x.clone()),
        ("transposed", column.transpose().unwrap()),
        (
            "broadcast",
            x.index((0, 0..1, ..))
                .unwrap()
                .broadcast_to(&[12, k])
                .unwrap(),
        ),
        ("a slice", x.index((.., 1..4, ..)).unwrap()),
        ("one vector", x.index((1, 2, ..)).unwrap()),
        ("swapped batch", x.swapaxes(0, 1).unwrap()),
    ];
    for (what, x) in cases {
        let ours = quantized_matmul(&x, &q.weight, &q.scales, Some(&biases), true, layout).unwrap();
        let mut shape = x.shape().to_vec();
        *shape.last_mut().unwrap() = n;
        assert_eq!(ours.shape(), shape, "{what}");
        assert_close(
            &ours,
            &unpacked_product(&x, &q.weight, &q.scales, &biases, layout),
            4e-5,
            what,
        );
    }
    // Operands that are views, too.
    let rows = |a: &Array| a.index((50..61, ..)).unwrap();
    let (w, s, b) = (rows(&q.weight), rows(&q.scales), rows(&biases));
    let ours = quantized_matmul(&x, &w, &s, Some(&b), true, layout).unwrap();
    assert_close(
        &ours,
        &unpacked_product(&x, &w, &s, &b, layout),
        4e-5,
        "rows of the matrix",
    );
}

#[test]
fn half_products_are_rounded_once() {
    let shapes: [(&[i32], &[i32]); 8] = [
        (&[1, 5], &[5, 1]),
        (&[1, 640], &[640, 70]),
        (&[8, 300], &[300, 33]),
        (&[40, 515], &[515, 70]),
        (&[200, 64], &[64, 300]),
        (&[2, 3, 9, 40], &[2, 3, 40, 17]),
        (&[2, 3, 9, 40], &[40, 17]),
        (&[4, 1, 20, 33], &[3, 33, 20]),
    ];
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        for (seed, (left, right)) in shapes.into_iter().enumerate() {
            let make = |seed: u64, shape: &[i32]| {
                let len = shape.iter().product::<i32>() as usize;
                Array::from_slice(&noises(seed, len), shape)
                    .unwrap()
                    .astype(dtype)
                    .unwrap()
            };
            let flip = |a: &Array| a.swapaxes(-1, -2).unwrap();
            let flipped = |shape: &[i32]| {
                let mut shape = shape.to_vec();
                let last = shape.len() - 1;
                shape.swap(last, last - 1);
                shape
            };
            let seed = 10 * seed as u64;
            let a = [make(seed, left), flip(&make(seed + 1, &flipped(left)))];
            let b = [
                make(seed + 2, right),
                flip(&make(seed + 3, &flipped(right))),
            ];
            for (i, (a, b)) in a
                .iter()
                .flat_map(|a| b.iter().map(move |b| (a, b)))
                .enumerate()
            {
                let what = format!("{left:?} @ {right:?}, layout {i}, {dtype:?}");
                let up = |a: &Array| a.astype(Dtype::Float32).unwrap();
                let ours = a.matmul(b).unwrap();
                let want = up(a).matmul(&up(b)).unwrap();
                assert_eq!(ours.dtype(), dtype, "{what}");
                assert_eq!(ours.shape(), want.shape(), "{what}");
                assert_close(&ours, &want, tolerance(dtype), &what);

                for shape in [vec![1], vec![*right.last().unwrap()], want.shape().to_vec()] {
                    let c = make(seed + 4, &shape);
                    let ours = addmm(&c, a, b, 0.5, -2.0).unwrap();
                    let sum = (&want * 0.5f32 - (up(&c) * 2.0f32).unwrap()).unwrap();
                    assert_eq!(ours.shape(), want.shape(), "{what} + {shape:?}");
                    assert_close(
                        &ours,
                        &sum,
                        tolerance(dtype),
                        &format!("{what} + {shape:?}"),
                    );
                }
            }
        }
    }
}

#[test]
fn half_products_that_do_not_fit_fail_as_before() {
    let zeros = |shape: &[i32]| Array::zeros_dtype(shape, Dtype::Bfloat16).unwrap();
    assert!(zeros(&[2, 3]).matmul(&zeros(&[4, 2])).is_err());
    assert!(zeros(&[1, 1, 3]).matmul(&zeros(&[3, 3, 2])).is_ok());
    assert!(zeros(&[2, 1, 3]).matmul(&zeros(&[5, 3, 2])).is_err());
    assert!(addmm(&zeros(&[7]), &zeros(&[2, 3]), &zeros(&[3, 2]), 1.0, 1.0).is_err());
    assert_eq!(zeros(&[3]).matmul(&zeros(&[3])).unwrap().ndim(), 0);
    assert_eq!(
        zeros(&[0, 3]).matmul(&zeros(&[3, 2])).unwrap().shape(),
        [0, 2]
    );
    assert_eq!(
        zeros(&[2, 0]).matmul(&zeros(&[0, 2])).unwrap().shape(),
        [2, 2]
    );
}

/// The choice is made once for a process, so the other kernels run in processes of their own.
#[test]
fn every_set_of_kernels_passes_these_tests() {
    let program = std::env::current_exe().unwrap();
    for kernels in ["portable", "avx2", "avx512", "off"] {
        let output = std::process::Command::new(&program)
            .args(["cpu_", "--skip", "every_set_of_kernels"])
            .env("MLX_CPU_KERNELS", kernels)
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{kernels}: {report}");
        assert!(report.contains("quantized_products_equal_mlx"), "{report}");
        assert!(
            report.contains("packed_products_equal_unpacked"),
            "{report}"
        );
        assert!(report.contains("attention_follows_its_formula"), "{report}");
    }
}
