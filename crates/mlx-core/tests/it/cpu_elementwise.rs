//! Element-wise CPU kernels against the formulas, computed in f64 by plain loops.
#![cfg(target_os = "linux")]

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use mlx_core::ffi::blas;
use mlx_core::ops::fast::{gelu, gelu_approx, gelu_fast_approx, silu};
use mlx_core::ops::indexing::slice;
use mlx_core::ops::linalg_basic::addmm;
use mlx_core::ops::shape::broadcast_to;
use mlx_core::{Array, Dtype, Result};

const DTYPES: [Dtype; 3] = [Dtype::Float32, Dtype::Float16, Dtype::Bfloat16];

/// Numbers within ±`range` without a pattern.
fn numbers(seed: f32, shape: &[i32], range: f32, dtype: Dtype) -> Array {
    let count: i32 = shape.iter().product();
    let numbers = |()| -> Result<Array> {
        let x = (Array::arange::<f32>(0.0, f64::from(count), 1.0)? * 12.9898f32)?;
        ((x + seed)?.sin()? * range)?.reshape(shape)?.astype(dtype)
    };
    numbers(()).unwrap()
}

fn wide(a: &Array) -> Vec<f64> {
    let a = a.astype(Dtype::Float32).unwrap();
    let values = a.to_vec::<f32>().unwrap();
    values.into_iter().map(f64::from).collect()
}

