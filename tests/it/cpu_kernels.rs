//! Derivatives and batches of the operations that have CPU kernels of our own.

use mlx_core::ops::linalg_basic::addmm;
use mlx_core::ops::quantized::{QuantizationLayout, dequantize, quantize, quantized_matmul};
use mlx_core::{Array, Dtype, Result};
use mlx_transforms::{jvp, vjp, vmap};

/// Numbers in −1..1 without a pattern that a wrong layout could keep.
fn numbers(seed: f32, shape: &[i32], dtype: Dtype) -> Result<Array> {
    let count: i32 = shape.iter().product();
    ((Array::arange::<f32>(0.0, f64::from(count), 1.0)? * 12.9898f32)? + seed)?
        .sin()?
        .reshape(shape)?
        .astype(dtype)
}

fn assert_close(got: &Array, want: &Array, tolerance: f32) -> Result<()> {
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
    assert_close(&along[0], &tangent.matmul(&plain.transpose()?)?, 2e-5)?;

    let mapped = vmap(product, &[Some(1)], &[Some(0)])?;
    assert_close(&mapped(&[x])?[0], &rows.matmul(&plain.transpose()?)?, 2e-5)
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
