//! Linear algebra. Decompositions run on the CPU wherever the arrays are: MLX has no GPU kernels.
//!
//! They take float32 or float64 matrices in the last two axes, and have no gradient.

use crate::ffi::ops as ffi;
use crate::{Array, DtypeCategory, Error, Result};

/// LAPACK ends the process when it is handed a matrix without rows or columns, so those stop here.
fn matrix(op: &'static str, a: &Array, square: bool) -> Result<()> {
    let [.., rows, columns] = *a.shape() else {
        return Err(Error::shape(op, format!("{:?} is no matrix", a.shape())));
    };
    if rows == 0 || columns == 0 || (square && rows != columns) {
        let wanted = if square {
            "square, non-empty"
        } else {
            "non-empty"
        };
        return Err(Error::shape(
            op,
            format!("needs {wanted} matrices, found {:?}", a.shape()),
        ));
    }
    if !a.dtype().is_subtype(DtypeCategory::Inexact) {
        return Err(Error::shape(
            op,
            format!("needs floating point, found {}", a.dtype()),
        ));
    }
    Ok(())
}

/// The 2-norm of vectors, or the Frobenius norm of matrices, over `axes` (all if `None`).
///
/// # Errors
/// [`Error::Op`] if an axis is out of range.
#[doc(alias = "matrix_norm")]
pub fn norm(a: &Array, axes: Option<&[i32]>, keepdims: bool) -> Result<Array> {
    ffi::linalg_norm(a, axes, keepdims)
}

/// The `ord`-norm; matrices know ±1, ±2 and ±∞.
///
/// # Errors
/// [`Error::Op`] if the order or an axis does not fit.
pub fn norm_p(a: &Array, ord: f64, axes: Option<&[i32]>, keepdims: bool) -> Result<Array> {
    // The largest or smallest singular value, which LAPACK computes on the CPU.
    if ord.abs() == 2.0 && axes.map_or(a.ndim(), <[i32]>::len) == 2 {
        let inexact = a.dtype().is_subtype(DtypeCategory::Inexact);
        let finite = if inexact { without_inf(a)? } else { a.clone() };
        return ffi::linalg_norm_spectral(&finite, ord, axes, keepdims);
    }
    ffi::linalg_norm_p(a, ord, axes, keepdims)
}

/// The norm `"fro"` or `"nuc"` of matrices.
///
/// # Errors
/// [`Error::Op`] for another name.
pub fn norm_named(a: &Array, ord: &str, axes: Option<&[i32]>, keepdims: bool) -> Result<Array> {
    if ord == "nuc" && a.dtype().is_subtype(DtypeCategory::Inexact) {
        return ffi::linalg_norm_named(&without_inf(a)?, ord, axes, keepdims);
    }
    ffi::linalg_norm_named(a, ord, axes, keepdims)
}

/// `(Q, R)` with orthonormal columns and an upper triangle: `[.., M, N]`.
///
/// # Errors
/// [`Error::Shape`] if `a` is no non-empty matrix of floats.
pub fn qr(a: &Array) -> Result<(Array, Array)> {
    matrix("qr", a, false)?;
    ffi::linalg_qr(a)
}

/// Singular values `S`, or `[U, S, Vt]` with `compute_uv`.
///
/// # Errors
/// [`Error::Shape`] if `a` is no non-empty matrix of floats.
pub fn svd(a: &Array, compute_uv: bool) -> Result<Vec<Array>> {
    matrix("svd", a, false)?;
    ffi::linalg_svd(&without_inf(a)?, compute_uv)
}

/// The inverse of square matrices. A singular one is an error when it is computed.
///
/// # Errors
/// [`Error::Shape`] if `a` is no square matrix of floats.
pub fn inv(a: &Array) -> Result<Array> {
    matrix("inv", a, true)?;
    ffi::linalg_inv(a)
}

/// The inverse of triangular matrices.
///
/// # Errors
/// As [`inv`].
pub fn tri_inv(a: &Array, upper: bool) -> Result<Array> {
    matrix("tri_inv", a, true)?;
    ffi::linalg_tri_inv(a, upper)
}

/// The Cholesky factor of symmetric positive definite matrices, lower unless `upper`. MLX does not
/// report a matrix that is not positive definite.
///
/// # Errors
/// As [`inv`].
pub fn cholesky(a: &Array, upper: bool) -> Result<Array> {
    matrix("cholesky", a, true)?;
    ffi::linalg_cholesky(a, upper)
}

/// The inverse of a matrix from its Cholesky factor.
///
/// # Errors
/// As [`inv`].
pub fn cholesky_inv(a: &Array, upper: bool) -> Result<Array> {
    matrix("cholesky_inv", a, true)?;
    ffi::linalg_cholesky_inv(a, upper)
}

/// The Moore–Penrose inverse.
///
/// # Errors
/// [`Error::Shape`] if `a` is no non-empty matrix of floats.
pub fn pinv(a: &Array) -> Result<Array> {
    matrix("pinv", a, false)?;
    ffi::linalg_pinv(&without_inf(a)?)
}

