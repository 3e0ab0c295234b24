//! Vectorisation.

use std::cell::RefCell;
use std::rc::Rc;

use mlx_core::{Array, Error, Result};

use crate::closure::Closure;
use crate::tree::{Axes, Tree};

/// A function that applies `f` to every slice of its inputs along `in_axes` and stacks the results
/// along `out_axes`, without a loop.
///
/// There is one entry for each input and output; `None` passes an input whole, or takes an output
/// that is the same for every slice once. Negative axes count from the end, of outputs as they are
/// returned. See [`vmap_tree`] for inputs and outputs that are structures.
///
/// ```
/// use mlx_core::array;
/// use mlx_transforms::vmap;
///
/// let dot = vmap(|xs| Ok(vec![xs[0].inner(&xs[1])?]), &[Some(0), None], &[Some(0)])?;
/// let rows = array!([[1.0, 2.0], [3.0, 4.0]])?;
/// let v = array!([1.0, 10.0])?;
/// assert_eq!(dot(&[rows, v])?[0].to_vec::<f32>()?, [21.0, 43.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::EmptyInput`] if no input is mapped. The function returned fails as `f` does, and if an
/// axis is out of range or the mapped axes differ in size or have size 0; evaluating inside `f` is
/// an error, and so is, later, evaluating an output with `None` that was not the same for every
/// slice.
pub fn vmap<F>(
    f: F,
    in_axes: &[Option<i32>],
    out_axes: &[Option<i32>],
) -> Result<impl Fn(&[Array]) -> Result<Vec<Array>> + 'static + use<F>>
where
    F: Fn(&[Array]) -> Result<Vec<Array>> + 'static,
{
    if in_axes.iter().all(Option::is_none) {
        return Err(nothing_mapped());
    }
    let wanted = out_axes.to_vec();
    let mapped = Mapped::new(move |inputs: &[Array]| {
        let outputs = f(inputs)?;
        if outputs.len() != wanted.len() {
            return Err(mismatch(format!(
                "{} out_axes for {} outputs",
                wanted.len(),
                outputs.len()
            )));
        }
        Ok(outputs.into_iter().zip(wanted.iter().copied()).collect())
    })?;
    let in_axes = in_axes.to_vec();
    Ok(move |inputs: &[Array]| mapped.call(inputs, &in_axes))
}

/// [`vmap`] for a function whose input and output are structures of arrays: tuples, vectors, maps,
/// or types of your own that are a [`Tree`].
///
/// [`Axes`] follow the structure as far as they need to: a single axis holds for everything below
/// it, a list has an entry for each child.
///
/// ```
/// use mlx_core::{Array, array};
/// use mlx_transforms::{Axes, vmap_tree};
///
/// // One weight for all rows, and a pair of which the second is stacked along the last axis.
/// let f = vmap_tree(
///     |(w, x): &(Array, Array)| Ok(((w * x)?, x.sum(false)?)),
///     Axes::from([Axes::from(None), Axes::from(0)]),
///     [0, -1],
/// )?;
/// let (scaled, sums) = f(&(array!(2.0)?, array!([[1.0, 2.0], [3.0, 4.0]])?))?;
/// assert_eq!(scaled.to_vec::<f32>()?, [2.0, 4.0, 6.0, 8.0]);
/// assert_eq!(sums.to_vec::<f32>()?, [3.0, 7.0]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::OutOfMemory`] if there is none left. The function returned fails as that of [`vmap`],
/// and with [`Error::Shape`] if the axes do not follow the structures.
pub fn vmap_tree<I, O, F>(
    f: F,
    in_axes: impl Into<Axes>,
    out_axes: impl Into<Axes>,
) -> Result<impl Fn(&I) -> Result<O> + 'static>
where
    I: Tree + Clone + 'static,
    O: Tree + 'static,
    F: Fn(&I) -> Result<O> + 'static,
{
    let (in_axes, out_axes) = (in_axes.into(), out_axes.into());
    let structures = Rc::new(Structures::<I, O> {
        inputs: RefCell::new(Vec::new()),
        outputs: RefCell::new(Vec::new()),
    });
    let inside = Rc::clone(&structures);
    let mapped = Mapped::new(move |inputs: &[Array]| {
        // The structure of the call that is running; the borrow ends before `f` may call again.
        let template = inside.inputs.borrow().last().cloned();
        let template = template.ok_or_else(|| mismatch("called outside a call".to_owned()))?;
        let output = f(&template.rebuild(&mut inputs.iter().cloned())?)?;
        let axes = out_axes.resolve("vmap_tree", &output)?;
        let leaves = output.leaves();
        inside.outputs.borrow_mut().push(output);
        Ok(leaves.into_iter().zip(axes).collect())
    })?;
    Ok(move |input: &I| {
        let axes = in_axes.resolve("vmap_tree", input)?;
        let depth = structures.outputs.borrow().len();
        structures.inputs.borrow_mut().push(input.clone());
        let result = mapped.call(&input.leaves(), &axes);
        structures.inputs.borrow_mut().pop();
        let output = structures.outputs.borrow_mut().drain(depth..).next();
        let mut leaves = result?.into_iter();
        output
            .ok_or_else(|| mismatch("the function was not called".to_owned()))?
            .rebuild(&mut leaves)
    })
}

