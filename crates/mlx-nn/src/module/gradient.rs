//! Gradients of a function of a module, by parameter name.

use std::collections::{BTreeMap, BTreeSet};

use mlx_core::Array;

use crate::{
    Descend, Error, KeyPath, Module, Result, Visitor, VisitorMut, Weight,
    module::parameters::{trainable_parameters, update},
};

/// Gradients by the key of their parameter.
pub type Gradients = BTreeMap<String, Array>;

/// Computes a loss of a module and its gradient with respect to each trainable parameter.
///
/// `f` gets a copy of the module that shares its arrays, and `inputs`. The module itself is left
/// as it is, also when `f` fails or panics, except that buffers (running statistics) that `f`
/// changed are taken over on success.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Linear, loss::{Reduction, mse_loss}, value_and_grad};
///
/// let mut model = Linear::new(3, 1, true)?;
/// let inputs = [Array::ones::<f32>(&[4, 3])?, Array::zeros::<f32>(&[4, 1])?];
/// let (loss, gradients) = value_and_grad(&mut model, &inputs, |model, xs| {
///     mse_loss(&model.forward(&xs[0])?, &xs[1], Reduction::Mean)
/// })?;
/// assert_eq!(loss.ndim(), 0);
/// assert_eq!(gradients["weight"].shape(), [1, 3]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// Whatever `f` reports; [`Error::Core`] if it panics or its value is not a scalar;
/// [`Error::InvalidArgument`] if the module has no trainable parameter.
pub fn value_and_grad<M: Module + Clone + 'static>(
    module: &mut M,
    inputs: &[Array],
    f: impl Fn(&mut M, &[Array]) -> Result<Array> + 'static,
) -> Result<(Array, Gradients)> {
    let keys = trainable_parameters(module).into_keys().collect();
    value_and_grad_of(module, &keys, inputs, f)
}

/// [`value_and_grad`] with respect to the parameters named by `keys` only; the others are frozen.
///
/// To freeze by a rule, filter [`trainable_parameters`]:
///
/// ```
/// use mlx_core::{Array, ops::reduction::sum};
/// use mlx_nn::{Linear, trainable_parameters, value_and_grad_of};
///
/// let mut model = Linear::new(3, 1, true)?;
/// let keys = trainable_parameters(&model).into_keys().filter(|key| key.ends_with("bias")).collect();
/// let (_, gradients) = value_and_grad_of(&mut model, &keys, &[], |model, _| {
///     Ok(sum(&model.forward(&Array::ones::<f32>(&[2, 3])?)?, false)?)
/// })?;
/// assert_eq!(gradients.keys().collect::<Vec<_>>(), ["bias"]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// As [`value_and_grad`]; [`Error::Weight`] if a key does not exist.
pub fn value_and_grad_of<M: Module + Clone + 'static>(
    module: &mut M,
    keys: &BTreeSet<String>,
    inputs: &[Array],
    f: impl Fn(&mut M, &[Array]) -> Result<Array> + 'static,
) -> Result<(Array, Gradients)> {
    let mut parameters = trainable_parameters(module);
    parameters.retain(|key, _| keys.contains(key));
    if let Some(key) = keys.iter().find(|key| !parameters.contains_key(*key)) {
        return Err(Error::weight(
            key,
            "the module has no such trainable parameter",
        ));
    }
    if parameters.is_empty() {
        return Err(Error::invalid(
            "value_and_grad",
            "there is no trainable parameter",
        ));
    }
    let (keys, mut primals): (Vec<String>, Vec<Array>) = parameters.into_iter().unzip();
    let count = primals.len();
    primals.extend_from_slice(inputs);

    let names = keys.clone();
    let (copy, before) = (module.clone(), buffers(module));
    let traced = move |xs: &[Array]| -> mlx_core::Result<Vec<Array>> {
        let (parameters, inputs) = xs.split_at(names.len());
        let mut module = copy.clone();
        update(
            &mut module,
            names
                .iter()
                .cloned()
                .zip(parameters.iter().cloned())
                .collect(),
        )?;
        let loss = f(&mut module, inputs)?;
        // What a layer remembers leaves the transform as further outputs, not as traced arrays.
        let after = buffers(&module);
        Ok(std::iter::once(loss).chain(after.into_values()).collect())
    };
    let positions: Vec<i32> = (0..).take(count).collect();
    let (mut values, gradients) = mlx_transforms::value_and_grad(traced, &positions)?(&primals)?;
    if values.is_empty() {
        return Err(Error::invalid(
            "value_and_grad",
            "the function has no value",
        ));
    }
    let remembered = values.split_off(1);
    set_buffers(module, before.into_keys().zip(remembered).collect())?;
    let loss = values.swap_remove(0);
    Ok((loss, keys.into_iter().zip(gradients).collect()))
}

pub(crate) fn buffers(module: &dyn Module) -> BTreeMap<String, Array> {
    let mut buffers = Buffers(BTreeMap::new());
    module.visit(&KeyPath::root(), &mut buffers);
    buffers.0
}

/// Collects what [`Buffer`](crate::Buffer) fields hold; quantised weights never change in `f`.
struct Buffers(BTreeMap<String, Array>);

impl<'a> Visitor<'a> for Buffers {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &'a Array) {}

    fn buffer(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.0.insert(path.to_string(), array.clone());
    }

    fn weight(&mut self, _: &KeyPath<'_>, _: &'a Weight) -> Descend {
        Descend::Over
    }
}

pub(crate) fn set_buffers(module: &mut dyn Module, buffers: BTreeMap<String, Array>) -> Result<()> {
    struct Set(BTreeMap<String, Array>);

    impl VisitorMut for Set {
        fn parameter(&mut self, _: &KeyPath<'_>, _: &mut Array) -> Result<()> {
            Ok(())
        }

        fn buffer(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()> {
            if let Some(new) = self.0.remove(&path.to_string()) {
                *array = new;
            }
            Ok(())
        }

        fn weight(&mut self, _: &KeyPath<'_>, _: &mut Weight) -> Result<Descend> {
            Ok(Descend::Over)
        }
    }

    if buffers.is_empty() {
        return Ok(());
    }
    module.visit_mut(&KeyPath::root(), &mut Set(buffers))
}
