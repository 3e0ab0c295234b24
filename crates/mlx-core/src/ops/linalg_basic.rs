//! Matrix products.

use super::checked;
use crate::ffi::ops as ffi;
use crate::{Array, Dtype, Error, Result};

/// Multiplies matrices, broadcasting the leading axes: `[.., M, K] × [.., K, N] → [.., M, N]`.
///
/// A vector on the left counts as one row, on the right as one column; that axis is dropped from
/// the result. The result has the promoted dtype. Lazy: nothing is computed yet.
///
/// ```
/// # use mlx_core::{Array, ops::linalg_basic::matmul};
/// let y = matmul(&Array::ones::<f32>(&[2, 3])?, &Array::ones::<f32>(&[3, 4])?)?;
/// assert_eq!(y.shape(), [2, 4]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// [`Error::Op`] if the inner dimensions differ or the promoted dtype is not floating point.
pub fn matmul(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::matmul(lhs, rhs)
}

/// `beta * c + alpha * (a @ b)`; `c` broadcasts to the product.
///
/// # Errors
/// As [`matmul`].
pub fn addmm(c: &Array, a: &Array, b: &Array, alpha: f32, beta: f32) -> Result<Array> {
    ffi::addmm(c, a, b, alpha, beta)
}

/// Sums of products over the last axes: `[.., K] · [.., K] → [.., ..]`.
///
/// # Errors
/// [`Error::Op`] if the last axes differ.
pub fn inner(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::inner(lhs, rhs)
}

/// All products of two flattened arrays: `[M] × [N] → [M, N]`.
///
/// # Errors
/// [`Error::Op`] if the dtypes do not allow it.
pub fn outer(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::outer(lhs, rhs)
}

/// Dot products along `axis`, conjugating `lhs`; the other axes broadcast.
///
/// # Errors
/// [`Error::Op`] if the shapes do not fit.
pub fn vecdot(lhs: &Array, rhs: &Array, axis: i32) -> Result<Array> {
    ffi::vecdot(lhs, rhs, axis)
}

/// Sums of products over the last `axis` axes of `lhs` and the first of `rhs`.
///
/// # Errors
/// [`Error::Op`] if those axes differ.
pub fn tensordot(lhs: &Array, rhs: &Array, axis: i32) -> Result<Array> {
    ffi::tensordot(lhs, rhs, axis)
}

/// Sums of products over the axes `axes_lhs` and `axes_rhs`, in this order.
///
/// # Errors
/// [`Error::Op`] if those axes differ.
pub fn tensordot_axes(
    lhs: &Array,
    rhs: &Array,
    axes_lhs: &[i32],
    axes_rhs: &[i32],
) -> Result<Array> {
    ffi::tensordot_axes(lhs, rhs, axes_lhs, axes_rhs)
}

/// The Kronecker product.
///
/// # Errors
/// [`Error::Op`] if the dtypes do not allow it.
pub fn kron(lhs: &Array, rhs: &Array) -> Result<Array> {
    ffi::kron(lhs, rhs)
}

/// Einstein summation, for example `"bik,bkj->bij"`.
///
/// # Errors
/// [`Error::EmptyInput`] without operands; [`Error::Op`] if the subscripts do not fit them.
pub fn einsum(subscripts: &str, operands: &[&Array]) -> Result<Array> {
    if operands.is_empty() {
        return Err(Error::empty_input("einsum: `operands`"));
    }
    ffi::einsum(subscripts, operands)
}

/// The order in which [`einsum`] contracts; see [`einsum_path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EinsumPath {
    /// The operands of each contraction, whose result joins the list at its end.
    pub steps: Vec<Vec<usize>>,
    /// MLX's report, for people.
    pub report: String,
}

/// The order in which [`einsum`] would contract these operands.
///
/// ```
/// # use mlx_core::{Array, ops::linalg_basic::einsum_path};
/// let (a, b) = (Array::ones::<f32>(&[2, 3])?, Array::ones::<f32>(&[3, 4])?);
/// assert_eq!(einsum_path("ij,jk->ik", &[&a, &b])?.steps, [[0, 1]]);
/// # Ok::<(), mlx_core::Error>(())
/// ```
///
/// # Errors
/// As [`einsum`].
pub fn einsum_path(subscripts: &str, operands: &[&Array]) -> Result<EinsumPath> {
    if operands.is_empty() {
        return Err(Error::empty_input("einsum_path: `operands`"));
    }
    let (steps, report) = crate::ffi::einsum_path(subscripts, operands)?;
    Ok(EinsumPath { steps, report })
}

