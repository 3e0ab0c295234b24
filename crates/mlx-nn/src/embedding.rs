//! The lookup table from ids to vectors.

use mlx_core::Array;

use crate::{
    Descend, KeyPath, Module, Result, UnaryLayer, Visitor, VisitorMut, Weight, init,
    linear::check_dims,
};

/// Maps each id to a row of its table: `[..] → [.., dims]`.
///
/// The table may be dense or quantised; see [`Weight`]. Key: `weight [num_embeddings, dims]`.
///
/// An id outside the table is an error, or, where the ids are not evaluated yet, reads its nearest
/// row.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::Embedding;
///
/// let table = Embedding::new(10, 4)?;
/// let vectors = table.forward(&Array::from_slice::<u32>(&[1, 7, 1], &[3])?)?;
/// assert_eq!(vectors.shape(), [3, 4]);
/// assert_eq!(table.as_linear(&vectors)?.shape(), [3, 10]);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Embedding {
    /// The table `[num_embeddings, dims]`.
    pub weight: Weight,
}

impl Embedding {
    /// A table drawn from a normal distribution of standard deviation √(1 / `dims`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a dimension is not positive.
    pub fn new(num_embeddings: i32, dims: i32) -> Result<Self> {
        check_dims("Embedding", &[num_embeddings, dims])?;
        let scale = init::reciprocal_sqrt(dims);
        Ok(Self {
            weight: Weight::Dense(init::scaled_normal(scale, &[num_embeddings, dims])?),
        })
    }

    /// A table that only knows its shape, for a model that is about to be loaded.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a dimension is not positive.
    pub fn placeholder(num_embeddings: i32, dims: i32) -> Result<Self> {
        check_dims("Embedding", &[num_embeddings, dims])?;
        Ok(Self {
            weight: Weight::placeholder(&[num_embeddings, dims]),
        })
    }

    /// A table from its dense rows.
    #[must_use]
    pub const fn from_weights(weight: Array) -> Self {
        Self {
            weight: Weight::Dense(weight),
        }
    }

    /// Looks the ids up: `[..] → [.., dims]`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`](crate::Error::NotLoaded), or [`Error::Core`](crate::Error::Core) if
    /// `ids` are no integers or lie outside the table.
    pub fn forward(&self, ids: &Array) -> Result<Array> {
        self.weight.rows("Embedding", ids)
    }

    /// Uses the table as an output projection, for tied weights: `[.., dims] → [.., num_embeddings]`.
    ///
    /// # Errors
    /// [`Error::NotLoaded`](crate::Error::NotLoaded), or [`Error::Core`](crate::Error::Core) if
    /// the last axis of `x` is not `dims` long.
    pub fn as_linear(&self, x: &Array) -> Result<Array> {
        self.weight.apply("Embedding", x, None)
    }
}

impl Module for Embedding {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        if visitor.embedding(path, &self.weight) == Descend::Into {
            self.weight.visit_parts(path, visitor);
        }
    }

    fn visit_mut(&mut self, path: &KeyPath<'_>, visitor: &mut dyn VisitorMut) -> Result<()> {
        self.weight.visit_mut(path, visitor)
    }
}

impl UnaryLayer for Embedding {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
