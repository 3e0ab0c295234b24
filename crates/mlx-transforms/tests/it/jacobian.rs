//! Jacobians and Hessians against closed forms.

use mlx_core::{Array, Error, Result, array};
use mlx_transforms::{hessian, jacobian, jacobian_forward};

fn close(found: &Array, expected: &[f32]) {
    let found = found.to_vec::<f32>().unwrap();
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= 1e-5 * (1.0 + b.abs()),
            "{found:?} for {expected:?}"
        );
    }
}

fn two(xs: &[Array]) -> Result<Vec<Array>> {
    // y0 = W x of shape [2], y1 = Σ x³ of shape [].
    Ok(vec![
        xs[0].matmul(&xs[1])?,
        xs[1].power(&array!(3.0)?)?.sum(false)?,
    ])
}

#[test]
fn both_modes_give_every_block() -> Result<()> {
    let w = array!([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])?;
    let x = array!([1.0, -1.0, 2.0])?;
    let inputs = [w, x];
    for result in [
        jacobian(two, &[1, 0])?(&inputs)?,
        jacobian_forward(two, &[-1, -2])?(&inputs)?,
    ] {
        assert_eq!(result.len(), 2);
        assert_eq!(result[0][0].shape(), [2, 3]);
        close(&result[0][0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(result[0][1].shape(), [2, 2, 3]);
        close(
            &result[0][1],
            &[1.0, -1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 2.0],
        );
        assert_eq!(result[1][0].shape(), [3]);
        close(&result[1][0], &[3.0, 3.0, 12.0]);
        assert_eq!(result[1][1].shape(), [2, 3]);
        close(&result[1][1], &[0.0; 6]);
    }
    Ok(())
}

#[test]
fn hessians_are_symmetric_blocks() -> Result<()> {
    // f = Σ a² b, so f_aa = 2 diag(b), f_ab = 2 diag(a), f_bb = 0.
    let f = |xs: &[Array]| Ok(vec![(xs[0].square()? * &xs[1])?.sum(false)?]);
    let h = hessian(f, &[0, 1])?(&[array!([1.0, 2.0])?, array!([3.0, 4.0])?])?;
    close(&h[0][0], &[6.0, 0.0, 0.0, 8.0]);
    close(&h[0][1], &[2.0, 0.0, 0.0, 4.0]);
    close(&h[1][0], &[2.0, 0.0, 0.0, 4.0]);
    close(&h[1][1], &[0.0; 4]);
    // The Rosenbrock function at its minimum.
    let rosenbrock = |xs: &[Array]| {
        let (x, y) = (xs[0].index(0)?, xs[0].index(1)?);
        let valley = ((y - x.square()?)?.square()? * 100.0)?;
        Ok(vec![(valley + (1.0 - x)?.square()?)?])
    };
    let h = hessian(rosenbrock, &[0])?(&[array!([1.0, 1.0])?])?;
    assert_eq!(h[0][0].shape(), [2, 2]);
    close(&h[0][0], &[802.0, -400.0, -400.0, 200.0]);
    Ok(())
}

#[test]
fn wrong_arguments_are_errors() -> Result<()> {
    assert!(matches!(jacobian(two, &[]), Err(Error::EmptyInput(_))));
    assert!(matches!(
        jacobian_forward(two, &[]),
        Err(Error::EmptyInput(_))
    ));
    assert!(matches!(hessian(two, &[]), Err(Error::EmptyInput(_))));
    let x = array!([1.0])?;
    assert!(jacobian(|xs| Ok(xs.to_vec()), &[1])?(&[x.clone()]).is_err());
    assert!(jacobian_forward(|xs| Ok(xs.to_vec()), &[-2])?(&[x.clone()]).is_err());
    let fails = jacobian(|_| Err(Error::Backend("no".to_owned())), &[0])?;
    assert_eq!(fails(&[x]).unwrap_err().to_string(), "no");
    Ok(())
}

#[test]
fn blocks_without_elements_are_empty() -> Result<()> {
    let f = |xs: &[Array]| Ok(vec![(&xs[0] * 2.0)?, xs[1].square()?]);
    let inputs = [Array::zeros::<f32>(&[2, 0])?, array!([3.0])?];
    for result in [
        jacobian(f, &[0, 1])?(&inputs)?,
        jacobian_forward(f, &[0, 1])?(&inputs)?,
    ] {
        assert_eq!(result[0][0].shape(), [2, 0, 2, 0]);
        assert_eq!(result[0][1].shape(), [2, 0, 1]);
        assert_eq!(result[1][0].shape(), [1, 2, 0]);
        close(&result[1][1], &[6.0]);
    }
    Ok(())
}
