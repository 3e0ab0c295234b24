//! Linear and embedding, dense and in every quantisation.

use mlx_core::{Array, Dtype, ops::random};
use mlx_nn::{
    Embedding, Error, LayerQuantization, Linear, LoadOptions, QqLinear, QuantMode, Quantization,
    Sequential, Weight, load_weights, parameter_count, parameters, quantize, trainable_parameters,
    value_and_grad,
};

use crate::golden::{Golden, TestResult, checkpoint, relative_difference, settings};

#[test]
fn dense_layers_equal_python() -> TestResult {
    let golden = Golden::open("linear")?;
    golden.check_layer("linear", &Linear::new(64, 6, true)?, &["x"], |m, xs| {
        m.forward(&xs[0])
    })?;
    let layer = Linear::new(64, 6, false)?;
    golden.check_layer("linear.without_bias", &layer, &["x"], |m, xs| {
        m.forward(&xs[0])
    })?;
    let table = Embedding::from_weights(golden.get("embedding", "parameters.weight")?);
    golden.check(
        "embedding",
        "y",
        &table.forward(&golden.get("embedding", "ids")?)?,
    )?;
    golden.check(
        "embedding",
        "logits",
        &table.as_linear(&golden.get("embedding", "x")?)?,
    )?;
    let ids = golden.get("embedding", "ids")?;
    golden.check_function("embedding.rows", &["weight"], move |xs| {
        Embedding::from_weights(xs[0].clone()).forward(&ids)
    })?;
    golden.check_function("embedding.logits", &["x", "weight"], |xs| {
        Embedding::from_weights(xs[1].clone()).as_linear(&xs[0])
    })
}

#[test]
fn quantised_inputs_equal_python() -> TestResult {
    let golden = Golden::open("linear")?;
    for (case, mode) in [
        ("qq.nvfp4", QuantMode::Nvfp4),
        ("qq.mxfp8", QuantMode::Mxfp8),
    ] {
        let dense = Linear::from_weights(golden.get(case, "dense")?, None)?;
        let mut layer = QqLinear::from_linear(&dense, mode)?;
        assert_eq!(trainable_parameters(&layer).len(), 1);
        // Training rounds the weight on the fly, to the same numbers.
        let row = golden.get(case, "x")?;
        golden.check(case, "y", &layer.forward(&row)?)?;
        layer.quantize()?;
        assert!(trainable_parameters(&layer).is_empty());
        for (name, array) in parameters(&layer) {
            golden.check(case, &name, &array)?;
        }
        golden.check(case, "y", &layer.forward(&row)?)?;
        // Rows do not know of each other.
        let rows = row.broadcast_to(&[2, 3, 64])?;
        let y = layer.forward(&rows)?;
        assert_eq!(y.shape(), [2, 3, 32]);
        golden.check(case, "y", &y.reshape(&[6, 32])?.slice(&[4, 0], &[5, 32])?)?;

        let mut loaded = QqLinear::placeholder(64, 32, mode)?;
        assert!(matches!(loaded.forward(&row), Err(Error::NotLoaded { .. })));
        let weights = checkpoint(&golden, case);
        load_weights(&mut loaded, weights, &LoadOptions::default())?;
        golden.check(case, "y", &loaded.forward(&row)?)?;
        loaded.dequantize()?;
        golden.check(case, "y", &loaded.forward(&row)?)?;
    }
    assert!(QqLinear::new(64, 32, QuantMode::Affine).is_err());
    let biased = Linear::new(64, 32, true)?;
    assert!(QqLinear::from_linear(&biased, QuantMode::Nvfp4).is_err());
    let mut narrow = QqLinear::new(20, 4, QuantMode::Nvfp4)?;
    assert!(narrow.forward(&Array::ones::<f32>(&[1, 20])?).is_err());
    assert!(narrow.quantize().is_err());
    Ok(())
}

/// The gradients are products of rounded operands: near those of the dense layer, and not them.
#[test]
fn quantised_inputs_train() -> TestResult {
    let x = random::normal::<f32>(0.0, 1.0, &[2, 16, 64], Some(&random::key(1)?))?;
    let c = random::normal::<f32>(0.0, 1.0, &[2, 16, 32], Some(&random::key(2)?))?;
    for (mode, tolerance) in [(QuantMode::Nvfp4, 0.25), (QuantMode::Mxfp8, 0.08)] {
        let mut dense = Linear::new(64, 32, false)?;
        let mut layer = QqLinear::from_linear(&dense, mode)?;
        // A batch of 32 rows fills whole groups.
        let inputs = [x.clone(), c.clone()];
        let (_, found) = value_and_grad(&mut layer, &inputs, |layer, xs| {
            Ok((layer.forward(&xs[0])? * &xs[1])?.sum(false)?)
        })?;
        let (_, exact) = value_and_grad(&mut dense, &inputs, |layer, xs| {
            Ok((layer.forward(&xs[0])? * &xs[1])?.sum(false)?)
        })?;
        let gap = relative_difference(&found["weight"], &exact["weight"])?;
        assert!(gap > 1e-4 && gap < tolerance, "{mode}: {gap}");
    }
    let mut layer = QqLinear::new(64, 32, QuantMode::Nvfp4)?;
    let rows = [x.slice(&[0, 0, 0], &[1, 5, 64])?];
    let refused = value_and_grad(&mut layer, &rows, |layer, xs| {
        Ok(layer.forward(&xs[0])?.sum(false)?)
    });
    assert!(refused.is_err());
    Ok(())
}

