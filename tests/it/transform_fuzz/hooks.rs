//! Custom functions around the calls, with hooks that return what does not fit.

use std::cell::Cell;

use mlx_core::ops::indexing::slice;
use mlx_core::ops::shape::{concatenate, expand_dims};
use mlx_core::{Array, Dtype, Error, Result};
use mlx_transforms::{
    CustomFunction, checkpoint, custom_function, custom_jvp, custom_vjp, custom_vmap, jvp,
    value_and_grad,
};

use super::hostile::Rng;
use super::{Call, ones_like, total};

/// How a list of results differs from what it should be.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Empty,
    Fewer,
    More,
    Dtype(usize, Dtype),
    Flat(usize),
    Shorter(usize),
    Longer(usize),
    Deeper(usize),
    Scalar(usize),
    Fails,
}

impl Fault {
    fn pick(rng: &mut Rng) -> Self {
        let place = rng.below(4);
        let dtype = rng.pick(&Dtype::ALL);
        rng.pick(&[
            Fault::Nothing,
            Fault::Nothing,
            Fault::Empty,
            Fault::Fewer,
            Fault::More,
            Fault::Dtype(place, dtype),
            Fault::Dtype(place, dtype),
            Fault::Flat(place),
            Fault::Shorter(place),
            Fault::Longer(place),
            Fault::Deeper(place),
            Fault::Scalar(place),
            Fault::Fails,
        ])
    }

    fn apply(self, mut results: Vec<Array>) -> Result<Vec<Array>> {
        match self {
            Fault::Nothing => {}
            Fault::Empty => results.clear(),
            Fault::Fewer => drop(results.pop()),
            Fault::More => results.push(Array::scalar(1.0f32)?),
            Fault::Fails => return Err(Error::Backend("the hook fails".to_owned())),
            Fault::Dtype(place, dtype) => change(&mut results, place, |a| a.astype(dtype))?,
            Fault::Flat(place) => change(&mut results, place, |a| a.reshape(&[-1]))?,
            Fault::Deeper(place) => change(&mut results, place, |a| expand_dims(a, &[0]))?,
            Fault::Scalar(place) => change(&mut results, place, |a| {
                Array::zeros_dtype(&[0i32; 0], a.dtype())
            })?,
            Fault::Longer(place) => change(&mut results, place, |a| concatenate(&[a, a], -1))?,
            Fault::Shorter(place) => change(&mut results, place, |a| {
                let stops: Vec<i32> = a.shape().iter().map(|dim| dim / 2).collect();
                slice(a, &vec![0; stops.len()], &stops)
            })?,
        }
        Ok(results)
    }
}

fn change(
    results: &mut [Array],
    place: usize,
    f: impl FnOnce(&Array) -> Result<Array>,
) -> Result<()> {
    let count = results.len().max(1);
    if let Some(result) = results.get_mut(place % count) {
        *result = f(result)?;
    }
    Ok(())
}

/// How axes differ from what they should be.
fn misplaced(
    rng: &mut Rng,
) -> impl Fn(Vec<Option<i32>>) -> Vec<Option<i32>> + Copy + 'static + use<> {
    let (kind, place) = (rng.below(8), rng.below(4));
    let wrong = rng.pick(&[-1, 1, 2, -2, 100, i32::MIN, i32::MAX]);
    move |mut axes| {
        let count = axes.len().max(1);
        match kind {
            0 => drop(axes.pop()),
            1 => axes.push(Some(0)),
            2 => axes.clear(),
            3 | 4 => {
                if let Some(axis) = axes.get_mut(place % count) {
                    *axis = if kind == 3 { None } else { Some(wrong) };
                }
            }
            _ => {}
        }
        axes
    }
}

/// The gradient of the call, whose rules get what a hook after it returned.
pub(super) fn pulled(call: Call, own: &[Array], rng: &mut Rng) -> Result<Vec<Array>> {
    let fault = Fault::pick(rng);
    let identity = custom_vjp(
        |xs: &[Array]| Ok(xs.to_vec()),
        move |_, cotangents, _| fault.apply(cotangents.to_vec()),
    )?;
    let function = call.function();
    let every: Vec<i32> = (0..i32::try_from(own.len()).unwrap()).collect();
    let slopes = value_and_grad(move |xs: &[Array]| total(identity(&function(xs)?)?), &every)?;
    Ok(slopes(own)?.1)
}

/// The forward derivative of the call, whose rules get what a hook before it returned.
pub(super) fn pushed(call: Call, own: &[Array], rng: &mut Rng) -> Result<Vec<Array>> {
    let fault = Fault::pick(rng);
    let identity = custom_jvp(
        |xs: &[Array]| Ok(xs.to_vec()),
        move |_, tangents, _| fault.apply(tangents.to_vec()),
    )?;
    let function = call.function();
    let tangents = ones_like(own)?;
    Ok(jvp(move |xs: &[Array]| function(&identity(xs)?), own, &tangents)?.1)
}

/// The call on slices, whose rules get what a hook before it returned.
pub(super) fn mapped(
    call: Call,
    own: &[Array],
    results: usize,
    rng: &mut Rng,
) -> Result<Vec<Array>> {
    let (fault, misplaced) = (Fault::pick(rng), misplaced(rng));
    let identity = custom_vmap(
        |xs: &[Array]| Ok(xs.to_vec()),
        move |xs, axes| Ok((fault.apply(xs.to_vec())?, misplaced(axes.to_vec()))),
    )?;
    let function = call.function();
    let place = rng.chance(50).then(|| rng.below(own.len()));
    super::mapped(
        move |xs: &[Array]| function(&identity(xs)?),
        own,
        place,
        results,
        rng,
    )
}

/// Derivatives that run the call once more, and get something else.
pub(super) fn run_again(call: Call, own: &[Array], rng: &mut Rng) -> Result<Vec<Array>> {
    let fault = Fault::pick(rng);
    let first = Cell::new(true);
    let function = call.function();
    let fickle = move |xs: &[Array]| {
        let results = function(xs)?;
        if first.replace(false) {
            Ok(results)
        } else {
            fault.apply(results)
        }
    };
    let every: Vec<i32> = (0..i32::try_from(own.len()).unwrap()).collect();
    let hooked = CustomFunction::new(fickle);
    match rng.below(3) {
        0 => {
            let f = custom_function(hooked.vmap(|xs, axes| Ok((xs.to_vec(), axes.to_vec()))))?;
            Ok(jvp(f, own, &ones_like(own)?)?.1)
        }
        1 => {
            let f = custom_function(hooked.jvp(|_, tangents, _| Ok(tangents.to_vec())))?;
            Ok(value_and_grad(move |xs: &[Array]| total(f(xs)?), &every)?(own)?.1)
        }
        _ => {
            let f = custom_function(hooked)?;
            let f = checkpoint(f)?;
            Ok(value_and_grad(move |xs: &[Array]| total(f(xs)?), &every)?(own)?.1)
        }
    }
}
