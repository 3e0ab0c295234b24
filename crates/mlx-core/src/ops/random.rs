//! Random numbers.
//!
//! Every function takes an optional key. With a key the result is a pure function of it; without,
//! the calling thread's own generator gives the next one, which [`seed`] starts anew.

use crate::ffi::ops as ffi;
use crate::shape::checked_size;
use crate::{Array, Dtype, Element, Error, IntoShape, Result};

/// Seeds the calling thread's generator.
///
/// # Errors
/// None in practice.
pub fn seed(seed: u64) -> Result<()> {
    crate::ffi::seed(seed)
}

/// The key of a seed: uint32 `[2]`.
///
/// # Errors
/// None in practice.
pub fn key(seed: u64) -> Result<Array> {
    ffi::random_key(seed)
}

/// Two independent keys from one.
///
/// # Errors
/// [`Error::Op`] if `key` is no key.
pub fn split(key: &Array) -> Result<(Array, Array)> {
    let keys = split_n(key, 2)?;
    let mut parts = ffi::unstack(&keys, 0)?.into_iter();
    match (parts.next(), parts.next()) {
        (Some(first), Some(second)) => Ok((first, second)),
        _ => Err(Error::Backend("split gave fewer than two keys".to_owned())),
    }
}

/// `num` independent keys from one: `[num, 2]`.
///
/// # Errors
/// [`Error::Shape`] if `num` is not positive; [`Error::Op`] if `key` is no key.
pub fn split_n(key: &Array, num: i32) -> Result<Array> {
    if num <= 0 {
        return Err(Error::shape("split", format!("{num} keys are none")));
    }
    ffi::random_split(key, num)
}

/// A sequence of keys from a seed, each independent of the others.
///
/// The generator that functions without a key use is one of these for each thread.
///
/// ```
/// # use mlx_core::ops::random::{KeySequence, normal};
/// let mut keys = KeySequence::new(7)?;
/// let a = normal::<f32>(0.0, 1.0, &[2], Some(&keys.next_key()?))?;
/// let b = normal::<f32>(0.0, 1.0, &[2], Some(&keys.next_key()?))?;
/// assert_ne!(a.to_vec::<f32>()?, b.to_vec::<f32>()?);
/// # Ok::<(), mlx_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KeySequence {
    key: Array,
}

impl KeySequence {
    /// The sequence of this seed.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(seed: u64) -> Result<Self> {
        Ok(KeySequence { key: key(seed)? })
    }

    /// The next key.
    ///
    /// # Errors
    /// None in practice.
    pub fn next_key(&mut self) -> Result<Array> {
        let (rest, next) = split(&self.key)?;
        self.key = rest;
        Ok(next)
    }
}

/// Random bits in unsigned integers of `width` bytes: 1, 2 or 4.
///
/// # Errors
/// [`Error::Op`] for other widths.
pub fn bits(shape: &(impl IntoShape + ?Sized), width: i32, key: Option<&Array>) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("bits", &dims, Dtype::Uint32)?;
    ffi::random_bits(&dims, width, key)
}

