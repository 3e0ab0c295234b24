//! Axes of inputs and outputs, and structures of both. The expected values are those of a loop.

use std::collections::BTreeMap;

use mlx_core::ops::arithmetic::divmod;
use mlx_core::ops::conv::{ConvOptions, conv1d};
use mlx_core::ops::indexing::{masked_scatter, scatter_add};
use mlx_core::ops::random;
use mlx_core::ops::reduction::ScanOptions;
use mlx_core::{Array, Error, Result, array};
use mlx_transforms::{Axes, checkpoint, custom_vjp, grad, value_and_grad, vmap, vmap_tree};

#[test]
fn every_pair_of_axes_equals_a_loop() -> Result<()> {
    let x = Array::arange::<f32>(0.0, 24.0, 1.0)?.reshape(&[2, 3, 4])?;
    let f = |xs: &[Array]| Ok(vec![xs[0].cumsum(0, ScanOptions::default())?]);
    for in_axis in -3..3 {
        let slices: Vec<Array> = x.iter_axis(in_axis)?.collect::<Result<_>>()?;
        let results: Vec<Array> = slices
            .iter()
            .map(|slice| Ok(f(std::slice::from_ref(slice))?.remove(0)))
            .collect::<Result<_>>()?;
        for out_axis in -3..3 {
            let expected =
                mlx_core::ops::shape::stack(&results.iter().collect::<Vec<_>>(), out_axis)?;
            let mapped = vmap(f, &[Some(in_axis)], &[Some(out_axis)])?;
            let result = mapped(&[x.clone()])?.remove(0);
            assert_eq!(result.shape(), expected.shape(), "{in_axis} to {out_axis}");
            assert_eq!(result.to_vec::<f32>()?, expected.to_vec::<f32>()?);
        }
        assert!(vmap(f, &[Some(in_axis)], &[Some(3)])?(&[x.clone()]).is_err());
    }
    Ok(())
}

#[test]
fn outputs_that_are_the_same_for_all_come_once() -> Result<()> {
    let f = vmap(
        |xs: &[Array]| Ok(vec![xs[1].square()?, (&xs[0] + &xs[1])?, xs[1].clone()]),
        &[Some(0), None],
        &[None, Some(0), Some(0)],
    )?;
    let out = f(&[array!([1.0, 2.0])?, array!(3.0)?])?;
    assert_eq!(out[0].item::<f32>()?, 9.0);
    assert_eq!(out[1].to_vec::<f32>()?, [4.0, 5.0]);
    assert_eq!(out[2].to_vec::<f32>()?, [3.0, 3.0]);
    // One that is not the same for all is an error when it is read, as documented.
    let f = vmap(|xs: &[Array]| Ok(vec![xs[0].exp()?]), &[Some(0)], &[None])?;
    assert!(f(&[array!([1.0, 2.0])?])?[0].eval().is_err());
    Ok(())
}

#[test]
fn maps_nest_and_recover_from_errors() -> Result<()> {
    let dot = |xs: &[Array]| Ok(vec![xs[0].inner(&xs[1])?]);
    let rows = vmap(dot, &[None, Some(0)], &[Some(0)])?;
    let pairs = vmap(rows, &[Some(0), None], &[Some(0)])?;
    let a = Array::arange::<f32>(0.0, 6.0, 1.0)?.reshape(&[2, 3])?;
    let b = Array::arange::<f32>(0.0, 12.0, 1.0)?.reshape(&[4, 3])?;
    let expected = a.matmul(&b.transpose()?)?.to_vec::<f32>()?;
    assert_eq!(
        pairs(&[a.clone(), b.clone()])?[0].to_vec::<f32>()?,
        expected
    );
    assert!(pairs(&[a.clone(), array!([[1.0]])?]).is_err());
    assert!(pairs(&[a.clone()]).is_err());
    assert_eq!(pairs(&[a, b])?[0].to_vec::<f32>()?, expected);
    assert!(matches!(
        vmap(dot, &[None, None], &[Some(0)]),
        Err(Error::EmptyInput(_))
    ));
    let wrong = vmap(dot, &[Some(0), Some(0)], &[Some(0), Some(0)])?;
    assert!(matches!(
        wrong(&[array!([1.0])?, array!([1.0])?]),
        Err(Error::Shape { .. })
    ));
    Ok(())
}

