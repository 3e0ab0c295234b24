//! What products with Jacobians refuse.

use mlx_core::ops::shape::{concatenate, stack};
use mlx_core::{Array, Dtype, Error, Result, array};
use mlx_transforms::{jvp, vjp};

/// MLX's own rules take tangents as they come: some would read the bytes of a smaller dtype as
/// those of a larger one.
#[test]
fn tangents_of_other_dtypes_are_errors() -> Result<()> {
    let f = |xs: &[Array]| {
        let both = concatenate(&[&xs[0], &xs[1]], 0)?;
        Ok(vec![stack(&[&both, &both], 0)?.exp()?.sort(-1)?])
    };
    let x = Array::arange::<f32>(0.0, 4.0, 1.0)?;
    let ones = |dtype| Array::ones_dtype(&[4], dtype);
    let primals = [x.clone(), x];
    for dtype in Dtype::ALL {
        let result = jvp(f, &primals, &[ones(Dtype::Float32)?, ones(dtype)?]);
        if dtype == Dtype::Float32 {
            let (outputs, tangents) = result?;
            assert_eq!(tangents[0].dtype(), outputs[0].dtype());
            assert_eq!(tangents[0].shape(), outputs[0].shape());
        } else {
            assert!(
                matches!(result, Err(Error::DtypeMismatch { expected: Dtype::Float32, found })
                    if found == dtype),
                "{result:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn tangents_of_other_numbers_and_shapes_are_errors() -> Result<()> {
    let f = |xs: &[Array]| Ok(vec![xs[0].exp()?]);
    let x = [array!([1.0, 2.0])?];
    assert!(jvp(f, &x, &[]).is_err());
    assert!(jvp(f, &x, &[x[0].clone(), x[0].clone()]).is_err());
    assert!(jvp(f, &x, &[array!(1.0)?]).is_err());
    assert!(jvp(f, &x, &[array!([1.0, 2.0, 3.0])?]).is_err());
    Ok(())
}

/// Cotangents are cast: the caller's `1.0` serves outputs of every dtype.
#[test]
fn cotangents_take_the_dtype_of_their_outputs() -> Result<()> {
    let f = |xs: &[Array]| Ok(vec![xs[0].square()?]);
    let x = array!([3.0, 4.0])?.astype(Dtype::Float16)?;
    for dtype in [Dtype::Float32, Dtype::Int8, Dtype::Bool] {
        let (_, products) = vjp(f, &[x.clone()], &[Array::ones_dtype(&[2], dtype)?])?;
        assert_eq!(products[0].dtype(), Dtype::Float16);
        let values = products[0].astype(Dtype::Float32)?.to_vec::<f32>()?;
        assert_eq!(values, [6.0, 8.0]);
    }
    Ok(())
}
