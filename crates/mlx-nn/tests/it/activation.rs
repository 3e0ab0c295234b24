//! Every activation function and its gradient.

use mlx_core::{Array, Dtype};
use mlx_nn::{Activation, Prelu, activation};

use crate::golden::{Golden, TestResult};

#[test]
fn all_activations_equal_python_in_value_and_gradient() -> TestResult {
    let golden = Golden::open("activation")?;
    let mut functions = 0;
    for case in golden.cases() {
        functions += 1;
        if case == "prelu" {
            golden.check_function(case, &["x", "alpha"], |xs| {
                activation::prelu(&xs[0], &xs[1])
            })?;
            continue;
        }
        let (name, axis) = case.split_once('.').unwrap_or((case, "last"));
        let axis = if axis == "first" { 0 } else { -1 };
        let function = match name.parse()? {
            Activation::Glu { .. } => Activation::Glu { axis },
            Activation::LogSoftmax { .. } => Activation::LogSoftmax { axis },
            Activation::Softmax { .. } => Activation::Softmax { axis },
            Activation::Softmin { .. } => Activation::Softmin { axis },
            elementwise => elementwise,
        };
        // Python's step gives integers, which have no gradient there either.
        golden.check_function(case, &["x"], move |xs| {
            Ok(function.forward(&xs[0])?.astype(Dtype::Float32)?)
        })?;
    }
    assert_eq!(
        functions,
        23 + 4 * 2,
        "27 functions, four of them over two axes"
    );
    Ok(())
}

#[test]
fn activations_keep_half_precision() -> TestResult {
    let x = Array::from_slice::<f32>(&[-2.0, -0.5, 0.0, 0.5, 2.0, 4.0], &[6])?;
    let names = "celu elu gelu gelu_approx gelu_fast_approx glu hard_shrink hard_tanh hardswish \
                 leaky_relu log_sigmoid log_softmax mish relu relu2 relu6 selu sigmoid silu \
                 softmax softmin softplus softshrink softsign tanh";
    for dtype in [Dtype::Float16, Dtype::Bfloat16] {
        let x = x.astype(dtype)?;
        for name in names.split_whitespace() {
            assert_eq!(
                name.parse::<Activation>()?.forward(&x)?.dtype(),
                dtype,
                "{name}"
            );
        }
    }
    Ok(())
}

#[test]
fn prelu_has_one_slope_for_all_or_one_for_each() -> TestResult {
    let x = Array::from_slice::<f32>(&[-4.0, 2.0], &[1, 2])?;
    for slopes in [1, 2] {
        assert_eq!(
            Prelu::new(slopes, 0.25)?.forward(&x)?.to_vec::<f32>()?,
            [-1.0, 2.0]
        );
    }
    assert!(Prelu::new(0, 0.25).is_err());
    Ok(())
}

#[test]
fn configuration_names_are_read_and_others_refused() -> TestResult {
    for (name, expected) in [
        ("\"gelu_new\"", Activation::GeluApprox),
        ("\"quick_gelu\"", Activation::GeluFastApprox),
        ("\"swish\"", Activation::Silu),
        ("\"relu2\"", Activation::Relu2),
    ] {
        assert_eq!(serde_json::from_str::<Activation>(name)?, expected);
    }
    let error = serde_json::from_str::<Activation>("\"geglu9\"").map_err(|error| error.to_string());
    assert!(error.is_err_and(|text| text.contains("unsupported activation `geglu9`")));
    Ok(())
}
