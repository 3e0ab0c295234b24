//! The traversal contract between modules and the functions that walk them.

use mlx_core::Array;

use crate::{KeyPath, Result, Weight};

/// Anything that holds parameters: a layer, a model, or a collection of them.
///
/// Derive it: the field's name is the checkpoint key, `Vec` yields `layers.0`, and `None` yields
/// nothing. Writing it by hand stays a short job, because there are only the two traversals;
/// both must visit the same parameters under the same paths. How a module computes is not part
/// of the trait: models take what they need (mask, cache, positions).
///
/// ```
/// use mlx_nn::{Linear, Module, Result, activation::swiglu};
/// use mlx_core::Array;
///
/// #[derive(Debug, Module)]
/// struct Mlp {
///     gate_proj: Linear,
///     up_proj: Linear,
///     down_proj: Linear,
/// }
///
/// impl Mlp {
///     fn forward(&self, x: &Array) -> Result<Array> {
///         self.down_proj.forward(&swiglu(&self.gate_proj.forward(x)?, &self.up_proj.forward(x)?)?)
///     }
/// }
///
/// let mlp = Mlp {
///     gate_proj: Linear::new(8, 16, false)?,
///     up_proj: Linear::new(8, 16, false)?,
///     down_proj: Linear::new(16, 8, false)?,
/// };
/// let names: Vec<_> = mlx_nn::parameters(&mlp).into_keys().collect();
/// assert_eq!(names, ["down_proj.weight", "gate_proj.weight", "up_proj.weight"]);
/// assert_eq!(mlp.forward(&Array::ones::<f32>(&[2, 8])?)?.shape(), [2, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// A field that is neither a module nor a parameter is refused:
///
/// ```compile_fail,E0277
/// struct Settings;
///
/// #[derive(mlx_nn::Module)]
/// struct Layer { settings: Settings }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is neither a module nor a parameter",
    label = "not a module",
    note = "derive `Module` for it, or mark the field with `#[module(skip)]` if it holds no weights"
)]
pub trait Module {
    /// Shows each parameter below `path` to `visitor`.
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>);

    /// Hands each parameter below `path` to `visitor` for replacement.
    ///
    /// # Errors
    /// The first error of `visitor`; what came before stays replaced.
    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()>;
}

/// Whether the parts of a [`Weight`] are visited one by one, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// Visit the weight's arrays as parameters and buffers.
    Into,
    /// The visitor has dealt with the whole weight.
    Over,
}

/// Sees the parameters of a [`Module`].
pub trait Visitor<'a> {
    /// A parameter, under its checkpoint key.
    fn parameter(&mut self, path: &KeyPath<'_>, array: &'a Array);

    /// An array that is saved and loaded, but never trained.
    fn buffer(&mut self, path: &KeyPath<'_>, array: &'a Array) {
        self.parameter(path, array);
    }

    /// The weight of the layer at `path`, before its parts; the arrays are keyed `<path>.weight`,
    /// `<path>.scales` and so on.
    fn weight(&mut self, _path: &KeyPath<'_>, _weight: &'a Weight) -> Descend {
        Descend::Into
    }

    /// The table of an [`Embedding`](crate::Embedding); like any other weight unless told apart.
    fn embedding(&mut self, path: &KeyPath<'_>, weight: &'a Weight) -> Descend {
        self.weight(path, weight)
    }
}

/// Replaces the parameters of a [`Module`].
pub trait VisitorMut {
    /// A parameter, under its checkpoint key.
    ///
    /// # Errors
    /// Whatever the visitor decides; the traversal stops there.
    fn parameter(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()>;

    /// An array that is saved and loaded, but never trained.
    ///
    /// # Errors
    /// Like [`parameter`](Self::parameter).
    fn buffer(&mut self, path: &KeyPath<'_>, array: &mut Array) -> Result<()> {
        self.parameter(path, array)
    }

    /// The weight of the layer at `path`, before its parts.
    ///
    /// # Errors
    /// Like [`parameter`](Self::parameter).
    fn weight(&mut self, _path: &KeyPath<'_>, _weight: &mut Weight) -> Result<Descend> {
        Ok(Descend::Into)
    }
}
