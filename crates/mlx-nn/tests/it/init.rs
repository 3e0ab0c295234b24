//! Initialisers: the numbers that Python draws first after the same seed.

use mlx_core::{Array, Dtype, ops::random};
use mlx_nn::init::{self, Fan};

use crate::golden::{Golden, TestResult};

#[test]
fn initialisers_draw_what_python_draws() -> TestResult {
    let golden = Golden::open("init")?;
    let (matrix, kernel) = ([6, 10], [4, 3, 3, 5]);
    let check = |case: &str, make: &dyn Fn() -> mlx_nn::Result<Array>| -> TestResult {
        random::seed(5)?;
        golden.check(case, "y", &make()?)
    };
    check("constant", &|| init::constant(&matrix, 0.3, Dtype::Float32))?;
    check("normal", &|| init::normal(&matrix, 0.5, 2.0, None))?;
    check("uniform", &|| init::uniform(&matrix, -0.5, 2.0, None))?;
    check("identity", &|| init::identity(5, Dtype::Float32))?;
    check("glorot_normal", &|| init::glorot_normal(&kernel, 1.5, None))?;
    check("glorot_uniform", &|| {
        init::glorot_uniform(&kernel, 1.5, None)
    })?;
    check("he_normal.in", &|| {
        init::he_normal(&kernel, Fan::In, 1.5, None)
    })?;
    check("he_normal.out", &|| {
        init::he_normal(&kernel, Fan::Out, 1.0, None)
    })?;
    check("he_uniform.in", &|| {
        init::he_uniform(&kernel, Fan::In, 1.5, None)
    })?;
    check("he_uniform.out", &|| {
        init::he_uniform(&kernel, Fan::Out, 1.0, None)
    })?;
    check("sparse", &|| init::sparse(&matrix, 0.35, 1.0, 0.5, None))?;
    check("orthogonal.wide", &|| init::orthogonal(&matrix, 2.0, None))?;
    check("orthogonal.tall", &|| init::orthogonal(&[10, 6], 1.0, None))
}
