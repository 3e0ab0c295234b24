//! What transforms could do to memory or to each other, and do not.

use std::cell::RefCell;
use std::rc::Rc;
use std::slice::from_ref;

use mlx_core::ops::indexing::{put_along_axis, take, take_along_axis};
use mlx_core::ops::reduction::{ScanOptions, cummax, cummin};
use mlx_core::{Array, Error};
use mlx_transforms::{async_eval, compile, grad, vjp, vmap};

fn floats(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len()]).unwrap()
}

/// Indices that are not computed yet.
fn lazy(values: &[i32]) -> Array {
    (&Array::from_slice(values, &[values.len()]).unwrap() + 0).unwrap()
}

#[test]
fn gradients_of_limited_indices_stay_inside() {
    let slope = grad(
        |xs: &[Array]| Ok(vec![take(&xs[0], &lazy(&[1, 99, -99]), 0)?.sum(false)?]),
        &[0],
    )
    .unwrap();
    let slopes = slope(&[floats(&[1.0, 2.0, 3.0])]).unwrap();
    assert_eq!(slopes[0].to_vec::<f32>().unwrap(), [1.0, 1.0, 1.0]);
    let slope = grad(
        |xs: &[Array]| {
            let gathered = take_along_axis(&xs[0], &lazy(&[7, 0]), 0)?;
            let written = put_along_axis(&xs[0], &lazy(&[-9]), &xs[1], 0)?;
            Ok(vec![(gathered.sum(false)? + written.sum(false)?)?])
        },
        &[0, 1],
    )
    .unwrap();
    let slopes = slope(&[floats(&[1.0, 2.0, 3.0]), floats(&[5.0])]).unwrap();
    assert_eq!(slopes[0].to_vec::<f32>().unwrap(), [1.0, 1.0, 2.0]);
    assert_eq!(slopes[1].to_vec::<f32>().unwrap(), [1.0]);
}

/// MLX looks for the element that equals the extreme, which no NaN does.
#[test]
fn gradients_of_running_extremes_stay_inside() {
    let values = floats(&[f32::NAN, 2.0, 1.0, f32::NAN, 3.0]);
    for inclusive in [true, false] {
        let options = ScanOptions::default().inclusive(inclusive);
        let slope = grad(
            move |xs: &[Array]| {
                let both = (cummax(&xs[0], 0, options)? + cummin(&xs[0], 0, options)?)?;
                Ok(vec![
                    both.nan_to_num(0.0, Some(0.0), Some(0.0))?.sum(false)?,
                ])
            },
            &[0],
        )
        .unwrap();
        let slopes = slope(from_ref(&values)).unwrap()[0].to_vec::<f32>();
        assert!(slopes.unwrap().iter().all(|slope| slope.abs() < 10.0));
        let sound = slope(&[floats(&[1.0, 3.0, 2.0])]).unwrap();
        let wanted = if inclusive {
            [4.0, 2.0, 0.0]
        } else {
            [3.0, 1.0, 0.0]
        };
        assert_eq!(sound[0].to_vec::<f32>().unwrap(), wanted);
    }
}

#[test]
fn placeholders_that_leak_from_a_trace_are_errors() {
    let leaked: Rc<RefCell<Vec<Array>>> = Rc::default();
    let keep = |leaked: &Rc<RefCell<Vec<Array>>>| {
        let leaked = Rc::clone(leaked);
        move |xs: &[Array]| {
            leaked.borrow_mut().push(xs[0].clone());
            Ok(vec![(&xs[0] * 2.0)?])
        }
    };
    let x = floats(&[1.0, 2.0]);
    let compiled = compile(keep(&leaked), false).unwrap();
    compiled(from_ref(&x)).unwrap()[0].eval().unwrap();
    let mapped = vmap(keep(&leaked), &[Some(0)], &[Some(0)]).unwrap();
    mapped(&[x]).unwrap()[0].eval().unwrap();
    for array in leaked.borrow().iter() {
        // One that MLX made of real data may be read; none may hand out memory that is not there.
        match array.to_vec::<f32>() {
            Ok(values) => assert_eq!(values.len(), array.size()),
            Err(error) => assert!(
                matches!(error, Error::Backend(_) | Error::Op { .. }),
                "{error:?}"
            ),
        }
        let _ = async_eval(&[array]);
        let _ = (array + array).unwrap().eval();
    }
}

#[test]
fn evaluating_inside_a_trace_is_an_error_where_nothing_has_a_value() {
    let reads = |xs: &[Array]| {
        xs[0].eval()?;
        Ok(vec![xs[0].clone()])
    };
    let x = floats(&[1.0, 2.0]);
    assert!(vmap(reads, &[Some(0)], &[Some(0)]).unwrap()(from_ref(&x)).is_err());
    assert!(compile(reads, false).unwrap()(from_ref(&x)).is_err());
    // Under a gradient every array has its value.
    let slope = grad(
        |xs: &[Array]| {
            let total = xs[0].sum(false)?;
            assert_eq!(total.item::<f32>()?, 3.0);
            Ok(vec![total])
        },
        &[0],
    )
    .unwrap();
    assert_eq!(slope(&[x]).unwrap()[0].to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn compiled_functions_never_return_anothers_result() {
    // MLX keys its cache by a number; a shape of its own tells each function's result from others'.
    let x = floats(&[1.0]);
    for size in 1..200 {
        let function = compile(
            move |xs: &[Array]| Ok(vec![xs[0].broadcast_to(&[size])?]),
            false,
        )
        .unwrap();
        for _ in 0..2 {
            assert_eq!(function(from_ref(&x)).unwrap()[0].shape(), [size]);
        }
    }
    let doubled = compile(|xs: &[Array]| Ok(vec![(&xs[0] * 2.0)?]), false).unwrap();
    assert_eq!(doubled(&[x]).unwrap()[0].item::<f32>().unwrap(), 2.0);
}

#[test]
fn surplus_cotangents_and_empty_outputs_are_errors() {
    let x = floats(&[1.0]);
    let one = floats(&[1.0]);
    let identity = |xs: &[Array]| Ok(vec![xs[0].clone()]);
    assert!(vjp(identity, from_ref(&x), &[one.clone(), one]).is_err());
    assert!(grad(|_: &[Array]| Ok(vec![]), &[0]).unwrap()(&[x]).is_err());
}