/// Matrix products whose matrices are chosen by index from the leading axes of `a` and `b`;
/// negative indices count from the end.
///
/// # Errors
/// [`Error::OutOfBounds`] for indices outside; [`Error::Op`] if the shapes do not fit.
pub fn gather_mm(
    a: &Array,
    b: &Array,
    lhs_indices: Option<&Array>,
    rhs_indices: Option<&Array>,
    sorted_indices: bool,
) -> Result<Array> {
    let lhs = batch_indices("gather_mm", a, lhs_indices)?;
    let rhs = batch_indices("gather_mm", b, rhs_indices)?;
    ffi::gather_mm(a, b, lhs.as_ref(), rhs.as_ref(), sorted_indices)
}

/// Indices into the flattened leading axes of a stack of matrices, counted from the front: the
/// kernels read them as uint32.
pub(super) fn batch_indices(
    op: &'static str,
    matrices: &Array,
    indices: Option<&Array>,
) -> Result<Option<Array>> {
    let Some(indices) = indices else {
        return Ok(None);
    };
    let Some(batch_axes) = matrices.ndim().checked_sub(2) else {
        return Err(Error::shape(op, "operands need at least two axes"));
    };
    let count = matrices.shape()[..batch_axes]
        .iter()
        .try_fold(1i32, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| Error::shape(op, "too many matrices"))?;
    let checked = checked::indices(op, indices, 0, count)?;
    checked::positions(&checked, count).map(Some)
}

/// Products over segments of the inner axis: `[M, K] × [K, N]` and `segments [S, 2]` of starts and
/// ends give `[S, M, N]`. Ends beyond `K` and before their start are limited.
///
/// # Errors
/// [`Error::Shape`] if `segments` is not `[.., 2]` of unsigned integers; [`Error::Op`] if the
/// shapes do not fit.
pub fn segmented_mm(a: &Array, b: &Array, segments: &Array) -> Result<Array> {
    let op = "segmented_mm";
    if segments.dtype() != Dtype::Uint32 || segments.ndim() < 1 || segments.dim(-1)? != 2 {
        return Err(Error::shape(op, "segments must be [.., 2] of uint32"));
    }
    let inner = Array::scalar_dtype(f64::from(a.dim(-1)?), Dtype::Uint32)?;
    let inside = ffi::minimum(segments, &inner)?;
    let parts = ffi::split(&inside, 2, -1)?;
    let [start, end] = parts.as_slice() else {
        return Err(Error::shape(op, "segments must be [.., 2]"));
    };
    let end = ffi::maximum(start, end)?;
    segment_products(a, b, &ffi::concatenate(&[start, &end], -1)?)
}

/// The products after the segments are known to be good.
pub(super) fn segment_products(a: &Array, b: &Array, segments: &Array) -> Result<Array> {
    let products = ffi::segmented_mm(a, b, segments)?;
    if products.size() == 0 {
        // The BLAS would end the process over a matrix without columns.
        return Array::zeros_dtype(products.shape(), products.dtype());
    }
    Ok(products)
}

/// A matrix product with blocks of `block_size` (32 or 64) masked out.
///
/// # Errors
/// [`Error::Op`] if the masks or shapes do not fit.
pub fn block_masked_mm(
    a: &Array,
    b: &Array,
    block_size: i32,
    mask_out: Option<&Array>,
    mask_lhs: Option<&Array>,
    mask_rhs: Option<&Array>,
) -> Result<Array> {
    if block_size != 32 && block_size != 64 {
        return Err(Error::shape(
            "block_masked_mm",
            "block_size must be 32 or 64",
        ));
    }
    ffi::block_masked_mm(a, b, block_size, mask_out, mask_lhs, mask_rhs)
}

/// The Walsh–Hadamard transform along the last axis, whose size is `m·2^k` with `m` 1, 12, 20 or
/// 28, times `scale` (default `1/sqrt(n)`).
///
/// MLX's gradient takes the matrix for symmetric, which it is for `m` 1 only.
///
/// # Errors
/// [`Error::Op`] for other sizes.
pub fn hadamard_transform(a: &Array, scale: Option<f32>) -> Result<Array> {
    ffi::hadamard_transform(a, scale)
}
