//! Layers with parameters: outputs and gradients with respect to inputs and parameters.

use mlx_nn::{LayerNorm, RmsNorm};

use crate::golden::{Golden, TestResult};

#[test]
fn normalisations_equal_python() -> TestResult {
    let golden = Golden::open("norm")?;
    golden.check_layer("rms_norm", &RmsNorm::new(16, 1e-5)?, &["x"], |m, xs| m.forward(&xs[0]))?;
    for (case, layer) in [
        ("layer_norm", LayerNorm::new(16, 1e-5)?),
        ("layer_norm.without_bias", LayerNorm::without_bias(16, 1e-3)?),
        ("layer_norm.without_parameters", LayerNorm::without_parameters(1e-5)?),
    ] {
        golden.check_layer(case, &layer, &["x"], |m, xs| m.forward(&xs[0]))?;
    }
    Ok(())
}

#[test]
fn an_eps_that_is_not_positive_is_refused() {
    for eps in [0.0, -1e-5, f32::NAN] {
        assert!(RmsNorm::new(4, eps).is_err());
        assert!(LayerNorm::new(4, eps).is_err());
    }
}
