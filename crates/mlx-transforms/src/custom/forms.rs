//! What a call of a custom function gave, and whether its hooks fit that.

use std::cell::OnceCell;

use mlx_core::{Array, Dtype, Error, Result};

/// The shape and dtype of an output.
#[derive(Debug)]
struct Form {
    shape: Vec<i32>,
    dtype: Dtype,
}

/// The forms of the outputs of one call.
///
/// MLX records the call as one operation with these outputs. What its hooks return takes their
/// places without a look, and later operations then read as much as the forms promise.
#[derive(Debug, Default)]
pub(super) struct Forms(OnceCell<Vec<Form>>);

impl Forms {
    /// The outputs themselves. The first run decides, and derivatives that MLX makes by running the
    /// function once more must see the same.
    pub(super) fn outputs(&self, outputs: Vec<Array>) -> Result<Vec<Array>> {
        // MLX takes the first output without looking whether there is one.
        if outputs.is_empty() {
            return Err(Error::empty_input(
                "custom_function: the list of the function's outputs",
            ));
        }
        let forms = self.0.get_or_init(|| outputs.iter().map(form).collect());
        expect("custom_function", forms, &outputs)?;
        Ok(outputs)
    }

    /// What the hook for `jvp` returned.
    pub(super) fn tangents(&self, tangents: Vec<Array>) -> Result<Vec<Array>> {
        expect("custom_jvp", self.known(), &tangents)?;
        Ok(tangents)
    }

    /// What the hook for `vmap` returned for these inputs, with an axis for each output.
    pub(super) fn mapped(
        &self,
        inputs: &[Array],
        in_axes: &[Option<i32>],
        results: Vec<Array>,
        axes: &[Option<i32>],
    ) -> Result<(Vec<Array>, Vec<i32>)> {
        let forms = self.known();
        if results.len() != forms.len() || axes.len() != results.len() {
            return Err(misfit(
                "custom_vmap",
                format!(
                    "{} results with {} axes for a function with {} outputs",
                    results.len(),
                    axes.len(),
                    forms.len()
                ),
            ));
        }
        let mut slices = None;
        for (input, axis) in inputs.iter().zip(in_axes) {
            if let Some(axis) = *axis {
                slices = Some(input.dim(axis)?);
            }
        }
        // The function may refer to mapped arrays that are not among its inputs.
        let slices = slices.ok_or_else(|| {
            misfit(
                "custom_vmap",
                "what is mapped is not among the inputs".to_owned(),
            )
        })?;
        let mut placed = Vec::with_capacity(results.len());
        for ((form, result), axis) in forms.iter().zip(results).zip(axes) {
            placed.push(place(form, result, *axis, slices)?);
        }
        Ok(placed.into_iter().unzip())
    }

    fn known(&self) -> &[Form] {
        self.0.get().map_or(&[], Vec::as_slice)
    }
}

/// What the hook for `vjp` returned: of the inputs' shapes, and cast to their dtypes.
pub(super) fn gradients(gradients: Vec<Array>, primals: &[Array]) -> Result<Vec<Array>> {
    let fits = gradients.len() == primals.len()
        && gradients
            .iter()
            .zip(primals)
            .all(|(gradient, primal)| gradient.shape() == primal.shape());
    if !fits {
        return Err(misfit(
            "custom_vjp",
            format!(
                "gradients of shapes {:?} for inputs of shapes {:?}",
                shapes(&gradients),
                shapes(primals)
            ),
        ));
    }
    gradients
        .into_iter()
        .zip(primals)
        .map(|(gradient, primal)| {
            if gradient.dtype() == primal.dtype() {
                Ok(gradient)
            } else {
                gradient.astype(primal.dtype())
            }
        })
        .collect()
}

/// A result and its axis, counted from the front, if its slices have this form.
fn place(form: &Form, result: Array, axis: Option<i32>, slices: i32) -> Result<(Array, i32)> {
    let refuse = |result: &Array| {
        misfit(
            "custom_vmap",
            format!(
                "{:?} {:?} along {axis:?} for {slices} slices of {:?} {:?}",
                result.dtype(),
                result.shape(),
                form.dtype,
                form.shape
            ),
        )
    };
    if result.dtype() != form.dtype {
        return Err(refuse(&result));
    }
    let Some(axis) = axis else {
        if result.shape() != form.shape {
            return Err(refuse(&result));
        }
        // MLX would move an axis of an output that is not mapped, instead of giving it one.
        let mut whole = vec![slices];
        whole.extend_from_slice(&form.shape);
        return Ok((result.broadcast_to(&whole)?, 0));
    };
    let rank = i32::try_from(result.ndim()).unwrap_or(i32::MAX);
    let front = if axis < 0 {
        axis.saturating_add(rank)
    } else {
        axis
    };
    let mut slice = result.shape().to_vec();
    let there = usize::try_from(front)
        .ok()
        .filter(|&axis| axis < slice.len());
    match there.map(|axis| slice.remove(axis)) {
        Some(found) if found == slices && slice == form.shape => Ok((result, front)),
        _ => Err(refuse(&result)),
    }
}

fn expect(op: &'static str, forms: &[Form], found: &[Array]) -> Result<()> {
    let fits = forms.len() == found.len()
        && forms
            .iter()
            .zip(found)
            .all(|(form, found)| found.dtype() == form.dtype && found.shape() == form.shape);
    if fits {
        return Ok(());
    }
    let found: Vec<Form> = found.iter().map(form).collect();
    Err(misfit(
        op,
        format!("results {found:?} for a function with outputs {forms:?}"),
    ))
}

fn form(array: &Array) -> Form {
    Form {
        shape: array.shape().to_vec(),
        dtype: array.dtype(),
    }
}

fn shapes(arrays: &[Array]) -> Vec<&[i32]> {
    arrays.iter().map(Array::shape).collect()
}

fn misfit(op: &'static str, message: String) -> Error {
    Error::Shape { op, message }
}
