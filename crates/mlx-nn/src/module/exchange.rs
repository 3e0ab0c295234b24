//! Running a function on a module with other arrays in it.

use std::collections::BTreeMap;

use mlx_core::Array;

use crate::{
    Module, Result,
    module::parameters::{map, parameters, update},
};

/// Runs `f` on `module` while `arrays` stand in the places that they name, and puts the original
/// arrays back afterwards, also when `f` fails or panics.
///
/// The functional use of a module: transforms see their traced arrays in it, and it never keeps
/// them. Changes that `f` makes to arrays are undone with the rest.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Linear, parameters, with_arrays};
///
/// let mut layer = Linear::new(2, 1, false)?;
/// let before = parameters(&layer)["weight"].to_vec::<f32>()?;
/// let ones = [("weight".to_owned(), Array::ones::<f32>(&[1, 2])?)].into();
/// let y = with_arrays(&mut layer, ones, |layer| layer.forward(&Array::ones::<f32>(&[1, 2])?))?;
/// assert_eq!(y.item::<f32>()?, 2.0);
/// assert_eq!(parameters(&layer)["weight"].to_vec::<f32>()?, before);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// What `f` reports; [`Error::Weight`](crate::Error::Weight) if a key does not exist or its array
/// has another shape.
pub fn with_arrays<M: Module, T>(
    module: &mut M,
    arrays: BTreeMap<String, Array>,
    f: impl FnOnce(&mut M) -> Result<T>,
) -> Result<T> {
    let before = parameters(module);
    let guard = Restore { module, before };
    update(guard.module, arrays)?;
    f(guard.module)
}

struct Restore<'m, M: Module> {
    module: &'m mut M,
    before: BTreeMap<String, Array>,
}

impl<M: Module> Drop for Restore<'_, M> {
    fn drop(&mut self) {
        let before = &mut self.before;
        // The function given never fails, so neither does the traversal.
        let _ = map(self.module, |key, array| {
            Ok(before.remove(key).unwrap_or_else(|| array.clone()))
        });
    }
}
