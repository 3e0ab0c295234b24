//! Hooks of custom functions that return what does not fit: errors, never foreign memory.

use std::cell::Cell;

use mlx_core::ops::shape::concatenate;
use mlx_core::{Array, Dtype, Error, Result, array};
use mlx_transforms::{
    CustomFunction, checkpoint, custom_function, custom_jvp, custom_vjp, custom_vmap, grad, jvp,
    vjp, vmap,
};

fn ones(dims: &[i32]) -> Array {
    Array::ones::<f32>(&dims).unwrap()
}

fn refused<T: std::fmt::Debug>(result: &Result<T>) {
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
}

#[test]
fn gradients_are_cast_to_the_dtype_of_their_inputs() -> Result<()> {
    for dtype in [Dtype::Bool, Dtype::Int8, Dtype::Float16, Dtype::Complex64] {
        let f = custom_vjp(
            |xs: &[Array]| Ok(vec![xs[0].square()?]),
            move |xs, _, _| Ok(vec![Array::ones_dtype(xs[0].shape(), dtype)?]),
        )?;
        // The first operation's own rule gets what the hook returned.
        let slope = grad(
            move |xs: &[Array]| {
                let both = concatenate(&[&xs[0], &xs[1]], 0)?;
                Ok(vec![f(&[both])?[0].sum(false)?])
            },
            &[0, 1],
        )?;
        let slopes = slope(&[ones(&[2]), ones(&[3])])?;
        assert_eq!(slopes[0].to_vec::<f32>()?, [1.0; 2], "{dtype:?}");
        assert_eq!(slopes[1].to_vec::<f32>()?, [1.0; 3], "{dtype:?}");
    }
    Ok(())
}

#[test]
fn gradients_must_have_the_shapes_of_their_inputs() -> Result<()> {
    type Wrong = fn(&[Array]) -> Vec<Array>;
    let wrong: [Wrong; 4] = [
        |_| Vec::new(),
        |xs| [xs, xs].concat(),
        |_| vec![array!(1.0).unwrap()],
        |_| vec![ones(&[3, 2])],
    ];
    for wrong in wrong {
        let f = custom_vjp(
            |xs: &[Array]| Ok(vec![xs[0].sum(false)?]),
            move |xs, _, _| Ok(wrong(xs)),
        )?;
        refused(&grad(f, &[0])?(&[ones(&[2, 3])]));
    }
    Ok(())
}

#[test]
fn tangents_must_have_the_forms_of_their_outputs() -> Result<()> {
    let wrong: [Vec<Array>; 5] = [
        Vec::new(),
        vec![ones(&[4]), ones(&[4])],
        vec![ones(&[3])],
        vec![array!(1.0)?],
        vec![ones(&[4]).astype(Dtype::Int8)?],
    ];
    for tangents in wrong {
        let f = custom_jvp(
            |xs: &[Array]| Ok(vec![xs[0].square()?]),
            move |_, _, _| Ok(tangents.clone()),
        )?;
        let after = move |xs: &[Array]| Ok(vec![f(xs)?[0].exp()?]);
        refused(&jvp(after, &[ones(&[4])], &[ones(&[4])]));
    }
    Ok(())
}

/// MLX keeps one hook for all calls that a graph holds, and each call may have other outputs.
#[test]
fn each_call_is_held_to_its_own_outputs() -> Result<()> {
    let twice = |extra: usize| {
        let f = custom_jvp(
            |xs: &[Array]| Ok(xs.to_vec()),
            move |_, tangents, _| Ok([tangents, &tangents[..extra]].concat()),
        )?;
        let sum = move |xs: &[Array]| {
            let one = f(&xs[..1])?;
            let two = f(xs)?;
            Ok(vec![((&one[0] + &two[0])? + &two[1])?])
        };
        let xs = [array!(1.0)?, array!(2.0)?];
        jvp(sum, &xs, &[array!(10.0)?, array!(100.0)?])
    };
    let (outputs, tangents) = twice(0)?;
    assert_eq!(outputs[0].item::<f32>()?, 4.0);
    assert_eq!(tangents[0].item::<f32>()?, 120.0);
    // Two tangents for the call with one output, as many as the last call had.
    refused(&twice(1));
    Ok(())
}

#[test]
fn mapped_results_must_have_the_forms_and_axes_of_their_outputs() -> Result<()> {
    // Two slices of [4].
    let wrong: [(Vec<Array>, Vec<Option<i32>>); 10] = [
        (vec![], vec![]),
        (vec![ones(&[2, 4])], vec![]),
        (vec![ones(&[2, 4]); 2], vec![Some(0); 2]),
        (vec![ones(&[2, 4])], vec![Some(1)]),
        (vec![ones(&[2, 4])], vec![Some(2)]),
        (vec![ones(&[2, 4])], vec![Some(-3)]),
        (vec![ones(&[2, 4])], vec![None]),
        (vec![ones(&[3, 4])], vec![Some(0)]),
        (vec![ones(&[2, 5])], vec![Some(0)]),
        (vec![ones(&[2, 4]).astype(Dtype::Bool)?], vec![Some(0)]),
    ];
    for (results, axes) in wrong {
        let f = custom_vmap(
            |xs: &[Array]| Ok(vec![xs[0].square()?]),
            move |_, _| Ok((results.clone(), axes.clone())),
        )?;
        let after = move |xs: &[Array]| Ok(vec![f(xs)?[0].exp()?]);
        refused(&vmap(after, &[Some(0)], &[Some(0)])?(&[ones(&[2, 4])]));
    }
    Ok(())
}