/// The structures of the calls in progress, the innermost last.
struct Structures<I, O> {
    inputs: RefCell<Vec<I>>,
    outputs: RefCell<Vec<O>>,
}

/// Outputs and the axes along which they are stacked.
type Placed = Vec<(Array, Option<i32>)>;

/// A function as MLX maps it: outputs that are not stacked stay behind in `calls`.
struct Mapped {
    closure: Closure,
    /// What the calls in progress left behind, the innermost last.
    calls: Rc<RefCell<Vec<Left>>>,
}

/// For each output its axis, or the output itself.
type Left = Vec<Result<i32, Array>>;

impl Mapped {
    fn new(f: impl Fn(&[Array]) -> Result<Placed> + 'static) -> Result<Self> {
        let calls = Rc::new(RefCell::new(Vec::new()));
        let record = Rc::clone(&calls);
        let closure = Closure::new(move |inputs: &[Array]| {
            let mut left: Left = Vec::new();
            let mut stacked = Vec::new();
            for (output, axis) in f(inputs)? {
                left.push(match axis {
                    Some(axis) => {
                        stacked.push(output);
                        Ok(axis)
                    }
                    None => Err(output),
                });
            }
            record.borrow_mut().push(left);
            Ok(stacked)
        })?;
        Ok(Mapped { closure, calls })
    }

    fn call(&self, inputs: &[Array], in_axes: &[Option<i32>]) -> Result<Vec<Array>> {
        let resolved = resolve(inputs, in_axes)?;
        let depth = self.calls.borrow().len();
        let stacked = self.closure.vmap(inputs, &resolved);
        let left = self.calls.borrow_mut().drain(depth..).next();
        let mut stacked = stacked?.into_iter();
        left.unwrap_or_default()
            .into_iter()
            .map(|output| match output {
                Err(whole) => Ok(whole),
                Ok(axis) => {
                    let output = stacked
                        .next()
                        .ok_or_else(|| mismatch("an output is missing".to_owned()))?;
                    if axis == 0 {
                        Ok(output)
                    } else {
                        output.moveaxis(0, axis)
                    }
                }
            })
            .collect()
    }
}

/// Axes counted from the front, -1 for none, checked against each other.
fn resolve(inputs: &[Array], in_axes: &[Option<i32>]) -> Result<Vec<i32>> {
    if inputs.len() != in_axes.len() {
        return Err(mismatch(format!(
            "{} in_axes for {} inputs",
            in_axes.len(),
            inputs.len()
        )));
    }
    let mut resolved = Vec::with_capacity(in_axes.len());
    let mut size = None;
    for (input, axis) in inputs.iter().zip(in_axes) {
        let Some(axis) = *axis else {
            resolved.push(-1);
            continue;
        };
        let dim = input.dim(axis)?;
        if *size.get_or_insert(dim) != dim {
            return Err(mismatch("the mapped axes differ in size".to_owned()));
        }
        // There is no slice to trace, and the rules of some operations divide by the size.
        if dim == 0 {
            return Err(mismatch("the mapped axes have size 0".to_owned()));
        }
        let rank = i32::try_from(input.ndim()).unwrap_or(i32::MAX);
        resolved.push(if axis < 0 { axis + rank } else { axis });
    }
    if size.is_none() {
        return Err(nothing_mapped());
    }
    Ok(resolved)
}

fn nothing_mapped() -> Error {
    Error::empty_input("vmap: the list of mapped `in_axes`")
}

fn mismatch(message: String) -> Error {
    Error::Shape {
        op: "vmap",
        message,
    }
}