/// Uniform numbers in `[low, high)`.
///
/// ```
/// # use mlx_core::ops::random::{key, uniform};
/// let x = uniform::<f32>(-1.0, 1.0, &[3], Some(&key(7)?))?;
/// assert!(x.to_vec::<f32>()?.iter().all(|v| (-1.0..1.0).contains(v)));
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Op`] if `T` is not floating point.
pub fn uniform<T: Element>(
    low: f32,
    high: f32,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("uniform", &dims, T::DTYPE)?;
    ffi::random_uniform(
        &Array::scalar(low)?,
        &Array::scalar(high)?,
        &dims,
        T::DTYPE,
        key,
    )
}

/// Normal numbers with mean `loc` and standard deviation `scale`.
///
/// # Errors
/// [`Error::Op`] if `T` is not floating point.
pub fn normal<T: Element>(
    loc: f32,
    scale: f32,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("normal", &dims, T::DTYPE)?;
    let loc = Array::scalar_dtype(f64::from(loc), T::DTYPE)?;
    let scale = Array::scalar_dtype(f64::from(scale), T::DTYPE)?;
    ffi::random_normal(&dims, T::DTYPE, Some(&loc), Some(&scale), key)
}

/// Normal vectors with this mean `[.., D]` and covariance `[.., D, D]`: `[shape.., D]` in float32.
///
/// # Errors
/// [`Error::Op`] if the shapes do not fit.
pub fn multivariate_normal(
    mean: &Array,
    cov: &Array,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("multivariate_normal", &dims, Dtype::Float32)?;
    ffi::random_multivariate_normal(
        mean,
        &super::linalg::without_inf(cov)?,
        &dims,
        Dtype::Float32,
        key,
    )
}

/// Uniform integers in `[low, high)`.
///
/// # Errors
/// [`Error::Op`] if `T` is no integer.
pub fn randint<T: Element>(
    low: i32,
    high: i32,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("randint", &dims, T::DTYPE)?;
    if low >= high {
        return Err(Error::shape(
            "randint",
            format!("there is no integer in {low}..{high}"),
        ));
    }
    ffi::random_randint(
        &Array::scalar(low)?,
        &Array::scalar(high)?,
        &dims,
        T::DTYPE,
        key,
    )
}

/// True with probability `p`, which broadcasts to `shape`: bool.
///
/// # Errors
/// [`Error::Op`] if `p` does not broadcast.
pub fn bernoulli(
    p: &Array,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("bernoulli", &dims, Dtype::Float32)?;
    ffi::random_bernoulli(p, &dims, key)
}

/// Normal numbers limited to `[lower, upper]`, which broadcast to `shape`.
///
/// # Errors
/// [`Error::Op`] if the bounds do not broadcast or `T` is not floating point.
pub fn truncated_normal<T: Element>(
    lower: &Array,
    upper: &Array,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("truncated_normal", &dims, T::DTYPE)?;
    ffi::random_truncated_normal(lower, upper, &dims, T::DTYPE, key)
}

/// Numbers of the standard Gumbel distribution.
///
/// # Errors
/// [`Error::Op`] if `T` is not floating point.
pub fn gumbel<T: Element>(shape: &(impl IntoShape + ?Sized), key: Option<&Array>) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("gumbel", &dims, T::DTYPE)?;
    ffi::random_gumbel(&dims, T::DTYPE, key)
}

/// Numbers of the Laplace distribution.
///
/// # Errors
/// [`Error::Op`] if `T` is not floating point.
pub fn laplace<T: Element>(
    loc: f32,
    scale: f32,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    let dims = shape.dims()?;
    checked_size("laplace", &dims, T::DTYPE)?;
    ffi::random_laplace(&dims, T::DTYPE, loc, scale, key)
}

/// One category for each line of unnormalised log probabilities along `axis`: uint32.
///
/// # Errors
/// [`Error::Shape`] if the axis is out of range or empty.
pub fn categorical(logits: &Array, axis: i32, key: Option<&Array>) -> Result<Array> {
    if logits.dim(axis)? == 0 {
        return Err(Error::shape("categorical", "there are no categories"));
    }
    ffi::random_categorical(logits, axis, key)
}

/// `num_samples` categories for each line along `axis`, in a new last axis: uint32.
///
/// # Errors
/// As [`categorical`], or if `num_samples` is negative.
pub fn categorical_n(
    logits: &Array,
    axis: i32,
    num_samples: i32,
    key: Option<&Array>,
) -> Result<Array> {
    if logits.dim(axis)? == 0 || num_samples < 0 {
        return Err(Error::shape(
            "categorical",
            "there are no categories, or fewer than no samples",
        ));
    }
    ffi::random_categorical_num_samples(logits, axis, num_samples, key)
}

/// Categories for each line along `axis`, in an array of `shape`, which ends in the shape of the
/// lines: uint32.
///
/// # Errors
/// As [`categorical`], or if `shape` does not fit.
pub fn categorical_shape(
    logits: &Array,
    axis: i32,
    shape: &(impl IntoShape + ?Sized),
    key: Option<&Array>,
) -> Result<Array> {
    if logits.dim(axis)? == 0 {
        return Err(Error::shape("categorical", "there are no categories"));
    }
    let dims = shape.dims()?;
    checked_size("categorical", &dims, Dtype::Uint32)?;
    ffi::random_categorical_shape(logits, axis, &dims, key)
}

/// `x` with its slices along `axis` in random order.
///
/// # Errors
/// [`Error::Op`] if the axis is out of range.
pub fn permutation(x: &Array, axis: i32, key: Option<&Array>) -> Result<Array> {
    ffi::random_permutation(x, axis, key)
}

/// The numbers `0..n` in random order: uint32 `[n]`.
///
/// # Errors
/// [`Error::Shape`] if `n` is negative.
pub fn permutation_n(n: i32, key: Option<&Array>) -> Result<Array> {
    checked_size("permutation", &[n], Dtype::Uint32)?;
    ffi::random_permutation_n(n, key)
}
