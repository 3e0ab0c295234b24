//! Whole matrices of derivatives.

use std::rc::Rc;

use mlx_core::{Array, Dtype, Error, Result};

use crate::{grad, jvp, vjp, vmap};

/// A function that computes the Jacobians of the outputs of `f` with respect to the inputs at
/// `argnums`, by reverse mode: for output `i` of shape `[O..]` and input `argnums[j]` of shape
/// `[I..]`, element `[i][j]` of the result has shape `[O.., I..]`. Negative numbers count from the
/// last input.
///
/// One product with a cotangent for each element of an output, all of them at once through
/// [`vmap`]: the choice when there are fewer outputs than inputs. See [`jacobian_forward`] for the
/// other case.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::jacobian;
///
/// let f = jacobian(|xs| Ok(vec![xs[0].square()?]), &[0])?;
/// let j = f(&[array!([1.0, 2.0])?])?;
/// assert_eq!(j[0][0].to_vec::<f32>()?, [2.0, 0.0, 0.0, 4.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::EmptyInput`] if `argnums` is empty. The function returned fails as `f` does, if a number
/// is out of range, and with operations that MLX cannot vectorise or differentiate.
#[doc(alias = "jacrev")]
pub fn jacobian<F>(
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Vec<Array>>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let f = Rc::new(f);
    let argnums = some_argnums("jacobian", argnums)?;
    Ok(move |inputs: &[Array]| {
        let places = places("jacobian", &argnums, inputs)?;
        let chosen: Vec<Array> = places.iter().map(|&place| inputs[place].clone()).collect();
        let outputs = f(inputs)?;
        let mut rows = Vec::with_capacity(outputs.len());
        for (number, output) in outputs.iter().enumerate() {
            if output.size() == 0 {
                rows.push(
                    chosen
                        .iter()
                        .map(|input| empty(output, input, input.dtype()))
                        .collect::<Result<Vec<Array>>>()?,
                );
                continue;
            }
            let part = partial(&f, inputs, &places, Some(number));
            let (primals, part) = (chosen.clone(), Rc::new(part));
            let pull = vmap(
                move |cotangents: &[Array]| {
                    let part = Rc::clone(&part);
                    let (_, products) = vjp(move |xs: &[Array]| part(xs), &primals, cotangents)?;
                    Ok(products)
                },
                &[Some(0)],
                &vec![Some(0); places.len()],
            )?;
            let products = pull(&[basis(output)?])?;
            rows.push(
                products
                    .iter()
                    .zip(&chosen)
                    .map(|(product, input)| fold(product, output, input))
                    .collect::<Result<Vec<Array>>>()?,
            );
        }
        Ok(rows)
    })
}

/// [`jacobian`] by forward mode: one product with a tangent for each element of an input, the
/// choice when there are fewer inputs than outputs.
///
/// # Errors
/// As [`jacobian`]; MLX has no forward mode for convolutions and scatters.
#[doc(alias = "jacfwd")]
pub fn jacobian_forward<F>(
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Vec<Array>>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let f = Rc::new(f);
    let argnums = some_argnums("jacobian_forward", argnums)?;
    Ok(move |inputs: &[Array]| {
        let places = places("jacobian_forward", &argnums, inputs)?;
        let outputs = f(inputs)?;
        let mut columns = Vec::with_capacity(places.len());
        for &place in &places {
            let input = inputs[place].clone();
            if input.size() == 0 {
                columns.push(
                    outputs
                        .iter()
                        .map(|output| empty(output, &input, output.dtype()))
                        .collect::<Result<Vec<Array>>>()?,
                );
                continue;
            }
            let part = Rc::new(partial(&f, inputs, &[place], None));
            let primal = input.clone();
            let push = vmap(
                move |tangents: &[Array]| {
                    let part = Rc::clone(&part);
                    let primals = std::slice::from_ref(&primal);
                    let (_, products) = jvp(move |xs: &[Array]| part(xs), primals, tangents)?;
                    Ok(products)
                },
                &[Some(0)],
                &vec![Some(-1); outputs.len()],
            )?;
            let products = push(&[basis(&input)?])?;
            columns.push(
                products
                    .iter()
                    .zip(&outputs)
                    .map(|(product, output)| fold(product, output, &input))
                    .collect::<Result<Vec<Array>>>()?,
            );
        }
        Ok((0..outputs.len())
            .map(|row| columns.iter().map(|column| column[row].clone()).collect())
            .collect())
    })
}