/// The error function, by Simpson's rule.
fn erf(x: f64) -> f64 {
    let steps = 400;
    let width = x.clamp(-6.0, 6.0) / f64::from(steps);
    let total: f64 = (0..=steps)
        .map(|i| {
            let weight = match i {
                0 => 1.0,
                i if i == steps => 1.0,
                i if i % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * (-(width * f64::from(i)).powi(2)).exp()
        })
        .sum();
    total * width / 3.0 * FRAC_2_SQRT_PI
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

type Case = (&'static str, fn(&Array) -> Result<Array>, fn(f64) -> f64);

const CASES: [Case; 8] = [
    ("exp", |x| x.exp(), f64::exp),
    ("erf", |x| x.erf(), erf),
    ("tanh", |x| x.tanh(), f64::tanh),
    ("sigmoid", |x| x.sigmoid(), sigmoid),
    ("silu", silu, |x| x * sigmoid(x)),
    ("gelu", gelu, |x| x * (1.0 + erf(x * FRAC_1_SQRT_2)) / 2.0),
    ("gelu_approx", gelu_approx, |x| {
        let inner = (2.0 / PI).sqrt() * (x + 0.044_715 * x.powi(3));
        x * (1.0 + inner.tanh()) / 2.0
    }),
    ("gelu_fast_approx", gelu_fast_approx, |x| {
        x * sigmoid(1.702 * x)
    }),
];

type Function = fn(&Array) -> Result<Array>;

#[test]
fn functions_follow_their_formulas() {
    for (name, function, formula) in CASES {
        for dtype in DTYPES {
            // Enough for several threads, and a rest.
            let x = numbers(0.3, &[9, 1013], 7.0, dtype);
            let y = function(&x).unwrap();
            assert_eq!((y.shape(), y.dtype()), (x.shape(), dtype), "{name}");
            // Relative to the value, but near zero to one: the graph's roundings are of a sum.
            let bound = match dtype {
                Dtype::Float32 => 1.5e-6,
                Dtype::Float16 => 3e-3,
                _ => 2.5e-2,
            };
            for (x, y) in wide(&x).into_iter().zip(wide(&y)) {
                let want = formula(x);
                let size = if name == "exp" {
                    want
                } else {
                    want.abs().max(1.0)
                };
                assert!(
                    (y - want).abs() <= bound * size,
                    "{name}({x}) in {dtype:?}: {y}, {want}"
                );
            }
        }
    }
}

#[test]
fn functions_keep_their_limits() {
    let x = [
        f32::NEG_INFINITY,
        -300.0,
        -0.0,
        0.0,
        300.0,
        f32::INFINITY,
        f32::NAN,
    ];
    let x = Array::from_slice(&x, &[7]).unwrap();
    let limits: [(&str, Function, [f32; 6]); 4] = [
        (
            "exp",
            |x| x.exp(),
            [0.0, 0.0, 1.0, 1.0, f32::INFINITY, f32::INFINITY],
        ),
        ("erf", |x| x.erf(), [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]),
        ("tanh", |x| x.tanh(), [-1.0, -1.0, 0.0, 0.0, 1.0, 1.0]),
        ("sigmoid", |x| x.sigmoid(), [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]),
    ];
    for (name, function, want) in limits {
        let y = function(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(y[..6], want, "{name}");
        assert!(y[6].is_nan(), "{name}");
    }
    for function in [silu, gelu, gelu_approx, gelu_fast_approx] {
        let y = function(&x).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(y[1..6], [0.0, 0.0, 0.0, 300.0, f32::INFINITY]);
        assert!(y[6].is_nan());
    }
}

#[test]
fn functions_take_views_integers_and_nothing() {
    let x = numbers(1.0, &[60, 70], 3.0, Dtype::Float32);
    let views = [
        x.transpose().unwrap(),
        slice(&x, &[3, 1], &[50, 66]).unwrap(),
        broadcast_to(&slice(&x, &[0, 0], &[1, 70]).unwrap(), &[5, 70]).unwrap(),
    ];
    for (name, function, _) in CASES {
        for view in &views {
            let plain = function(&view.contiguous(false).unwrap()).unwrap();
            let got = function(view).unwrap();
            assert_eq!(wide(&got), wide(&plain), "{name}");
        }
        let whole = Array::from_slice(&[0i32, 2], &[2]).unwrap();
        let floats = whole.astype(Dtype::Float32).unwrap();
        let (y, want) = (function(&whole).unwrap(), function(&floats).unwrap());
        assert_eq!(y.dtype(), Dtype::Float32);
        // MLX's own functions compute on integers.
        for (y, want) in wide(&y).into_iter().zip(wide(&want)) {
            assert!(
                (y - want).abs() <= 1e-6 * want.abs().max(1.0),
                "{name}: {y}, {want}"
            );
        }
        let nothing = Array::zeros::<f32>(&[0, 3]).unwrap();
        assert_eq!(function(&nothing).unwrap().shape(), [0, 3]);
        nothing.eval().unwrap();
    }
}

/// In half precision the activations equal their formulas in single operations, bit for bit.
#[test]
fn activations_round_like_their_steps() -> Result<()> {
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        let x = numbers(0.7, &[5000], 6.0, dtype);
        let n = |value: f64| Array::scalar_dtype(value, dtype);
        let one = n(1.0)?;
        let silu_steps = (&x * x.sigmoid()?)?;
        let share = ((&x * n(FRAC_1_SQRT_2)?)?.erf()? + &one)?;
        let gelu_steps = ((&x * share)? / n(2.0)?)?;
        let inner = (&x + ((&x * x.square()?)? * n(0.044_715)?)?)?;
        let gate = ((inner * n((2.0 / PI).sqrt())?)?.tanh()? + &one)?;
        let approx_steps = ((&x * n(0.5)?)? * gate)?;
        let fast_steps = (&x * (&x * n(1.702)?)?.sigmoid()?)?;
        for (name, fused, steps) in [
            ("silu", silu(&x)?, silu_steps),
            ("gelu", gelu(&x)?, gelu_steps),
            ("gelu_approx", gelu_approx(&x)?, approx_steps),
            ("gelu_fast_approx", gelu_fast_approx(&x)?, fast_steps),
        ] {
            assert_eq!(wide(&fused), wide(&steps), "{name} {dtype:?}");
        }
    }
    Ok(())
}

#[test]
fn arithmetic_is_exact_whatever_the_layout() -> Result<()> {
    type Op = (fn(&Array, &Array) -> Result<Array>, fn(f32, f32) -> f32);
    let ops: [Op; 4] = [
        (|a, b| a.add(b), |a, b| a + b),
        (|a, b| a.subtract(b), |a, b| a - b),
        (|a, b| a.multiply(b), |a, b| a * b),
        (|a, b| a.divide(b), |a, b| a / b),
    ];
    // Large enough for kernels of our own.
    let shape = [3, 160, 171];
    for dtype in DTYPES {
        let x = numbers(0.1, &shape, 2.0, dtype);
        let square = numbers(0.2, &[240, 342], 2.0, dtype);
        let pairs = [
            (x.clone(), numbers(0.4, &shape, 3.0, dtype)),
            (x.clone(), numbers(0.4, &[171], 3.0, dtype)),
            (x.clone(), numbers(0.4, &[1, 160, 171], 3.0, dtype)),
            (x.clone(), numbers(0.4, &[3, 160, 1], 3.0, dtype)),
            (x.clone(), Array::scalar_dtype(0.3, dtype)?),
            (Array::scalar_dtype(0.3, dtype)?, x.clone()),
            (numbers(0.4, &[1, 1, 171], 3.0, dtype), x.clone()),
            (square.transpose()?, numbers(0.5, &[342, 240], 1.0, dtype)),
            (square.transpose()?, square.transpose()?),
            (square.transpose()?, numbers(0.6, &[240], 1.0, dtype)),
            (
                slice(&square, &[1, 2], &[200, 300])?,
                numbers(0.6, &[298], 1.0, dtype),
            ),
            (square.clone(), square.clone()),
        ];
        for (op, formula) in ops {
            for (a, b) in &pairs {
                let before = wide(a);
                let got = op(a, b)?;
                let shape = got.shape().to_vec();
                let spread = |x: &Array| -> Result<Vec<f32>> {
                    let x = broadcast_to(&x.astype(Dtype::Float32)?, &shape[..])?;
                    x.contiguous(false)?.to_vec::<f32>()
                };
                let values: Vec<f32> = spread(a)?
                    .into_iter()
                    .zip(spread(b)?)
                    .map(|(a, b)| formula(a, b))
                    .collect();
                let want = Array::from_slice(&values, &shape[..])?.astype(dtype)?;
                assert_eq!(got.dtype(), dtype);
                assert_eq!(
                    wide(&got),
                    wide(&want),
                    "{:?} {:?} {dtype:?}",
                    a.shape(),
                    b.shape()
                );
                assert_eq!(wide(a), before, "the operand lives on");
            }
        }
    }
    Ok(())
}

#[test]
fn a_bias_joins_each_row_of_a_product() -> Result<()> {
    let a = numbers(0.1, &[4, 60, 32], 1.0, Dtype::Float32);
    let w = numbers(0.2, &[200, 32], 1.0, Dtype::Float32);
    let bias = numbers(0.3, &[200], 1.0, Dtype::Float32);
    let before = blas::calls();
    let y = addmm(&bias, &a, &w.transpose()?, 1.0, 1.0)?;
    assert_eq!(y.shape(), [4, 60, 200]);
    let (y, a, w, bias) = (wide(&y), wide(&a), wide(&w), wide(&bias));
    assert_eq!(blas::calls() > before, blas::enabled());
    for (row, y) in a.chunks(32).zip(y.chunks(200)) {
        for ((w, bias), y) in w.chunks(32).zip(&bias).zip(y) {
            let want: f64 = bias + row.iter().zip(w).map(|(a, w)| a * w).sum::<f64>();
            assert!((y - want).abs() < 2e-5, "{y}, {want}");
        }
    }
    Ok(())
}
