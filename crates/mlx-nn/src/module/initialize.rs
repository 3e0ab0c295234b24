//! Giving a model that only knows its shapes its first weights.

use mlx_core::Array;

use crate::{Descend, Error, KeyPath, Module, Result, VisitorMut, Weight};

/// Fills each weight that holds nothing yet with what `f` makes for its path and shape
/// `[.., out, in]`; returns how many there were.
///
/// With it, a model file whose constructor leaves placeholders for loading serves training from
/// scratch as well.
///
/// ```
/// use mlx_nn::{Linear, init, initialize};
///
/// let mut layer = Linear::placeholder(4, 2, false)?;
/// assert_eq!(initialize(&mut layer, |_, shape| init::normal(shape, 0.0, 0.02, None))?, 1);
/// assert!(layer.weight.dtype().is_some());
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// What `f` reports; [`Error::Weight`] if its array has another shape. Weights before it are
/// filled then.
pub fn initialize(
    module: &mut dyn Module,
    f: impl FnMut(&str, &[i32]) -> Result<Array>,
) -> Result<usize> {
    let mut visitor = Fill { f, count: 0 };
    module.visit_mut(&KeyPath::root(), &mut visitor)?;
    Ok(visitor.count)
}

struct Fill<F> {
    f: F,
    count: usize,
}

impl<F: FnMut(&str, &[i32]) -> Result<Array>> VisitorMut for Fill<F> {
    fn parameter(&mut self, _: &KeyPath<'_>, _: &mut Array) -> Result<()> {
        Ok(())
    }

    fn weight(&mut self, path: &KeyPath<'_>, weight: &mut Weight) -> Result<Descend> {
        if let Weight::Unloaded { shape } = weight {
            let path = path.to_string();
            let array = (self.f)(&path, shape)?;
            if array.shape() != shape.as_slice() {
                let message = format!("expected {shape:?}, found {:?}", array.shape());
                return Err(Error::weight(path, message));
            }
            *weight = Weight::Dense(array);
            self.count += 1;
        }
        Ok(Descend::Over)
    }
}