#[test]
fn every_quantised_checkpoint_loads_and_runs_like_python() -> TestResult {
    let golden = Golden::open("linear")?;
    let cases: Vec<&str> = golden
        .cases()
        .into_iter()
        .filter(|case| case.starts_with("quantized."))
        .collect();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let mut layer = Linear::placeholder(64, 8, true)?;
        let report = load_weights(
            &mut layer,
            checkpoint(&golden, case),
            &LoadOptions::default(),
        )?;
        assert_eq!(report.quantized, 1, "{case}");
        let Weight::Quantized(weight) = &layer.weight else {
            panic!("{case} is not quantised")
        };
        assert_eq!(
            weight.quantization,
            settings(case)?,
            "inferred from the shapes of {case}"
        );
        assert_eq!(layer.weight.shape(), [8, 64]);
        golden.check(case, "y", &layer.forward(&golden.get(case, "x")?)?)?;
        let gradient = case.replace("quantized.", "quantized_gradient.");
        golden.check_function(&gradient, &["x"], move |xs| layer.forward(&xs[0]))?;

        let case = case.replace("quantized.", "quantized_embedding.");
        let mut table = Embedding::placeholder(10, 64)?;
        load_weights(
            &mut table,
            checkpoint(&golden, &case),
            &LoadOptions::default(),
        )?;
        let rows = table
            .forward(&golden.get(&case, "ids")?)?
            .astype(Dtype::Float32)?;
        golden.check(&case, "y", &rows)?;
        golden.check(&case, "logits", &table.as_linear(&golden.get(&case, "x")?)?)?;
    }
    Ok(())
}

#[test]
fn quantising_gives_python_codes() -> TestResult {
    let golden = Golden::open("linear")?;
    for case in golden
        .cases()
        .into_iter()
        .filter(|case| case.starts_with("quantized."))
    {
        let mut layer = Linear::from_weights(golden.get(case, "dense")?, None)?;
        let chosen = quantize(
            &mut layer,
            &Quantization::uniform(settings(case)?),
            |_, _| true,
        )?;
        assert_eq!(chosen, 1);
        for (name, array) in parameters(&layer) {
            golden.check(case, &name, &array)?;
        }
    }
    Ok(())
}

#[test]
fn quantised_weights_are_no_trainable_parameters_but_count_in_full() -> TestResult {
    let mut model = Sequential::new()
        .then(Linear::new(64, 4, true)?)
        .then(Linear::new(4, 2, true)?);
    let mut seen = Vec::new();
    let settings = Quantization::uniform(LayerQuantization::default());
    let count = quantize(&mut model, &settings, |path, weight| {
        seen.push(path.to_owned());
        weight.shape()[1] % 64 == 0
    })?;
    assert_eq!(
        (count, seen),
        (1, vec!["layers.0".to_owned(), "layers.1".to_owned()])
    );
    let trainable: Vec<String> = trainable_parameters(&model).into_keys().collect();
    assert_eq!(
        trainable,
        ["layers.0.bias", "layers.1.bias", "layers.1.weight"]
    );
    assert_eq!(parameter_count(&model), 64 * 4 + 4 + 4 * 2 + 2);
    Ok(())
}

#[test]
fn layers_report_what_they_cannot_do() -> TestResult {
    let layer = Linear::placeholder(3, 2, false)?;
    let error = layer.forward(&Array::ones::<f32>(&[1, 3])?);
    assert!(matches!(
        error,
        Err(Error::NotLoaded {
            layer: "Linear",
            ..
        })
    ));
    let table = Embedding::placeholder(3, 2)?;
    assert!(matches!(
        table.forward(&Array::scalar::<i32>(0)?),
        Err(Error::NotLoaded { .. })
    ));
    assert!(Linear::new(0, 2, true).is_err());
    assert!(Embedding::new(4, -1).is_err());
    let (weight, bias) = (Array::ones::<f32>(&[2, 3])?, Array::ones::<f32>(&[3])?);
    assert!(Linear::from_weights(weight, Some(bias)).is_err());
    let wide = Linear::new(3, 2, true)?.forward(&Array::ones::<f32>(&[1, 4])?);
    assert!(matches!(wide, Err(Error::Core(_))));
    Ok(())
}

#[test]
fn fresh_weights_stay_within_their_bound() -> TestResult {
    let Weight::Dense(weight) = Linear::new(16, 64, false)?.weight else {
        panic!("not dense")
    };
    let values = weight.to_vec::<f32>()?;
    assert!(values.iter().all(|v| v.abs() <= 0.25));
    assert!(values.iter().any(|v| *v > 0.2) && values.iter().any(|v| *v < -0.2));
    Ok(())
}

#[test]
fn a_layer_of_cut_inputs_draws_its_bias() -> TestResult {
    let group = mlx_core::distributed::Group::alone()?;
    let layer = mlx_nn::distributed::ShardedToAllLinear::new(64, 8, true, &group)?;
    let bias = mlx_nn::parameters(&layer)["bias"].to_vec::<f32>()?;
    assert!(bias.iter().all(|b| b.abs() <= 0.125), "{bias:?}");
    assert!(bias.iter().any(|b| *b != 0.0), "{bias:?}");
    Ok(())
}