#[test]
fn mapped_results_may_lie_along_any_axis_or_none() -> Result<()> {
    let x = array!([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])?;
    for axis in [Some(1), Some(-1)] {
        let f = custom_vmap(
            |xs: &[Array]| Ok(vec![xs[0].clone()]),
            move |xs, _| Ok((vec![xs[0].transpose()?], vec![axis])),
        )?;
        let mapped = vmap(f, &[Some(0)], &[Some(0)])?(&[x.clone()])?;
        assert_eq!(mapped[0].to_vec::<f32>()?, x.to_vec::<f32>()?);
    }
    let f = custom_vmap(
        |xs: &[Array]| Ok(vec![xs[0].clone()]),
        |_, _| Ok((vec![array!([7.0, 8.0, 9.0])?], vec![None])),
    )?;
    let mapped = vmap(f, &[Some(0)], &[Some(0)])?(&[x])?;
    assert_eq!(mapped[0].shape(), [2, 3]);
    assert_eq!(mapped[0].to_vec::<f32>()?, [7.0, 8.0, 9.0, 7.0, 8.0, 9.0]);
    Ok(())
}

#[test]
fn mapped_arrays_that_a_function_captures_are_errors_of_its_hook() -> Result<()> {
    let outer = |xs: &[Array]| {
        let captured = xs[0].clone();
        let f = custom_vmap(
            move |ys: &[Array]| Ok(vec![(&ys[0] + &captured)?]),
            |ys, _| Ok((ys.to_vec(), vec![None])),
        )?;
        f(&[array!(1.0)?])
    };
    refused(&vmap(outer, &[Some(0)], &[Some(0)])?(&[ones(&[2])]));
    Ok(())
}

#[test]
fn panics_in_hooks_become_errors() -> Result<()> {
    let f = || CustomFunction::new(|xs: &[Array]| Ok(vec![xs[0].square()?]));
    let x = [ones(&[2])];
    let pulled = vjp(custom_function(f().vjp(|_, _, _| panic!("pull")))?, &x, &x);
    let pushed = jvp(custom_function(f().jvp(|_, _, _| panic!("push")))?, &x, &x);
    let mapped = custom_function(f().vmap(|_, _| panic!("map")))?;
    let mapped = vmap(mapped, &[Some(0)], &[Some(0)])?(&x);
    assert!(matches!(pulled, Err(Error::Panic(text)) if text == "pull"));
    assert!(matches!(pushed, Err(Error::Panic(text)) if text == "push"));
    assert!(matches!(mapped, Err(Error::Panic(text)) if text == "map"));
    Ok(())
}

#[test]
fn functions_without_outputs_are_errors() -> Result<()> {
    let x = [ones(&[2])];
    let none = |_: &[Array]| Ok(Vec::new());
    for result in [
        custom_vjp(none, |xs, _, _| Ok(xs.to_vec()))?(&x),
        custom_jvp(none, |_, _, _| Ok(Vec::new()))?(&x),
        custom_vmap(none, |_, _| Ok((Vec::new(), Vec::new())))?(&x),
        custom_function(CustomFunction::new(none))?(&x),
        checkpoint(none)?(&x),
        checkpoint(none)?(&[]),
    ] {
        assert!(matches!(result, Err(Error::EmptyInput(_))), "{result:?}");
    }
    Ok(())
}

/// A function that gives something else each time that it runs.
fn fickle(
    later: impl Fn(&Array) -> Result<Vec<Array>> + 'static,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    let first = Cell::new(true);
    move |xs: &[Array]| {
        let y = xs[0].square()?;
        if first.replace(false) {
            Ok(vec![y])
        } else {
            later(&y)
        }
    }
}

#[test]
fn functions_that_change_when_they_run_again_are_errors() -> Result<()> {
    type Later = fn(&Array) -> Result<Vec<Array>>;
    let others: [Later; 4] = [
        |_| Ok(Vec::new()),
        |y| Ok(vec![y.clone(), y.clone()]),
        |y| Ok(vec![y.sum(false)?]),
        |y| Ok(vec![y.astype(Dtype::Float16)?]),
    ];
    let x = [ones(&[3])];
    for later in others {
        // MLX makes the derivatives without a hook by running the function.
        let make = || {
            let function = CustomFunction::new(fickle(later));
            custom_function(function.vmap(|xs, axes| Ok((xs.to_vec(), axes.to_vec()))))
        };
        assert!(vjp(make()?, &x, &x).is_err());
        assert!(jvp(make()?, &x, &x).is_err());
        let kept = checkpoint(fickle(later))?;
        if let Ok((_, products)) = vjp(kept, &x, &x) {
            assert_eq!(products[0].shape(), [3]);
            products[0].eval()?;
        }
    }
    Ok(())
}
