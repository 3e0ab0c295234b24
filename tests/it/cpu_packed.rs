//! Derivatives and batches of products with packed matrices and with matrices chosen by index, and
//! of convolutions.

use mlx_core::ops::conv::{ConvOptions, conv2d};
use mlx_core::ops::indexing::take;
use mlx_core::ops::linalg_basic::gather_mm;
use mlx_core::ops::quantized::{
    GatherIndices, QuantizationLayout, QuantizationMode, dequantize, gather_qmm, quantize,
    quantized_matmul,
};
use mlx_core::{Array, Dtype, Result};
use mlx_transforms::{jvp, vjp, vmap};

use crate::cpu_kernels::{assert_close, numbers};

struct Packed {
    w: Array,
    s: Array,
    b: Option<Array>,
    /// The numbers that they stand for.
    plain: Array,
}

fn packed(layout: QuantizationLayout, shape: &[i32]) -> Result<Packed> {
    let q = quantize(&numbers(1.0, shape, Dtype::Float32)?, layout)?;
    let plain = dequantize(
        &q.weight,
        &q.scales,
        q.biases.as_ref(),
        layout,
        Some(Dtype::Float32),
    )?;
    Ok(Packed {
        w: q.weight,
        s: q.scales,
        b: q.biases,
        plain,
    })
}

fn layouts() -> [QuantizationLayout; 4] {
    [
        QuantizationLayout::affine(32, 4),
        QuantizationLayout::of(QuantizationMode::Mxfp4),
        QuantizationLayout::of(QuantizationMode::Mxfp8),
        QuantizationLayout::of(QuantizationMode::Nvfp4),
    ]
}

#[test]
fn gradients_pass_through_every_packing_and_direction() -> Result<()> {
    for layout in layouts() {
        for transpose in [true, false] {
            let p = packed(layout, &[64, 96])?;
            let x = numbers(2.0, &[5, if transpose { 96 } else { 64 }], Dtype::Float32)?;
            let upstream = numbers(3.0, &[5, if transpose { 64 } else { 96 }], Dtype::Float32)?;
            let plain = p.plain.clone();
            let product = move |i: &[Array]| {
                let y = quantized_matmul(&i[0], &p.w, &p.s, p.b.as_ref(), transpose, layout)?;
                Ok(vec![y])
            };
            let dense = if transpose { plain.transpose()? } else { plain };
            let inputs = std::slice::from_ref(&x);
            let (out, ours) = vjp(product.clone(), inputs, std::slice::from_ref(&upstream))?;
            assert_close(&out[0], &x.matmul(&dense)?, 1e-4)?;
            assert_close(&ours[0], &upstream.matmul(&dense.transpose()?)?, 1e-4)?;
            let tangent = numbers(5.0, x.shape(), Dtype::Float32)?;
            let (_, along) = jvp(product.clone(), inputs, std::slice::from_ref(&tangent))?;
            assert_close(&along[0], &tangent.matmul(&dense)?, 4e-4)?;
            let mapped = vmap(product, &[Some(1)], &[Some(0)])?;
            assert_close(&mapped(&[x.transpose()?])?[0], &x.matmul(&dense)?, 4e-4)?;
        }
    }
    Ok(())
}

#[test]
fn gradients_of_batches_sum_what_was_repeated() -> Result<()> {
    let layout = QuantizationLayout::of(QuantizationMode::Nvfp4);
    let p = packed(layout, &[3, 32, 64])?;
    let dense = p.plain.swapaxes(1, 2)?;
    let x = numbers(2.0, &[2, 1, 4, 64], Dtype::Float32)?;
    let upstream = numbers(3.0, &[2, 3, 4, 32], Dtype::Float32)?;
    let (_, ours) = vjp(
        move |i| {
            Ok(vec![quantized_matmul(
                &i[0],
                &p.w,
                &p.s,
                p.b.as_ref(),
                true,
                layout,
            )?])
        },
        std::slice::from_ref(&x),
        std::slice::from_ref(&upstream),
    )?;
    let (_, want) = vjp(
        move |i| Ok(vec![i[0].matmul(&dense)?]),
        std::slice::from_ref(&x),
        std::slice::from_ref(&upstream),
    )?;
    assert_close(&ours[0], &want[0], 1e-4)
}

