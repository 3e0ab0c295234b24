//! Initialisers of matrices with a structure.

use mlx_core::{
    Array, Dtype,
    ops::{
        arithmetic::sign,
        comparison::greater_equal,
        indexing::{slice, take_along_axis, r#where},
        linalg::qr,
        misc::argsort,
        random,
    },
};

use crate::{Error, Result};

/// The identity matrix `[n, n]`.
///
/// # Errors
/// [`Error::Core`] if `n` is negative.
pub fn identity(n: i32, dtype: Dtype) -> Result<Array> {
    Ok(Array::identity::<f32>(n)?.astype(dtype)?)
}

/// A normal matrix in each row of which the part `sparsity`, rounded up, is zero.
///
/// ```
/// let weight = mlx_nn::init::sparse(&[3, 8], 0.5, 0.0, 1.0, None)?;
/// assert_eq!(weight.to_vec::<f32>()?.iter().filter(|v| **v == 0.0).count(), 12);
/// # Ok::<(), mlx_nn::Error>(())
/// ```
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has not two axes or `sparsity` is not in `0..=1`.
pub fn sparse(
    shape: &[i32],
    sparsity: f64,
    mean: f32,
    std: f32,
    key: Option<&Array>,
) -> Result<Array> {
    let &[_, columns] = shape else {
        return Err(no_matrix(shape));
    };
    if !(0.0..=1.0).contains(&sparsity) {
        return Err(Error::invalid(
            "init",
            format!("sparsity must be in 0..=1, found {sparsity}"),
        ));
    }
    let keys = key.map(random::split).transpose()?;
    let (order_key, value_key) = keys.unzip();
    let draws = random::uniform::<f32>(0.0, 1.0, &shape, order_key.as_ref())?;
    let values = random::normal::<f32>(mean, std, &shape, value_key.as_ref())?;
    // The rank of each draw in its row decides: the lowest ones are zeroed.
    let ranks = argsort(&argsort(&draws, 1)?, 1)?;
    let zeros = Array::scalar_dtype((sparsity * f64::from(columns)).ceil(), ranks.dtype())?;
    Ok(r#where(
        &greater_equal(&ranks, &zeros)?,
        &values,
        &Array::scalar::<f32>(0.0)?,
    )?)
}

/// A matrix with orthogonal rows or columns times `gain`, from "Exact solutions to the nonlinear
/// dynamics of learning in deep linear neural networks" (2013).
///
/// # Errors
/// [`Error::InvalidArgument`] if the shape has not two axes.
pub fn orthogonal(shape: &[i32], gain: f64, key: Option<&Array>) -> Result<Array> {
    let &[rows, columns] = shape else {
        return Err(no_matrix(shape));
    };
    let n = rows.max(columns);
    let (q, r) = qr(&random::normal::<f32>(0.0, 1.0, &[n, n], key)?)?;
    // Signs make the factorisation, and so the distribution, unique.
    let diagonal = Array::arange_dtype(0.0, f64::from(n), 1.0, Dtype::Int32)?;
    let diagonal = take_along_axis(&r, &diagonal.reshape(&[1, -1])?, 0)?;
    let q = (q * sign(&diagonal)?)?;
    Ok((slice(&q, &[0, 0], &[rows, columns])? * gain)?)
}

fn no_matrix(shape: &[i32]) -> Error {
    Error::invalid("init", format!("{shape:?} is no matrix"))
}
