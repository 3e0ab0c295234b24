//! Casts, copies, sorting and everything without a family of its own.

use crate::ffi::ops as ffi;
use crate::shape::{checked_size, normalize_axis};
use crate::{Array, Dtype, DtypeCategory, Error, IntoShape, Result};

/// The values as another dtype. Floats become integers by cutting off; numbers become bool by
/// being non-zero.
///
/// # Errors
/// [`Error::Op`] for float64 on a GPU.
pub fn astype(a: &Array, dtype: Dtype) -> Result<Array> {
    ffi::astype(a, dtype)
}

/// The same bytes as another dtype; the last axis grows or shrinks with the sizes.
///
/// # Errors
/// [`Error::Op`] if the last axis does not divide.
pub fn view(a: &Array, dtype: Dtype) -> Result<Array> {
    ffi::view(a, dtype)
}

/// A copy in memory of its own.
///
/// # Errors
/// None for a valid array.
pub fn copy(a: &Array) -> Result<Array> {
    ffi::copy(a)
}

/// The same values; gradients do not pass.
///
/// # Errors
/// None for a valid array.
pub fn stop_gradient(a: &Array) -> Result<Array> {
    ffi::stop_gradient(a)
}

/// The flattened elements under other strides, in elements. Strides may be zero or overlap.
///
/// # Errors
/// [`Error::Shape`] if an element would lie outside the array.
pub fn as_strided(
    a: &Array,
    shape: &(impl IntoShape + ?Sized),
    strides: &[i64],
    offset: usize,
) -> Result<Array> {
    let op = "as_strided";
    let dims = shape.dims()?;
    if dims.len() != strides.len() {
        return Err(Error::shape(
            op,
            format!("{} strides for shape {dims:?}", strides.len()),
        ));
    }
    let count = checked_size(op, &dims, Dtype::Uint8)?;
    if count > 0 {
        let mut first = i128::try_from(offset).unwrap_or(i128::MAX);
        let mut last = first;
        for (&dim, &stride) in dims.iter().zip(strides) {
            let reach = i128::from(dim - 1) * i128::from(stride);
            if reach < 0 {
                first = first.saturating_add(reach);
            } else {
                last = last.saturating_add(reach);
            }
        }
        if first < 0 || last >= i128::try_from(a.size()).unwrap_or(i128::MAX) {
            return Err(Error::shape(
                op,
                format!(
                    "shape {dims:?} with strides {strides:?} from {offset} leaves the {} elements",
                    a.size()
                ),
            ));
        }
    }
    let offset = u64::try_from(offset).map_err(|_| Error::shape(op, "the offset is too large"))?;
    ffi::as_strided(a, &dims, strides, offset)
}

/// The elements in ascending order along `axis`, NaN last. Stable.
///
/// # Errors
/// [`Error::Op`] if the axis is out of range.
pub fn sort(a: &Array, axis: i32) -> Result<Array> {
    ffi::sort(a, axis)
}

/// The positions that would sort along `axis`: uint32.
///
/// # Errors
/// [`Error::Op`] if the axis is out of range.
pub fn argsort(a: &Array, axis: i32) -> Result<Array> {
    ffi::argsort(a, axis)
}

/// The elements along `axis`, smaller ones than the `kth` before it and larger ones after.
///
/// # Errors
/// [`Error::Shape`] if the axis or `kth` is out of range.
pub fn partition(a: &Array, kth: i32, axis: i32) -> Result<Array> {
    check_kth("partition", a, kth, axis)?;
    ffi::partition(a, kth, axis)
}

/// The positions that would [`partition`]: uint32.
///
/// # Errors
/// As [`partition`].
pub fn argpartition(a: &Array, kth: i32, axis: i32) -> Result<Array> {
    check_kth("argpartition", a, kth, axis)?;
    ffi::argpartition(a, kth, axis)
}

fn check_kth(op: &'static str, a: &Array, kth: i32, axis: i32) -> Result<()> {
    let index = normalize_axis(op, axis, a.ndim())?;
    let size = a.shape()[index];
    if kth < -size || kth >= size {
        return Err(Error::OutOfBounds {
            op,
            index: i64::from(kth),
            axis: index,
            size: i64::from(size),
        });
    }
    Ok(())
}

/// The `k` largest elements along `axis`, in no particular order.
///
/// # Errors
/// [`Error::Shape`] if the axis is out of range or shorter than `k`.
pub fn topk(a: &Array, k: i32, axis: i32) -> Result<Array> {
    let size = a.dim(axis)?;
    if k < 0 || k > size {
        return Err(Error::shape(
            "topk",
            format!("{k} elements of an axis of size {size}"),
        ));
    }
    ffi::topk(a, k, axis)
}

/// Where `values` would go in the ascending `sorted`: `"left"` of equal elements or `"right"`.
///
/// # Errors
/// [`Error::Op`] if `sorted` is not one-dimensional or `side` is neither.
pub fn searchsorted(sorted: &Array, values: &Array, side: &str) -> Result<Array> {
    ffi::searchsorted(sorted, values, side)
}

/// NaN and infinities replaced; `None` takes the dtype's limits.
///
/// # Errors
/// None for a valid array.
pub fn nan_to_num(a: &Array, nan: f32, posinf: Option<f32>, neginf: Option<f32>) -> Result<Array> {
    ffi::nan_to_num(a, nan, posinf, neginf)
}