/// Rows, upstream gradients and positions of one way to choose.
struct Choice {
    x: Array,
    lhs: Option<Array>,
    rhs: Option<Array>,
    upstream: Array,
}

fn choices(inner: i32, outer: i32) -> Result<Vec<Choice>> {
    let positions = |v: &[u32], shape: &[i32]| Array::from_slice(v, shape);
    let array = |seed, shape: &[i32]| numbers(seed, shape, Dtype::Float32);
    Ok(vec![
        Choice {
            x: array(2.0, &[3, 1, 1, inner])?,
            lhs: None,
            rhs: Some(positions(&[2, 0, 1, 1, 2, 0], &[3, 2])?),
            upstream: array(3.0, &[3, 2, 1, outer])?,
        },
        Choice {
            x: array(4.0, &[2, 4, inner])?,
            lhs: Some(positions(&[1, 0, 1], &[3])?),
            rhs: Some(positions(&[2, 2, 0], &[3])?),
            upstream: array(5.0, &[3, 4, outer])?,
        },
        Choice {
            x: array(6.0, &[2, 4, inner])?,
            lhs: Some(positions(&[1, 1, 0], &[3])?),
            rhs: None,
            upstream: array(7.0, &[3, 4, outer])?,
        },
    ])
}

/// The chosen products in plain operations: rows and matrices are taken first.
fn plain(x: &Array, dense: &Array, choice: &Choice) -> Result<Array> {
    let x = match &choice.lhs {
        Some(lhs) => take(x, lhs, 0)?,
        None => x.clone(),
    };
    let dense = match &choice.rhs {
        Some(rhs) => take(dense, rhs, 0)?,
        None => dense.clone(),
    };
    x.matmul(&dense)
}