/// `[P, L, U]`: row order, unit lower and upper triangle.
///
/// # Errors
/// [`Error::Shape`] if `a` is no non-empty matrix of floats.
pub fn lu(a: &Array) -> Result<Vec<Array>> {
    matrix("lu", a, false)?;
    ffi::linalg_lu(a)
}

/// The packed LU factors and the pivots.
///
/// # Errors
/// [`Error::Shape`] if `a` is no non-empty matrix of floats.
pub fn lu_factor(a: &Array) -> Result<(Array, Array)> {
    matrix("lu_factor", a, false)?;
    ffi::linalg_lu_factor(a)
}

/// `x` with `a @ x = b`.
///
/// # Errors
/// As [`inv`], or [`Error::Op`] if `b` does not fit.
pub fn solve(a: &Array, b: &Array) -> Result<Array> {
    matrix("solve", a, true)?;
    ffi::linalg_solve(a, b)
}

/// [`solve`] for triangular `a`.
///
/// # Errors
/// As [`solve`].
pub fn solve_triangular(a: &Array, b: &Array, upper: bool) -> Result<Array> {
    matrix("solve_triangular", a, true)?;
    ffi::linalg_solve_triangular(a, b, upper)
}

/// The cross product of vectors of 2 or 3 elements along `axis`.
///
/// # Errors
/// [`Error::Op`] if the sizes do not fit.
pub fn cross(a: &Array, b: &Array, axis: i32) -> Result<Array> {
    ffi::linalg_cross(a, b, axis)
}

/// The array with NaN in place of infinity: LAPACK reports the one, and on the other loops for ever
/// or ends the process.
pub(super) fn without_inf(a: &Array) -> Result<Array> {
    let nan = Array::scalar_dtype(f64::NAN, a.dtype())?;
    ffi::r#where(&ffi::isfinite(a)?, a, &nan)
}

/// For each matrix whether it is finite, and the matrices with zeros in place of the others:
/// LAPACK's balancing ends the process when it meets a NaN.
fn without_nan(a: &Array) -> Result<(Array, Array)> {
    let finite = super::reduction::all_axes(&ffi::isfinite(a)?, &[-2, -1], true)?;
    let clean = ffi::r#where(&finite, a, &Array::scalar_dtype(0.0, a.dtype())?)?;
    Ok((finite, clean))
}

fn or_nan(finite: &Array, result: &Array) -> Result<Array> {
    let nan = Array::scalar_dtype(f64::NAN, result.dtype())?;
    ffi::r#where(finite, result, &nan)
}

/// Eigenvalues and eigenvectors, complex64.
///
/// # Errors
/// As [`inv`].
pub fn eig(a: &Array) -> Result<(Array, Array)> {
    matrix("eig", a, true)?;
    let (finite, clean) = without_nan(a)?;
    let (values, vectors) = ffi::linalg_eig(&clean)?;
    Ok((
        or_nan(&finite.squeeze_axes(&[-1])?, &values)?,
        or_nan(&finite, &vectors)?,
    ))
}

/// Eigenvalues, complex64.
///
/// # Errors
/// As [`inv`].
pub fn eigvals(a: &Array) -> Result<Array> {
    matrix("eigvals", a, true)?;
    let (finite, clean) = without_nan(a)?;
    or_nan(&finite.squeeze_axes(&[-1])?, &ffi::linalg_eigvals(&clean)?)
}

/// Ascending eigenvalues and eigenvectors of symmetric matrices; `uplo` is `"L"` or `"U"`.
///
/// # Errors
/// As [`inv`], or [`Error::Shape`] for another `uplo`.
pub fn eigh(a: &Array, uplo: &str) -> Result<(Array, Array)> {
    matrix("eigh", a, true)?;
    check_uplo("eigh", uplo)?;
    ffi::linalg_eigh(&without_inf(a)?, uplo)
}

/// Ascending eigenvalues of symmetric matrices.
///
/// # Errors
/// As [`eigh`].
pub fn eigvalsh(a: &Array, uplo: &str) -> Result<Array> {
    matrix("eigvalsh", a, true)?;
    check_uplo("eigvalsh", uplo)?;
    ffi::linalg_eigvalsh(&without_inf(a)?, uplo)
}

fn check_uplo(op: &'static str, uplo: &str) -> Result<()> {
    // LAPACK ends the process on any other letter.
    if uplo == "L" || uplo == "U" {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format!("uplo must be \"L\" or \"U\", found {uplo:?}"),
    ))
}

/// Determinants.
///
/// # Errors
/// As [`inv`].
pub fn det(a: &Array) -> Result<Array> {
    matrix("det", a, true)?;
    ffi::linalg_det(a)
}

/// Signs and logarithms of determinants.
///
/// # Errors
/// As [`inv`].
pub fn slogdet(a: &Array) -> Result<(Array, Array)> {
    matrix("slogdet", a, true)?;
    ffi::linalg_slogdet(a)
}