/// The rules of convolutions, random bits and masked scatters divide by the number of slices.
#[test]
fn axes_of_size_zero_are_errors() -> Result<()> {
    let conv = vmap(
        |xs: &[Array]| Ok(vec![conv1d(&xs[0], &xs[1], ConvOptions::default())?]),
        &[Some(0), Some(0)],
        &[Some(0)],
    )?;
    let inputs = |n: i32| -> Result<[Array; 2]> {
        Ok([
            Array::ones::<f32>(&[n, 1, 5, 2])?,
            Array::ones::<f32>(&[n, 3, 2, 2])?,
        ])
    };
    assert_eq!(conv(&inputs(1)?)?[0].shape(), [1, 1, 4, 3]);
    assert!(matches!(conv(&inputs(0)?), Err(Error::Shape { .. })));
    let bits = vmap(
        |xs: &[Array]| Ok(vec![random::bits(&[4], 4, Some(&xs[0]))?]),
        &[Some(0)],
        &[Some(0)],
    )?;
    let keys = Array::zeros::<u32>(&[0, 2])?;
    assert!(matches!(bits(&[keys]), Err(Error::Shape { .. })));
    let scatter = vmap(
        |xs: &[Array]| Ok(vec![masked_scatter(&xs[0], &xs[1], &xs[2])?]),
        &[Some(1), Some(1), Some(1)],
        &[Some(0)],
    )?;
    let (a, mask) = (
        Array::zeros::<f32>(&[3, 0])?,
        Array::zeros::<bool>(&[3, 0])?,
    );
    assert!(matches!(
        scatter(&[a.clone(), mask, a]),
        Err(Error::Shape { .. })
    ));
    Ok(())
}

/// MLX's rule for scatters confuses the axes of slices unless they are the first; its kernel then
/// writes outside the array.
#[test]
fn scatters_map_along_any_axes() -> Result<()> {
    let target = Array::arange::<f32>(0.0, 24.0, 1.0)?.reshape(&[4, 6])?;
    let index = array!([2, 0, 3])?;
    let updates = Array::arange::<f32>(100.0, 130.0, 1.0)?.reshape(&[3, 2, 5])?;
    let f = |xs: &[Array]| Ok(vec![scatter_add(&xs[0], &[&xs[1]], &xs[2], &[0])?]);
    let wanted = f(&[target.clone(), index.clone(), updates.clone()])?[0].to_vec::<f32>()?;
    for (a, b, c) in [(0, 0, 0), (2, 1, 3), (1, 0, 2), (0, 1, 1), (2, 0, 0)] {
        let twice = |x: &Array, axis| mlx_core::ops::shape::stack(&[x, x], axis);
        let inputs = [twice(&target, a)?, twice(&index, b)?, twice(&updates, c)?];
        let mapped = vmap(f, &[Some(a), Some(b), Some(c)], &[Some(0)])?;
        let found = mapped(&inputs)?[0].to_vec::<f32>()?;
        assert_eq!(
            found,
            [wanted.clone(), wanted.clone()].concat(),
            "{a} {b} {c}"
        );
        // One target, and one list of updates, for all.
        let mapped = vmap(f, &[None, Some(b), Some(c)], &[Some(0)])?;
        let some = [target.clone(), inputs[1].clone(), inputs[2].clone()];
        assert_eq!(mapped(&some)?[0].to_vec::<f32>()?, found);
        let mapped = vmap(f, &[Some(a), None, None], &[Some(0)])?;
        let some = [inputs[0].clone(), index.clone(), updates.clone()];
        assert_eq!(mapped(&some)?[0].to_vec::<f32>()?, found);
    }
    Ok(())
}

/// MLX's rule gives two results and one axis.
#[test]
fn both_results_of_a_division_are_mapped() -> Result<()> {
    let f = |xs: &[Array]| {
        let (quotient, rest) = divmod(&xs[0], &xs[1])?;
        Ok(vec![quotient, rest])
    };
    let a = array!([[7, 8], [9, 10], [11, 12]])?;
    // Integers are divided by what is known.
    let b = array!([4, 5])?;
    let mapped = vmap(f, &[Some(0), None], &[Some(0), Some(-1)])?(&[a, b])?;
    assert_eq!(mapped[0].to_vec::<i32>()?, [1, 1, 2, 2, 2, 2]);
    assert_eq!(mapped[1].to_vec::<i32>()?, [3, 1, 3, 3, 0, 2]);
    Ok(())
}