/// The lower triangle of the last two axes, up to diagonal `k`.
///
/// # Errors
/// [`Error::Op`] if there are fewer than two axes; [`Error::Shape`] if both together are longer than
/// an axis can be.
pub fn tril(a: &Array, k: i32) -> Result<Array> {
    match *a.shape() {
        [.., rows, columns] => ffi::tril(a, diagonal_within("tril", rows, columns, k)?),
        _ => ffi::tril(a, k),
    }
}

/// The upper triangle of the last two axes, from diagonal `k`.
///
/// # Errors
/// As [`tril`].
pub fn triu(a: &Array, k: i32) -> Result<Array> {
    match *a.shape() {
        // MLX keeps what is not below the diagonal before this one.
        [.., rows, columns] => ffi::triu(
            a,
            diagonal_within("triu", rows, columns, k.saturating_sub(1))? + 1,
        ),
        _ => ffi::triu(a, k),
    }
}

/// The diagonal of an `[n, m]` matrix with the same elements on and below it as `k`, near enough for
/// MLX, which adds dimensions to it in 32 bits.
pub(crate) fn diagonal_within(op: &'static str, n: i32, m: i32, k: i32) -> Result<i32> {
    if n.checked_add(m).is_none() {
        let message = format!("a triangle of [{n}, {m}] is too large");
        return Err(Error::shape(op, message));
    }
    Ok(k.clamp(-n, m))
}

/// The `n`th differences along `axis`.
///
/// # Errors
/// [`Error::Op`] if the axis is out of range or `n` negative.
pub fn diff(a: &Array, n: i32, axis: i32) -> Result<Array> {
    // MLX records two slices for each order.
    const HIGHEST: i32 = 1 << 12;
    let order = n.min(a.dim(axis)?);
    if order > HIGHEST {
        return Err(Error::shape(
            "diff",
            format!("order {n} is higher than {HIGHEST}"),
        ));
    }
    ffi::diff(a, order, axis)
}

/// Zeros in the shape and dtype of `a`.
///
/// # Errors
/// None for a valid array.
pub fn zeros_like(a: &Array) -> Result<Array> {
    ffi::zeros_like(a)
}

/// Ones in the shape and dtype of `a`.
///
/// # Errors
/// None for a valid array.
pub fn ones_like(a: &Array) -> Result<Array> {
    ffi::ones_like(a)
}

/// `value` everywhere in the shape of `a`, in the dtype of `value`.
///
/// # Errors
/// [`Error::Op`] if `value` does not broadcast to the shape.
pub fn full_like(a: &Array, value: &Array) -> Result<Array> {
    if value.dtype().is_subtype(DtypeCategory::Inexact) {
        // The gradient of MLX's own operation is wrong by a factor of the value.
        return ffi::broadcast_to(value, a.shape());
    }
    ffi::full_like(a, value, value.dtype())
}

/// How many elements the axes hold together (or one over that), as an array of `dtype`: known to
/// shapeless traces.
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
pub fn number_of_elements(a: &Array, axes: &[i32], inverted: bool, dtype: Dtype) -> Result<Array> {
    for &axis in axes {
        normalize_axis("number_of_elements", axis, a.ndim())?;
    }
    ffi::number_of_elements(a, axes, inverted, dtype)
}

/// The `inputs`, which wait for the `dependencies` to be computed.
///
/// # Errors
/// [`Error::EmptyInput`] without inputs.
pub fn depends(inputs: &[&Array], dependencies: &[&Array]) -> Result<Vec<Array>> {
    if inputs.is_empty() {
        return Err(Error::empty_input("depends: `inputs`"));
    }
    ffi::depends(inputs, dependencies)
}

/// What [`unique`] returns beside the values.
#[must_use]
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Default)]
pub struct UniqueOptions {
    /// The position of the first occurrence of each value.
    pub index: bool,
    /// For each element, the position of its value among the values.
    pub inverse: bool,
    /// How often each value occurs.
    pub counts: bool,
}

impl UniqueOptions {
    /// The position of the first occurrence of each value.
    pub fn index(mut self, index: bool) -> Self {
        self.index = index;
        self
    }

    /// For each element, the position of its value among the values.
    pub fn inverse(mut self, inverse: bool) -> Self {
        self.inverse = inverse;
        self
    }

    /// How often each value occurs.
    pub fn counts(mut self, counts: bool) -> Self {
        self.counts = counts;
        self
    }
}

/// The first `size` distinct values in ascending order, padded with `fill_value` (default the
/// smallest), then what the options ask for, in their order.
///
/// # Errors
/// [`Error::Shape`] if `size` is negative or the array empty.
pub fn unique(
    a: &Array,
    size: i32,
    options: UniqueOptions,
    fill_value: Option<&Array>,
) -> Result<Vec<Array>> {
    if size < 0 || a.size() == 0 {
        return Err(Error::shape(
            "unique",
            format!("{size} values of shape {:?}", a.shape()),
        ));
    }
    ffi::unique(
        a,
        size,
        options.index,
        options.inverse,
        options.counts,
        fill_value,
    )
}

macro_rules! windows {
    ($($(#[$docs:meta])* $name:ident;)*) => {$(
        $(#[$docs])*
        ///
        /// # Errors
        /// [`Error::Shape`] if `m` is negative.
        pub fn $name(m: i32) -> Result<Array> {
            checked_size(stringify!($name), &[m], Dtype::Float32)?;
            ffi::$name(m)
        }
    )*};
}

windows! {
    /// The Hann window of `m` points: float32 `[m]`.
    hanning;
    /// The Hamming window of `m` points: float32 `[m]`.
    hamming;
    /// The Bartlett (triangular) window of `m` points: float32 `[m]`.
    bartlett;
    /// The Blackman window of `m` points: float32 `[m]`.
    blackman;
}