#[test]
fn gradients_of_experts_equal_those_of_plain_products() -> Result<()> {
    for layout in layouts() {
        for transpose in [true, false] {
            let (inner, outer) = if transpose { (64, 32) } else { (32, 64) };
            for choice in choices(inner, outer)? {
                let p = packed(layout, &[3, 32, 64])?;
                let dense = if transpose {
                    p.plain.swapaxes(1, 2)?
                } else {
                    p.plain.clone()
                };
                let mut inputs = vec![choice.x.clone()];
                if let Some(b) = &p.b {
                    inputs.extend([p.s.clone(), b.clone()]);
                }
                let upstream = std::slice::from_ref(&choice.upstream).to_vec();
                let (lhs, rhs) = (choice.lhs.clone(), choice.rhs.clone());
                let (w, s) = (p.w.clone(), p.s.clone());
                let (out, ours) = vjp(
                    move |i| {
                        let indices = GatherIndices {
                            lhs: lhs.as_ref(),
                            rhs: rhs.as_ref(),
                            sorted: false,
                        };
                        let s = i.get(1).unwrap_or(&s);
                        let y = gather_qmm(&i[0], &w, s, i.get(2), indices, transpose, layout)?;
                        Ok(vec![y])
                    },
                    &inputs,
                    &upstream,
                )?;
                assert_close(&out[0], &plain(&choice.x, &dense, &choice)?, 1e-4)?;
                let (_, want) = vjp(
                    move |i| {
                        let dense = match (i.get(1), i.get(2)) {
                            (Some(s), Some(b)) => {
                                let plain = dequantize(&p.w, s, Some(b), layout, None)?;
                                if transpose {
                                    plain.swapaxes(1, 2)?
                                } else {
                                    plain
                                }
                            }
                            _ => dense.clone(),
                        };
                        Ok(vec![plain(&i[0], &dense, &choice)?])
                    },
                    &inputs,
                    &upstream,
                )?;
                assert_eq!(ours.len(), want.len());
                for (ours, want) in ours.iter().zip(&want) {
                    assert_close(ours, want, 1e-4)?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn gradients_of_dense_experts_equal_those_of_plain_products() -> Result<()> {
    for choice in choices(24, 10)? {
        let dense = numbers(8.0, &[3, 10, 24], Dtype::Float32)?.swapaxes(1, 2)?;
        let inputs = [choice.x.clone(), dense];
        let upstream = std::slice::from_ref(&choice.upstream).to_vec();
        let (lhs, rhs) = (choice.lhs.clone(), choice.rhs.clone());
        let (out, ours) = vjp(
            move |i| {
                Ok(vec![gather_mm(
                    &i[0],
                    &i[1],
                    lhs.as_ref(),
                    rhs.as_ref(),
                    false,
                )?])
            },
            &inputs,
            &upstream,
        )?;
        assert_close(&out[0], &plain(&inputs[0], &inputs[1], &choice)?, 1e-4)?;
        let (_, want) = vjp(
            move |i| Ok(vec![plain(&i[0], &i[1], &choice)?]),
            &inputs,
            &upstream,
        )?;
        for (ours, want) in ours.iter().zip(&want) {
            assert_close(ours, want, 1e-4)?;
        }
    }
    Ok(())
}

#[test]
fn gradients_pass_through_unpacking() -> Result<()> {
    let layout = QuantizationLayout::affine(32, 4);
    let p = packed(layout, &[4, 64])?;
    let upstream = numbers(2.0, &[4, 64], Dtype::Float32)?;
    let zeros = p.s.zeros_like()?;
    let codes = dequantize(&p.w, &p.s.ones_like()?, Some(&zeros), layout, None)?;
    let w = p.w.clone();
    let (_, ours) = vjp(
        move |i| Ok(vec![dequantize(&w, &i[0], Some(&i[1]), layout, None)?]),
        &[p.s, p.b.unwrap()],
        std::slice::from_ref(&upstream),
    )?;
    let groups = |a: &Array| a.reshape(&[4, 2, 32])?.sum_axes(&[-1], false);
    assert_close(&ours[0], &groups(&(&upstream * &codes)?)?, 2e-5)?;
    assert_close(&ours[1], &groups(&upstream)?, 2e-5)?;
    // A batch of rows' scales, each with the same codes.
    let w = p.w;
    let unpack = move |i: &[Array]| Ok(vec![dequantize(&w, &i[0], Some(&zeros), layout, None)?]);
    let many = numbers(4.0, &[3, 4, 2], Dtype::Float32)?;
    let mapped = vmap(unpack, &[Some(0)], &[Some(0)])?;
    let spread = many.repeat_axis(32, -1)?;
    assert_close(
        &mapped(std::slice::from_ref(&many))?[0],
        &(spread * codes)?,
        1e-6,
    )
}

#[test]
fn gradients_of_convolutions_are_their_transposes() -> Result<()> {
    for groups in [1, 6] {
        let options = ConvOptions::default()
            .stride([2, 1])
            .padding([1, 2])
            .groups(groups);
        let x = numbers(1.0, &[2, 9, 8, 6], Dtype::Float32)?;
        let w = numbers(2.0, &[12, 3, 3, 6 / groups], Dtype::Float32)?;
        let convolve = move |i: &[Array]| Ok(vec![conv2d(&i[0], &i[1], options)?]);
        let plain = conv2d(&x, &w, options)?;
        let upstream = numbers(3.0, plain.shape(), Dtype::Float32)?;
        let inputs = [x.clone(), w.clone()];
        let (out, gradients) = vjp(convolve, &inputs, std::slice::from_ref(&upstream))?;
        assert_close(&out[0], &plain, 1e-6)?;
        // A convolution is linear in both operands.
        let total = |a: &Array, b: &Array| (a * b)?.sum(false);
        let other = [
            numbers(4.0, x.shape(), Dtype::Float32)?,
            numbers(5.0, w.shape(), Dtype::Float32)?,
        ];
        let along = total(&upstream, &conv2d(&other[0], &w, options)?)?;
        assert_close(&total(&gradients[0], &other[0])?, &along, 1e-4)?;
        let along = total(&upstream, &conv2d(&x, &other[1], options)?)?;
        assert_close(&total(&gradients[1], &other[1])?, &along, 1e-4)?;
        // A batch of inputs along a new axis.
        let mapped = vmap(convolve, &[Some(0), None], &[Some(0)])?;
        let many = numbers(6.0, &[3, 2, 9, 8, 6], Dtype::Float32)?;
        let got = mapped(&[many.clone(), w.clone()])?;
        for i in 0..3 {
            let alone = conv2d(&many.index(i)?, &w, options)?;
            assert_close(&got[0].index(i)?, &alone, 1e-5)?;
        }
    }
    Ok(())
}