/// The vectorisation of functions that bring none is the same.
#[test]
fn custom_functions_and_checkpoints_map_like_others() -> Result<()> {
    let x = Array::arange::<f32>(0.0, 6.0, 1.0)?.reshape(&[2, 3])?;
    let f = |xs: &[Array]| Ok(vec![xs[0].cumsum(0, ScanOptions::default())?, array!(5.0)?]);
    let custom = custom_vjp(f, |_, _, _| Ok(Vec::new()))?;
    let outs = [
        vmap(custom, &[Some(1)], &[Some(0), Some(0)])?(&[x.clone()])?,
        vmap(checkpoint(f)?, &[Some(1)], &[Some(0), Some(0)])?(&[x])?,
    ];
    for out in outs {
        assert_eq!(out[0].to_vec::<f32>()?, [0.0, 3.0, 1.0, 5.0, 2.0, 7.0]);
        assert_eq!(out[1].to_vec::<f32>()?, [5.0; 3]);
    }
    Ok(())
}

#[test]
fn gradients_of_each_sample() -> Result<()> {
    // Loss of one sample: (w · x - y)², whose gradient is 2 (w · x - y) x.
    let loss = |xs: &[Array]| Ok(vec![(xs[0].inner(&xs[1])? - &xs[2])?.square()?]);
    let each = vmap(grad(loss, &[0])?, &[None, Some(0), Some(0)], &[Some(0)])?;
    let w = array!([1.0, -1.0])?;
    let x = array!([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])?;
    let y = array!([0.0, 1.0, 2.0])?;
    let grads = each(&[w.clone(), x.clone(), y.clone()])?;
    assert_eq!(
        grads[0].to_vec::<f32>()?,
        [-2.0, -4.0, -12.0, -16.0, 0.0, -6.0]
    );
    // Their sum is the gradient of the sum.
    let total = value_and_grad(
        |xs: &[Array]| {
            Ok(vec![
                (xs[1].matmul(&xs[0])? - &xs[2])?.square()?.sum(false)?,
            ])
        },
        &[0],
    )?;
    let (_, whole) = total(&[w, x, y])?;
    assert_eq!(
        grads[0].sum_axes(&[0], false)?.to_vec::<f32>()?,
        whole[0].to_vec::<f32>()?
    );
    Ok(())
}

type Layers = BTreeMap<String, (Array, Option<Array>)>;

#[test]
fn structures_map_as_their_axes_say() -> Result<()> {
    let layers = |n: i32| -> Result<Layers> {
        Ok(BTreeMap::from([
            (
                "a".to_owned(),
                (
                    Array::ones::<f32>(&[n, 2])?,
                    Some(Array::ones::<f32>(&[n])?),
                ),
            ),
            ("b".to_owned(), (Array::full::<f32>(&[n, 2], 3.0)?, None)),
        ]))
    };
    let f = vmap_tree(
        |(layers, x): &(Layers, Array)| {
            let mut outputs = Vec::new();
            for (weight, bias) in layers.values() {
                let y = (weight * x)?.sum(false)?;
                outputs.push(match bias {
                    Some(bias) => (y + bias)?,
                    None => y,
                });
            }
            Ok([outputs, vec![x.clone()]])
        },
        // All layers along their first axis, one `x` for all.
        [Axes::from(0), Axes::from(None)],
        [Axes::from(0), Axes::from(None)],
    )?;
    let x = array!([1.0, 10.0])?;
    let [sums, same] = f(&(layers(3)?, x.clone()))?;
    assert_eq!(sums[0].to_vec::<f32>()?, [12.0; 3]);
    assert_eq!(sums[1].to_vec::<f32>()?, [33.0; 3]);
    assert_eq!(same[0].to_vec::<f32>()?, [1.0, 10.0]);
    // Another number of slices next time.
    assert_eq!(f(&(layers(5)?, x.clone()))?[0][0].shape(), [5]);
    let wrong = vmap_tree(|x: &Vec<Array>| Ok(x.clone()), [0, 0, 0], 0)?;
    assert!(matches!(wrong(&vec![x.clone()]), Err(Error::Shape { .. })));
    let none = vmap_tree(|x: &Array| Ok(x.clone()), None, 0)?;
    assert!(matches!(none(&x), Err(Error::EmptyInput(_))));
    let fails = vmap_tree(
        |_: &Array| -> Result<Array> { Err(Error::Backend("no".to_owned())) },
        0,
        0,
    )?;
    assert_eq!(fails(&x).unwrap_err().to_string(), "no");
    Ok(())
}
