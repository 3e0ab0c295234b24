//! Vectorisation.

use mlx_core::{Array, Error, Result};

use crate::closure::Closure;

/// A function that applies `f` to every slice of its inputs along `in_axes` and stacks the results
/// along `out_axes`, without a loop.
///
/// There is one entry for each input and output; `None` passes an input whole, or takes an output
/// that is the same for every slice once. Negative axes count from the end.
///
/// ```
/// use mlx_core::Array;
/// use mlx_transforms::vmap;
///
/// let dot = vmap(|xs| Ok(vec![xs[0].inner(&xs[1])?]), &[Some(0), None], &[Some(0)])?;
/// let rows = Array::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2])?;
/// let v = Array::from_slice(&[1.0f32, 10.0], &[2])?;
/// assert_eq!(dot(&[rows, v])?[0].to_vec::<f32>()?, [21.0, 43.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::EmptyInput`] if no input is mapped. The function returned fails as `f` does, and if an
/// axis is out of range or the mapped axes differ in size; evaluating inside `f` is an error.
pub fn vmap<F>(
    f: F,
    in_axes: &[Option<i32>],
    out_axes: &[Option<i32>],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    if in_axes.iter().all(Option::is_none) {
        return Err(Error::empty_input("vmap: the list of mapped `in_axes`"));
    }
    let wanted = out_axes.len();
    let closure = Closure::new(move |inputs: &[Array]| {
        let outputs = f(inputs)?;
        if outputs.len() != wanted {
            return Err(mismatch(format!(
                "{wanted} out_axes for {} outputs",
                outputs.len()
            )));
        }
        Ok(outputs)
    })?;
    let in_axes = in_axes.to_vec();
    // MLX counts negative axes of outputs itself and has no other use for them; -1 there would be
    // read as "not mapped", so the last axis must be named from the front.
    if out_axes.iter().flatten().any(|&axis| axis < 0) {
        return Err(mismatch("out_axes must not be negative".to_owned()));
    }
    let out_axes: Vec<i32> = out_axes.iter().map(|axis| axis.unwrap_or(-1)).collect();
    Ok(move |inputs: &[Array]| {
        if inputs.len() != in_axes.len() {
            return Err(mismatch(format!(
                "{} in_axes for {} inputs",
                in_axes.len(),
                inputs.len()
            )));
        }
        let mut resolved = Vec::with_capacity(in_axes.len());
        let mut size = None;
        for (input, axis) in inputs.iter().zip(&in_axes) {
            let Some(axis) = *axis else {
                resolved.push(-1);
                continue;
            };
            let dim = input.dim(axis)?;
            if *size.get_or_insert(dim) != dim {
                return Err(mismatch("the mapped axes differ in size".to_owned()));
            }
            let rank = i32::try_from(input.ndim()).unwrap_or(i32::MAX);
            resolved.push(if axis < 0 { axis + rank } else { axis });
        }
        closure.vmap(&resolved, &out_axes)?.call(inputs)
    })
}

fn mismatch(message: String) -> Error {
    Error::Shape {
        op: "vmap",
        message,
    }
}
