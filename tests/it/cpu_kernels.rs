//! Derivatives and batches of the operations that have CPU kernels of our own.

use mlx_core::ops::fast::{
    self, AttentionMask, RopeOptions, scaled_dot_product_attention as attend, swiglu,
};
use mlx_core::ops::indexing::{slice_update, r#where};
use mlx_core::ops::linalg_basic::addmm;
use mlx_core::ops::quantized::{QuantizationLayout, dequantize, quantize, quantized_matmul};
use mlx_core::ops::reduction::softmax;
use mlx_core::{Array, Dtype, Result};
use mlx_transforms::{compile, grad, jvp, vjp, vmap};

/// Numbers in −1..1 without a pattern that a wrong layout could keep.
pub(crate) fn numbers(seed: f32, shape: &[i32], dtype: Dtype) -> Result<Array> {
    let count: i32 = shape.iter().product();
    ((Array::arange::<f32>(0.0, f64::from(count), 1.0)? * 12.9898f32)? + seed)?
        .sin()?
        .reshape(shape)?
        .astype(dtype)
}

pub(crate) fn assert_close(got: &Array, want: &Array, tolerance: f32) -> Result<()> {
    assert_eq!(got.shape(), want.shape());
    let far = (got.astype(Dtype::Float32)? - want.astype(Dtype::Float32)?)?.abs()?;
    let size = want
        .astype(Dtype::Float32)?
        .abs()?
        .max(false)?
        .item::<f32>()?
        .max(1e-3);
    let far = far.max(false)?.item::<f32>()?;
    assert!(far <= tolerance * size, "{far} of {size}");
    Ok(())
}

/// The weights, scales and biases of a matrix, and the numbers they stand for.
fn packed(layout: QuantizationLayout) -> Result<([Array; 3], Array)> {
    let q = quantize(&numbers(1.0, &[48, 128], Dtype::Float32)?, layout)?;
    let biases = q.biases.unwrap();
    let plain = dequantize(&q.weight, &q.scales, Some(&biases), layout, None)?;
    Ok(([q.weight, q.scales, biases], plain))
}

#[test]
fn gradients_of_quantized_products_equal_those_of_plain_ones() -> Result<()> {
    let layout = QuantizationLayout::affine(32, 4);
    let ([w, s, b], plain) = packed(layout)?;
    let x = numbers(2.0, &[5, 128], Dtype::Float32)?;
    let upstream = numbers(3.0, &[5, 48], Dtype::Float32)?;
    let (w2, layout2) = (w.clone(), layout);
    let ours = vjp(
        move |i| {
            Ok(vec![quantized_matmul(
                &i[0],
                &w,
                &i[1],
                Some(&i[2]),
                true,
                layout,
            )?])
        },
        &[x.clone(), s.clone(), b.clone()],
        std::slice::from_ref(&upstream),
    )?;
    let want = vjp(
        move |i| {
            let plain = dequantize(&w2, &i[1], Some(&i[2]), layout2, None)?;
            Ok(vec![i[0].matmul(&plain.transpose()?)?])
        },
        &[x.clone(), s, b],
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&ours.0[0], &want.0[0], 2e-5)?;
    for (ours, want) in ours.1.iter().zip(&want.1) {
        assert_close(ours, want, 2e-5)?;
    }
    // The gradient by hand, so that both cannot be wrong together.
    assert_close(&ours.1[0], &upstream.matmul(&plain)?, 2e-5)
}

#[test]
fn quantized_products_have_tangents_and_batches() -> Result<()> {
    let layout = QuantizationLayout::affine(64, 8);
    let ([w, s, b], plain) = packed(layout)?;
    let product = move |i: &[Array]| {
        Ok(vec![quantized_matmul(
            &i[0],
            &w,
            &s,
            Some(&b),
            true,
            layout,
        )?])
    };
    let x = numbers(4.0, &[128, 7], Dtype::Float32)?;
    let rows = x.transpose()?;
    let tangent = numbers(5.0, &[7, 128], Dtype::Float32)?;
    let (_, along) = jvp(
        product.clone(),
        std::slice::from_ref(&rows),
        std::slice::from_ref(&tangent),
    )?;
    // The vectors have 16 bits in integer products, and here most of a sum cancels.
    assert_close(&along[0], &tangent.matmul(&plain.transpose()?)?, 4e-4)?;

    let mapped = vmap(product, &[Some(1)], &[Some(0)])?;
    assert_close(&mapped(&[x])?[0], &rows.matmul(&plain.transpose()?)?, 4e-4)
}

#[test]
fn half_products_have_gradients_tangents_and_batches() -> Result<()> {
    let half = |seed, shape: &[i32]| numbers(seed, shape, Dtype::Bfloat16);
    let up = |a: &Array| a.astype(Dtype::Float32);
    // The left operand broadcasts, so its gradient is a sum over the batch.
    let (a, b, c) = (
        half(1.0, &[9, 20])?,
        half(2.0, &[3, 20, 6])?,
        half(3.0, &[3, 9, 6])?,
    );
    let upstream = half(4.0, &[3, 9, 6])?;
    let inputs = [c, a, b];
    let wide = inputs.iter().map(up).collect::<Result<Vec<_>>>()?;
    let f = |i: &[Array]| Ok(vec![addmm(&i[0], &i[1], &i[2], 0.5, 3.0)?]);
    // MLX's own addmm has a tangent without alpha and beta, so the reference does without it.
    let plain = |i: &[Array]| {
        let product = (i[1].matmul(&i[2])? * 0.5f32)?;
        Ok(vec![(product + (&i[0] * 3.0f32)?)?])
    };
    let (out, ours) = vjp(f, &inputs, std::slice::from_ref(&upstream))?;
    let (want_out, want) = vjp(plain, &wide, &[up(&upstream)?])?;
    assert_eq!(out[0].dtype(), Dtype::Bfloat16);
    assert_close(&out[0], &want_out[0], 8e-3)?;
    for (ours, want) in ours.iter().zip(&want) {
        // Two roundings: of the product, and of the sum over the batch.
        assert_close(ours, want, 2e-2)?;
    }

    let tangents = [
        half(5.0, &[3, 9, 6])?,
        half(6.0, &[9, 20])?,
        half(7.0, &[3, 20, 6])?,
    ];
    let wide_tangents = tangents.iter().map(up).collect::<Result<Vec<_>>>()?;
    let (_, ours) = jvp(f, &inputs, &tangents)?;
    let (_, want) = jvp(plain, &wide, &wide_tangents)?;
    assert_close(&ours[0], &want[0], 2e-2)?;

    let product = |i: &[Array]| Ok(vec![i[0].matmul(&i[1])?]);
    let mapped = vmap(product, &[None, Some(2)], &[Some(0)])?;
    let columns = half(8.0, &[20, 6, 4])?;
    let ours = mapped(&[inputs[1].clone(), columns.clone()])?;
    let want = wide[1].matmul(&up(&columns.transpose_axes(&[2, 0, 1])?)?)?;
    assert_close(&ours[0], &want, 8e-3)
}

type Function = fn(&[Array]) -> Result<Array>;

/// A fused operation, the same in plain ones, and inputs.
struct Pair {
    name: &'static str,
    fused: Function,
    plain: Function,
    inputs: Vec<Array>,
}

fn centred(x: &Array) -> Result<Array> {
    x - x.mean_axes(&[-1], true)?
}

fn scaled(x: &Array) -> Result<Array> {
    x * (x.square()?.mean_axes(&[-1], true)? + 1e-5f32)?.rsqrt()?
}

fn shares(x: &Array) -> Result<Array> {
    let powers = (x - x.max_axes(&[-1], true)?)?.exp()?;
    let total = powers.sum_axes(&[-1], true)?;
    powers / total
}

/// Pairs of halves turned by one radian for each position, from position 2 on.
fn turned(x: &Array) -> Result<Array> {
    let half = x.dim(-1)? / 2;
    let positions = Array::arange::<f32>(2.0, 2.0 + f64::from(x.dim(-2)?), 1.0)?;
    let angles = positions.expand_dims(&[1])?;
    let parts = x.split_at(&[half], -1)?;
    let (a, b) = (&parts[0], &parts[1]);
    let (c, s) = (angles.cos()?, angles.sin()?);
    let left = ((a * &c)? - (b * &s)?)?;
    let right = ((a * &s)? + (b * &c)?)?;
    mlx_core::ops::shape::concatenate(&[&left, &right], -1)
}

fn plain_attention(i: &[Array]) -> Result<Array> {
    let (length, kept) = (i[0].dim(2)?, i[1].dim(2)?);
    let each = i[0].dim(1)? / i[1].dim(1)?;
    let (k, v) = (i[1].repeat_axis(each, 1)?, i[2].repeat_axis(each, 1)?);
    let scores = (i[0].matmul(&k.swapaxes(-1, -2)?)? * 0.3f32)?;
    let rows = Array::arange::<f32>(f64::from(kept - length), f64::from(kept), 1.0)?;
    let columns = Array::arange::<f32>(0.0, f64::from(kept), 1.0)?;
    let seen = rows.expand_dims(&[1])?.greater_equal(&columns)?;
    let scores = r#where(&seen, &scores, &Array::scalar_dtype(-1e30, Dtype::Float32)?)?;
    shares(&scores)?.matmul(&v)
}

fn pairs() -> Result<Vec<Pair>> {
    let n = |seed, shape: &[i32]| numbers(seed, shape, Dtype::Float32);
    Ok(vec![
        Pair {
            name: "rms_norm",
            fused: |i| fast::rms_norm(&i[0], Some(&i[1]), 1e-5),
            plain: |i| scaled(&i[0])? * &i[1],
            inputs: vec![n(1.0, &[3, 40])?, n(2.0, &[40])?],
        },
        Pair {
            name: "layer_norm",
            fused: |i| fast::layer_norm(&i[0], Some(&i[1]), Some(&i[2]), 1e-5),
            plain: |i| (scaled(&centred(&i[0])?)? * &i[1])? + &i[2],
            inputs: vec![n(1.0, &[3, 40])?, n(2.0, &[40])?, n(3.0, &[40])?],
        },
        Pair {
            name: "softmax",
            fused: |i| softmax(&i[0], &[-1]),
            plain: |i| shares(&i[0]),
            inputs: vec![n(1.0, &[3, 40])?],
        },
        Pair {
            name: "swiglu",
            fused: |i| swiglu(&i[0], &i[1]),
            plain: |i| (&i[0] * i[0].sigmoid()?)? * &i[1],
            inputs: vec![n(1.0, &[3, 40])?, n(2.0, &[3, 40])?],
        },
        Pair {
            name: "rope",
            fused: |i| {
                let periods = Array::ones::<f32>(&[4])?;
                fast::rope(&i[0], 8, 2, RopeOptions::default().freqs(&periods))
            },
            plain: |i| turned(&i[0]),
            inputs: vec![n(1.0, &[2, 3, 5, 8])?],
        },
        Pair {
            name: "attention",
            fused: |i| attend(&i[0], &i[1], &i[2], 0.3, AttentionMask::Causal, None),
            plain: plain_attention,
            inputs: vec![
                n(1.0, &[2, 4, 5, 8])?,
                n(2.0, &[2, 2, 9, 8])?,
                n(3.0, &[2, 2, 9, 6])?,
            ],
        },
        Pair {
            name: "slice_update",
            fused: |i| slice_update(&i[0], &i[1], &[1, 2], &[3, 6]),
            plain: |i| {
                let room = mlx_core::ops::shape::pad(
                    &i[1],
                    &[(1, 1), (2, 1)],
                    &Array::scalar_dtype(0.0, Dtype::Float32)?,
                    mlx_core::ops::shape::PadMode::Constant,
                )?;
                let ones = Array::ones::<f32>(&[2, 4])?;
                let inside = slice_update(&Array::zeros::<f32>(&[4, 7])?, &ones, &[1, 2], &[3, 6])?;
                (&i[0] * (1.0f32 - inside)?)? + room
            },
            inputs: vec![n(1.0, &[4, 7])?, n(2.0, &[2, 4])?],
        },
    ])
}

#[test]
fn fused_operations_have_the_gradients_and_tangents_of_plain_ones() -> Result<()> {
    for pair in pairs()? {
        let Pair {
            name,
            fused,
            plain,
            inputs,
        } = pair;
        let list = |f: Function| move |i: &[Array]| Ok(vec![f(i)?]);
        let upstream = numbers(9.0, fused(&inputs)?.shape(), Dtype::Float32)?;
        let (out, ours) = vjp(list(fused), &inputs, std::slice::from_ref(&upstream))?;
        let (want_out, want) = vjp(list(plain), &inputs, std::slice::from_ref(&upstream))?;
        println!("{name}");
        assert_close(&out[0], &want_out[0], 1e-5)?;
        for (ours, want) in ours.iter().zip(&want) {
            assert_close(ours, want, 1e-5)?;
        }
        let tangents = inputs
            .iter()
            .map(|input| numbers(11.0, input.shape(), Dtype::Float32))
            .collect::<Result<Vec<_>>>()?;
        let (_, ours) = jvp(list(fused), &inputs, &tangents)?;
        let (_, want) = jvp(list(plain), &inputs, &tangents)?;
        assert_close(&ours[0], &want[0], 1e-5)?;

        // Second derivatives, of the last input.
        let last = i32::try_from(inputs.len()).unwrap() - 1;
        let second = |f: Function| -> Result<Array> {
            let first = grad(
                move |i: &[Array]| Ok(vec![f(i)?.square()?.sum(false)?]),
                &[last],
            )?;
            let twice = grad(
                move |i: &[Array]| Ok(vec![first(i)?[0].square()?.sum(false)?]),
                &[last],
            )?;
            Ok(twice(&inputs)?.remove(0))
        };
        assert_close(&second(fused)?, &second(plain)?, 1e-4)?;
    }
    Ok(())
}

#[test]
fn fused_operations_map_over_batches() -> Result<()> {
    for pair in pairs()? {
        let Pair {
            name,
            fused,
            inputs,
            ..
        } = pair;
        println!("{name}");
        if name == "slice_update" && !mlx_core::ffi::blas::enabled() {
            continue; // MLX's own forgets the mapped axis where the update has none.
        }
        let first = &inputs[0];
        let other = numbers(21.0, first.shape(), Dtype::Float32)?;
        let stacked = mlx_core::ops::shape::stack(&[first, &other], 1)?;
        let mut axes = vec![None; inputs.len()];
        axes[0] = Some(1);
        let mapped = vmap(move |i: &[Array]| Ok(vec![fused(i)?]), &axes, &[Some(0)])?;
        let mut all = inputs.clone();
        all[0] = stacked;
        let ours = mapped(&all)?.remove(0);
        let mut second = inputs.clone();
        second[0] = other;
        let want = mlx_core::ops::shape::stack(&[&fused(&inputs)?, &fused(&second)?], 0)?;
        assert_close(&ours, &want, 1e-5)?;
    }
    Ok(())
}

/// Functions of single elements, and the sums of MLX's single operations that they stand for.
#[test]
fn activations_have_gradients_tangents_and_batches() -> Result<()> {
    type Function = fn(&Array) -> Result<Array>;
    // Tangents by central differences of the function itself.
    let functions: [Function; 8] = [
        |x| x.exp(),
        |x| x.erf(),
        |x| x.tanh(),
        |x| x.sigmoid(),
        fast::silu,
        fast::gelu,
        fast::gelu_approx,
        fast::gelu_fast_approx,
    ];
    let x = (numbers(1.0, &[7, 33], Dtype::Float32)? * 3.0f32)?;
    let upstream = numbers(2.0, &[7, 33], Dtype::Float32)?;
    let step = 1e-2f32;
    for f in functions {
        let run = move |i: &[Array]| Ok(vec![f(&i[0])?]);
        let slope = ((f(&(&x + step)?)? - f(&(&x - step)?)?)? / (2.0 * step))?;
        let (_, gradient) = vjp(
            run,
            std::slice::from_ref(&x),
            std::slice::from_ref(&upstream),
        )?;
        let want = (&slope * &upstream)?;
        assert_close(&gradient[0], &want, 1e-3)?;
        let (_, tangent) = jvp(
            run,
            std::slice::from_ref(&x),
            std::slice::from_ref(&upstream),
        )?;
        assert_close(&tangent[0], &want, 1e-3)?;
        // Twice: the second derivative is that of the first one.
        let first = move |x: &Array| -> Result<Array> {
            let ones = Array::ones::<f32>(&[7, 33])?;
            Ok(vjp(run, std::slice::from_ref(x), &[ones])?.1.remove(0))
        };
        let bend = ((first(&(&x + step)?)? - first(&(&x - step)?)?)? / (2.0 * step))?;
        let twice = move |i: &[Array]| Ok(vec![first(&i[0])?]);
        let ones = Array::ones::<f32>(&[7, 33])?;
        let (_, second) = vjp(twice, std::slice::from_ref(&x), &[ones])?;
        assert_close(&second[0], &bend, 2e-3)?;
        let mapped = vmap(run, &[Some(1)], &[Some(0)])?;
        let want = f(&x)?.transpose()?;
        assert_close(&mapped(std::slice::from_ref(&x))?[0], &want, 1e-6)?;
    }
    Ok(())
}

#[test]
fn large_sums_and_products_have_gradients_and_batches() -> Result<()> {
    let a = numbers(1.0, &[40, 1000], Dtype::Float32)?;
    let b = (numbers(2.0, &[1000], Dtype::Float32)? + 2.0f32)?;
    let upstream = numbers(3.0, &[40, 1000], Dtype::Float32)?;
    let inputs = [a.clone(), b.clone()];
    let (_, sum) = vjp(
        |i| Ok(vec![(&i[0] + &i[1])?]),
        &inputs,
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&sum[0], &upstream, 0.0)?;
    assert_close(&sum[1], &upstream.sum_axes(&[0], false)?, 1e-5)?;
    let (_, product) = vjp(
        |i| Ok(vec![(&i[0] * &i[1])?]),
        &inputs,
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&product[0], &(&upstream * &b)?, 1e-6)?;
    assert_close(&product[1], &(&upstream * &a)?.sum_axes(&[0], false)?, 1e-5)?;
    let (_, quotient) = vjp(
        |i| Ok(vec![(&i[0] / &i[1])?]),
        &inputs,
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&quotient[0], &(&upstream / &b)?, 1e-6)?;
    let (_, difference) = vjp(
        |i| Ok(vec![(&i[1] - &i[0])?]),
        &inputs,
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&difference[0], &upstream.negative()?, 0.0)?;
    let mapped = vmap(|i| Ok(vec![(&i[0] * &i[1])?]), &[Some(0), None], &[Some(0)])?;
    assert_close(&mapped(&inputs)?[0], &(&a * &b)?, 0.0)?;
    Ok(())
}

/// A function traced with one shape and run with others.
#[test]
fn a_function_for_all_shapes_broadcasts_anew() -> Result<()> {
    let sum = compile(|i: &[Array]| Ok(vec![(&i[0] + &i[1])?]), true)?;
    let shapes: [[&[i32]; 2]; 4] = [
        [&[40, 1000], &[1000]],
        [&[3, 5], &[5]],
        [&[1, 4], &[4]],
        [&[50, 1], &[7]],
    ];
    for [a, b] in shapes {
        let inputs = [
            numbers(1.0, a, Dtype::Float32)?,
            numbers(2.0, b, Dtype::Float32)?,
        ];
        let want = numbers(1.0, a, Dtype::Float32)?.add(&numbers(2.0, b, Dtype::Float32)?)?;
        assert_close(&sum(&inputs)?[0], &want, 0.0)?;
    }
    Ok(())
}
