//! Layers of one input and one output, and chains of them.

use std::fmt::Debug;

use mlx_core::Array;

use crate::{Module, Result};

/// A module that maps one array to one array, so that it can stand in a [`Sequential`].
///
/// Implementing it takes a `Clone` type without borrows.
pub trait UnaryLayer: Module + CloneLayer + Debug + Send + Sync {
    /// Runs the layer.
    ///
    /// # Errors
    /// Whatever the layer reports, usually a shape that does not fit.
    fn forward(&self, x: &Array) -> Result<Array>;
}

/// Copies a layer behind its pointer; every `Clone` layer can.
pub trait CloneLayer {
    /// A copy that shares the arrays.
    fn clone_layer(&self) -> Box<dyn UnaryLayer>;
}

impl<L: UnaryLayer + Clone + 'static> CloneLayer for L {
    fn clone_layer(&self) -> Box<dyn UnaryLayer> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn UnaryLayer> {
    fn clone(&self) -> Self {
        self.as_ref().clone_layer()
    }
}

/// Runs layers one after the other; keys are `layers.0`, `layers.1`, ….
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Activation, Linear, Sequential};
///
/// let model = Sequential::new().then(Linear::new(4, 8, true)?).then(Activation::Relu);
/// assert_eq!(model.forward(&Array::ones::<f32>(&[2, 4])?)?.shape(), [2, 8]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Default, Module)]
pub struct Sequential {
    layers: Vec<Box<dyn UnaryLayer>>,
}

impl Sequential {
    /// An empty chain, which returns its input.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The chain with one more layer at its end.
    #[must_use]
    pub fn then(mut self, layer: impl UnaryLayer + 'static) -> Self {
        self.layers.push(Box::new(layer));
        self
    }

    /// Runs the chain.
    ///
    /// # Errors
    /// The first error of a layer.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        self.layers
            .iter()
            .try_fold(x.clone(), |x, layer| layer.forward(&x))
    }
}

impl UnaryLayer for Sequential {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
