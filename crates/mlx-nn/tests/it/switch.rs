//! Layers of experts.

use mlx_core::Array;
use mlx_nn::{
    Error, LoadOptions, Quantization, SwitchGlu, SwitchLinear, SwitchMlp, Weight, load_weights,
    parameters, quantize,
};

use crate::golden::{Golden, TestResult, checkpoint, settings};

#[test]
fn experts_and_their_gradients_equal_python() -> TestResult {
    let golden = Golden::open("switch")?;
    let indices = golden.get("linear", "indices")?;
    golden.check_layer(
        "linear",
        &SwitchLinear::new(8, 6, 5, true)?,
        &["x"],
        move |m, xs| m.forward(&xs[0], &indices, false),
    )?;
    for tokens in ["few", "many"] {
        let case = format!("glu.{tokens}");
        let indices = golden.get(&case, "indices")?;
        let glu = SwitchGlu::new(8, 12, 5, true)?;
        golden.check_layer(&case, &glu, &["x"], move |m, xs| {
            m.forward(&xs[0], &indices)
        })?;
        let case = format!("mlp.{tokens}");
        let indices = golden.get(&case, "indices")?;
        let mlp = SwitchMlp::new(8, 12, 5, false)?;
        golden.check_layer(&case, &mlp, &["x"], move |m, xs| {
            m.forward(&xs[0], &indices)
        })?;
    }
    Ok(())
}

#[test]
fn quantised_experts_load_run_and_quantise_like_python() -> TestResult {
    let golden = Golden::open("switch")?;
    let cases: Vec<&str> = golden
        .cases()
        .into_iter()
        .filter(|case| case.starts_with("quantized."))
        .collect();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let mut layer = SwitchLinear::placeholder(64, 8, 3, true)?;
        let report = load_weights(
            &mut layer,
            checkpoint(&golden, case),
            &LoadOptions::default(),
        )?;
        assert_eq!(report.quantized, 1, "{case}");
        assert!(
            matches!(&layer.weight, Weight::Quantized(weight) if weight.quantization == settings(case)?)
        );
        let (x, indices) = (golden.get(case, "x")?, golden.get(case, "indices")?);
        golden.check(case, "y", &layer.forward(&x, &indices, false)?)?;

        let mut layer = SwitchLinear::from_weights(golden.get(case, "dense")?, None)?;
        let uniform = Quantization::uniform(settings(case)?);
        assert_eq!(quantize(&mut layer, &uniform, |_, _| true)?, 1);
        for (name, array) in parameters(&layer) {
            golden.check(case, &name, &array)?;
        }
    }
    Ok(())
}

#[test]
fn sorting_by_expert_changes_nothing() -> TestResult {
    let glu = SwitchGlu::new(8, 16, 4, false)?;
    let x = mlx_core::ops::random::normal::<f32>(0.0, 1.0, &[40, 8], None)?;
    let indices = mlx_core::ops::random::randint::<u32>(0, 4, &[40, 2], None)?;
    let all = glu.forward(&x, &indices)?.to_vec::<f32>()?;
    let mut parts = Vec::new();
    for start in [0, 20] {
        let rows = |array: &Array, width: i32| array.slice(&[start, 0], &[start + 20, width]);
        parts.extend(
            glu.forward(&rows(&x, 8)?, &rows(&indices, 2)?)?
                .to_vec::<f32>()?,
        );
    }
    let gap = all
        .iter()
        .zip(&parts)
        .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()));
    assert!(gap < 1e-6, "{gap}");
    Ok(())
}

#[test]
fn experts_report_what_they_cannot_do() -> TestResult {
    let layer = SwitchLinear::placeholder(4, 3, 2, false)?;
    let (x, indices) = (Array::ones::<f32>(&[1, 1, 4])?, Array::zeros::<u32>(&[1])?);
    assert!(matches!(
        layer.forward(&x, &indices, false),
        Err(Error::NotLoaded {
            layer: "SwitchLinear",
            ..
        })
    ));
    let layer = SwitchLinear::new(4, 3, 2, true)?;
    let outside = Array::from_slice::<u32>(&[2], &[1])?;
    assert!(matches!(
        layer.forward(&x, &outside, false),
        Err(Error::Core(_))
    ));
    assert!(SwitchLinear::new(4, 3, 0, true).is_err());
    assert!(SwitchLinear::from_weights(Array::ones::<f32>(&[2, 3])?, None).is_err());
    let glu = SwitchGlu::new(4, 8, 2, false)?;
    assert!(glu.forward(&x, &Array::scalar::<u32>(0)?).is_err());
    Ok(())
}