/// A function that computes the second derivatives of the first output of `f`, a scalar: element
/// `[i][j]` of the result is that by the inputs `argnums[i]` and `argnums[j]`, of shape
/// `[I.., J..]`.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::hessian;
///
/// // x² y
/// let f = hessian(|xs| Ok(vec![(xs[0].square()? * &xs[1])?]), &[0, 1])?;
/// let h = f(&[array!(3.0)?, array!(5.0)?])?;
/// assert_eq!(h[0][0].item::<f32>()?, 10.0);
/// assert_eq!(h[0][1].item::<f32>()?, 6.0);
/// assert_eq!(h[1][1].item::<f32>()?, 0.0);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// As [`jacobian`], and if the first output is no scalar.
pub fn hessian<F>(
    f: F,
    argnums: &[i32],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Vec<Array>>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    some_argnums("hessian", argnums)?;
    jacobian(grad(f, argnums)?, argnums)
}

fn some_argnums(op: &'static str, argnums: &[i32]) -> Result<Vec<i32>> {
    if argnums.is_empty() {
        return Err(Error::empty_input(format!("{op}: `argnums`")));
    }
    Ok(argnums.to_vec())
}

/// The argument numbers counted from the front.
fn places(op: &'static str, argnums: &[i32], inputs: &[Array]) -> Result<Vec<usize>> {
    let count = i64::try_from(inputs.len()).unwrap_or(i64::MAX);
    argnums
        .iter()
        .map(|&argnum| {
            let place = i64::from(argnum) + if argnum < 0 { count } else { 0 };
            usize::try_from(place)
                .ok()
                .filter(|&place| place < inputs.len())
                .ok_or_else(|| Error::Shape {
                    op,
                    message: format!("argnum {argnum} for {count} inputs"),
                })
        })
        .collect()
}

/// `f` as a function of the inputs at `places` alone, and of one of its outputs if `number` is
/// given.
fn partial<F>(
    f: &Rc<F>,
    inputs: &[Array],
    places: &[usize],
    number: Option<usize>,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    let f = Rc::clone(f);
    let (inputs, places) = (inputs.to_vec(), places.to_vec());
    move |chosen: &[Array]| {
        let mut inputs = inputs.clone();
        for (&place, array) in places.iter().zip(chosen) {
            inputs[place] = array.clone();
        }
        let outputs = f(&inputs)?;
        Ok(match number {
            None => outputs,
            Some(number) => outputs.into_iter().skip(number).take(1).collect(),
        })
    }
}

/// Every unit vector of the space of `array`: `[N, ..]`, in its dtype.
fn basis(array: &Array) -> Result<Array> {
    let size = i32::try_from(array.size()).map_err(|_| Error::Shape {
        op: "jacobian",
        message: format!("shape {:?} has too many elements", array.shape()),
    })?;
    let mut dims = vec![size];
    dims.extend_from_slice(array.shape());
    Array::identity::<f32>(size)?
        .astype(array.dtype())?
        .reshape(&dims)
}

/// The Jacobian `[output.., input..]` where one of the two has no elements, and [`vmap`] no slice.
fn empty(output: &Array, input: &Array, dtype: Dtype) -> Result<Array> {
    Array::zeros_dtype(&[output.shape(), input.shape()].concat(), dtype)
}

/// `product` as `[output.., input..]`.
fn fold(product: &Array, output: &Array, input: &Array) -> Result<Array> {
    product.reshape(&[output.shape(), input.shape()].concat())
}
