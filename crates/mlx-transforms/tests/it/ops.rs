//! Derivatives and batches of operations whose own in MLX leave their arrays.

use std::array::from_ref;

use mlx_core::ops::indexing::{gather, masked_scatter, scatter, scatter_add, take};
use mlx_core::ops::random;
use mlx_core::ops::shape::broadcast_to;
use mlx_core::{Array, Dtype, Result, array};
use mlx_transforms::{grad, jvp, vjp, vmap};

fn ramp(n: i32) -> Result<Array> {
    Array::arange::<f32>(0.0, f64::from(n), 1.0)
}

/// MLX's gradient writes behind the source for each place after its last element.
#[test]
fn gradients_of_masked_scatters_stay_inside() -> Result<()> {
    let mask = array!([true, false, true, false, false])?;
    let slope = grad(
        move |xs: &[Array]| {
            let y = masked_scatter(&xs[0], &mask, &xs[1])?;
            Ok(vec![(y * ramp(5))?.sum(false)?])
        },
        &[0, 1],
    )?;
    let slopes = slope(&[ramp(5)?, array!([7.0, 8.0])?])?;
    assert_eq!(slopes[0].to_vec::<f32>()?, [0.0, 1.0, 0.0, 3.0, 4.0]);
    assert_eq!(slopes[1].to_vec::<f32>()?, [0.0, 2.0]);
    // A source that is longer than needed, and rows that serve every place.
    let mask = array!([false, true])?;
    let slope = grad(
        move |xs: &[Array]| {
            let each = masked_scatter(&xs[0], &mask, &xs[1])?.sum(false)?;
            Ok(vec![
                (each + masked_scatter(&xs[0], &mask, &xs[2])?.sum(false)?)?,
            ])
        },
        &[1, 2],
    )?;
    let a = ramp(6)?.reshape(&[2, 3])?;
    let slopes = slope(&[a.clone(), a, array!(1.0)?])?;
    assert_eq!(slopes[0].to_vec::<f32>()?, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    assert_eq!(slopes[1].item::<f32>()?, 3.0);
    Ok(())
}

#[test]
fn gradients_of_masks_that_ask_for_too_much_stay_inside() -> Result<()> {
    // Within a trace the mask is not computed, so it is limited rather than refused.
    let slope = grad(
        |xs: &[Array]| {
            let mask = xs[0].less(&array!(2000.0)?)?;
            Ok(vec![masked_scatter(&xs[0], &mask, &xs[1])?.sum(false)?])
        },
        &[1],
    )?;
    let slopes = slope(&[ramp(1000)?, array!([1.0])?])?;
    assert_eq!(slopes[0].to_vec::<f32>()?, [1000.0]);
    Ok(())
}

#[test]
fn masked_scatters_have_tangents_and_batches() -> Result<()> {
    let mask = array!([true, false, true])?;
    let (one, two) = (array!([1.0, 1.0, 1.0])?, array!([5.0, 6.0])?);
    let f = move |xs: &[Array]| Ok(vec![masked_scatter(&xs[0], &mask, &xs[1])?]);
    let (_, tangents) = jvp(f.clone(), &[ramp(3)?, two.clone()], &[one, two])?;
    assert_eq!(tangents[0].to_vec::<f32>()?, [5.0, 1.0, 6.0]);
    let batched = vmap(f, &[Some(0), Some(1)], &[Some(0)])?;
    let y = batched(&[ramp(6)?.reshape(&[2, 3])?, ramp(4)?.reshape(&[2, 2])?])?;
    assert_eq!(y[0].to_vec::<f32>()?, [0.0, 1.0, 2.0, 1.0, 4.0, 3.0]);
    Ok(())
}

/// MLX numbers the batch in the dtype of the indices: the 256th would be the first again.
#[test]
fn long_batches_of_narrow_indices_keep_apart() -> Result<()> {
    const N: i32 = 300;
    let rows = ramp(2 * N)?.reshape(&[N, 2])?;
    for dtype in [Dtype::Uint8, Dtype::Int8] {
        let index = Array::zeros_dtype(&[N, 1], dtype)?;
        let first = vmap(
            |xs: &[Array]| Ok(vec![take(&xs[0], &xs[1], 0)?]),
            &[Some(0), Some(0)],
            &[Some(0)],
        )?;
        let y = first(&[rows.clone(), index.clone()])?;
        let wanted: Vec<f32> = (0..N).map(|i| 2.0 * i as f32).collect();
        assert_eq!(y[0].to_vec::<f32>()?, wanted, "{dtype}");
        let write = vmap(
            |xs: &[Array]| {
                let update = Array::full::<f32>(&[1, 1], 9.0)?;
                Ok(vec![scatter(&xs[0], &[&xs[1]], &update, &[0])?])
            },
            &[Some(0), Some(0)],
            &[Some(0)],
        )?;
        let y = write(&[rows.clone(), index])?;
        let firsts = take(&y[0], &array!([0])?, 1)?;
        assert_eq!(firsts.to_vec::<f32>()?, [9.0; N as usize], "{dtype}");
    }
    Ok(())
}

/// MLX's batched scatter takes the second operand for an index array, also where there is none.
#[test]
fn batches_without_indices_read_no_update_as_one() -> Result<()> {
    let a = ramp(12)?.reshape(&[3, 4])?;
    let updates = array!([[100.0, 200.0], [300.0, 400.0], [500.0, 600.0]])?;
    let add = vmap(
        |xs: &[Array]| Ok(vec![scatter_add(&xs[0], &[], &xs[1], &[])?]),
        &[Some(0), Some(0)],
        &[Some(0)],
    )?;
    let y = add(&[a.clone(), updates])?;
    let sums = y[0].to_vec::<f32>()?;
    assert_eq!(sums[..6], [100.0, 201.0, 2.0, 3.0, 304.0, 405.0]);
    let slope = grad(
        |xs: &[Array]| Ok(vec![gather(&xs[0], &[], &[], &[2])?.sum(false)?]),
        &[0],
    )?;
    let y = vmap(slope, &[Some(0)], &[Some(0)])?(from_ref(&a))?;
    let slopes = y[0].to_vec::<f32>()?;
    assert_eq!(slopes[..8], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    let scalars = vmap(
        |xs: &[Array]| Ok(vec![scatter_add(&xs[0], &[], &xs[0], &[])?]),
        &[Some(0)],
        &[Some(0)],
    )?;
    assert_eq!(scalars(&[ramp(3)?])?[0].to_vec::<f32>()?, [0.0, 2.0, 4.0]);
    Ok(())
}

/// The gradient of a broadcast is a sum, which MLX records by itself.
#[test]
fn gradients_of_empty_broadcasts_read_nothing() -> Result<()> {
    let wide = |xs: &[Array]| Ok(vec![broadcast_to(&xs[0], &[0, 3])?.transpose()?]);
    let (x, cotangent) = (Array::ones::<f32>(&[1, 3])?, Array::zeros::<f32>(&[3, 0])?);
    let (_, slopes) = vjp(wide, &[x.clone()], &[cotangent.clone()])?;
    assert_eq!(slopes[0].to_vec::<f32>()?, [0.0; 3]);
    let implied = |xs: &[Array]| Ok(vec![(&xs[0] + Array::zeros::<f32>(&[0, 3]))?.transpose()?]);
    let (_, slopes) = vjp(implied, &[x], &[cotangent])?;
    assert_eq!(slopes[0].to_vec::<f32>()?, [0.0; 3]);
    Ok(())
}

/// MLX's scatter divides by the size of its slices, and is the gradient of what takes them.
#[test]
fn gradients_of_taking_empty_slices_are_empty() -> Result<()> {
    let empty = Array::zeros::<f32>(&[2, 3, 0])?;
    let key = random::key(1)?;
    let shuffled = grad(
        move |xs: &[Array]| {
            Ok(vec![
                random::permutation(&xs[0], 1, Some(&key))?.sum(false)?,
            ])
        },
        &[0],
    )?;
    let taken = grad(
        |xs: &[Array]| Ok(vec![take(&xs[0], &array!([1, 0, 1])?, 0)?.sum(false)?]),
        &[0],
    )?;
    for slope in [&shuffled as &dyn Fn(&[Array]) -> Result<Vec<Array>>, &taken] {
        let slopes = slope(from_ref(&empty))?;
        assert_eq!(slopes[0].shape(), [2, 3, 0]);
        assert!(slopes[0].to_vec::<f32>()?.is_empty());
    }
    Ok(())
}
