//! How alike vectors are.

use std::fmt;
use std::str::FromStr;

use mlx_core::ops::arithmetic::{abs, maximum, negative, sqrt, square};
use mlx_core::ops::linalg::norm;
use mlx_core::ops::linalg_basic::matmul;
use mlx_core::ops::reduction::sum_axes;
use mlx_core::ops::shape::{concatenate, expand_dims, split_at, transpose};
use mlx_core::{Array, eval};

use crate::{Error, Result};

/// Differences held at a time while distances are computed.
const ELEMENTS_AT_ONCE: usize = 1 << 24;

/// A score of two vectors; larger is more alike.
///
/// ```
/// use mlx_core::Array;
/// use mlx_embed::Similarity;
///
/// let a = Array::from_slice::<f32>(&[3.0, 4.0], &[1, 2])?;
/// let b = Array::from_slice::<f32>(&[0.0, 2.0, 3.0, 4.0], &[2, 2])?;
/// let scores = Similarity::Euclidean.matrix(&a, &b)?;
/// assert_eq!(scores.shape(), [1, 2]);
/// assert_eq!(scores.to_vec::<f32>()?[1], 0.0);
/// # Ok::<(), mlx_embed::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Similarity {
    /// The cosine of the angle, −1 to 1; 0 with a vector of zeros.
    #[default]
    Cosine,
    /// The dot product.
    Dot,
    /// The negative Euclidean distance.
    Euclidean,
    /// The negative Manhattan distance.
    Manhattan,
}

impl Similarity {
    /// All scores.
    pub const ALL: [Self; 4] = [Self::Cosine, Self::Dot, Self::Euclidean, Self::Manhattan];

    /// The name that configurations use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
            Self::Manhattan => "manhattan",
        }
    }

    /// Scores each row of `a` against each row of `b`: `[N, D]`, `[M, D]` → `[N, M]`.
    ///
    /// # Errors
    /// [`Error::Core`] if the shapes do not fit each other.
    pub fn matrix(self, a: &Array, b: &Array) -> Result<Array> {
        match self {
            Self::Cosine => Ok(matmul(&unit_length(a)?, &transpose(&unit_length(b)?)?)?),
            Self::Dot => Ok(matmul(a, &transpose(b)?)?),
            Self::Euclidean => distances(a, b, |difference| {
                Ok(sqrt(&sum_axes(&square(difference)?, &[-1], false)?)?)
            }),
            Self::Manhattan => distances(a, b, |difference| {
                Ok(sum_axes(&abs(difference)?, &[-1], false)?)
            }),
        }
    }
}

impl fmt::Display for Similarity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Similarity {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|score| score.name() == name);
        found.ok_or_else(|| Error::Option {
            option: "similarity",
            message: format!("`{name}` is none of cosine, dot, euclidean, manhattan"),
        })
    }
}

/// Scales vectors to length one: `[.., D] → [.., D]`. Zeros stay zeros.
pub(crate) fn unit_length(x: &Array) -> Result<Array> {
    let length = norm(x, Some(&[-1]), true)?;
    let length = maximum(&length, &Array::scalar_dtype(1e-12, length.dtype())?)?;
    Ok((x / length)?)
}

/// Negative distances, a slice of `a` at a time: all differences together have `N · M · D` elements.
fn distances(a: &Array, b: &Array, reduce: impl Fn(&Array) -> Result<Array>) -> Result<Array> {
    let rows = a.dim(0)?;
    let step = i32::try_from(ELEMENTS_AT_ONCE / b.size().max(1))
        .unwrap_or(i32::MAX)
        .max(1);
    let cuts: Vec<i32> = (1..rows).filter(|row| row % step == 0).collect();
    let b = expand_dims(b, &[0])?; // [1, M, D]
    let mut parts = Vec::new();
    for part in split_at(a, &cuts, 0)? {
        let difference = (expand_dims(&part, &[1])? - &b)?; // [n, M, D]
        let part = negative(&reduce(&difference)?)?;
        eval(&[&part])?;
        parts.push(part);
    }
    Ok(concatenate(&parts.iter().collect::<Vec<_>>(), 0)?)
}
