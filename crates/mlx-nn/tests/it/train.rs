//! Gradients of modules by name, and training that truly trains.

use mlx_core::{Array, ops::random, ops::reduction::sum};
use mlx_nn::{
    Activation, BatchNorm, Error, LayerQuantization, Linear, Module, Quantization, Sequential,
    init,
    loss::{CrossEntropyOptions, Reduction, cross_entropy, mse_loss},
    optimizer::{Adam, Optimize, Optimizer},
    parameters, quantize, trainable_parameters, value_and_grad, value_and_grad_of,
};

use crate::golden::TestResult;

fn mean() -> CrossEntropyOptions {
    CrossEntropyOptions::default().reduction(Reduction::Mean)
}

#[test]
fn a_network_learns_what_no_line_separates() -> TestResult {
    random::seed(7)?;
    let mut model = Sequential::new()
        .then(Linear::new(2, 16, true)?)
        .then(Activation::Tanh)
        .then(Linear::new(16, 2, true)?);
    let mut optimizer = Optimizer::new(
        Adam {
            bias_correction: true,
            ..Adam::default()
        },
        0.05,
    )?;
    let x = Array::from_slice::<f32>(&[0., 0., 0., 1., 1., 0., 1., 1.], &[4, 2])?;
    let y = Array::from_slice::<i32>(&[0, 1, 1, 0], &[4])?;
    let inputs = [x.clone(), y.clone()];
    let mut losses = Vec::new();
    for _ in 0..100 {
        let (loss, gradients) = value_and_grad(&mut model, &inputs, |model, xs| {
            cross_entropy(&model.forward(&xs[0])?, &xs[1], mean())
        })?;
        optimizer.update(&mut model, &gradients)?;
        losses.push(loss.item::<f32>()?);
    }
    assert!(
        losses[0] > 0.5 && losses[99] < 0.05,
        "{} to {}",
        losses[0],
        losses[99]
    );
    let found = model.forward(&x)?.argmax_axis(-1, false)?.to_vec::<u32>()?;
    assert_eq!(found, [0, 1, 1, 0]);
    Ok(())
}

#[test]
fn gradients_equal_finite_differences() -> TestResult {
    let mut model = Sequential::new()
        .then(Linear::new(3, 2, true)?)
        .then(Activation::Silu);
    let x = random::normal::<f32>(0.0, 1.0, &[4, 3], Some(&random::key(1)?))?;
    let loss = |model: &Sequential, x: &Array| -> mlx_nn::Result<Array> {
        Ok(sum(&model.forward(x)?, false)?)
    };
    let inputs = [x.clone()];
    let (_, gradients) = value_and_grad(&mut model, &inputs, move |model, xs| loss(model, &xs[0]))?;
    let before = parameters(&model);
    for (key, gradient) in &gradients {
        let size = i32::try_from(gradient.size())?;
        for position in 0..size {
            let mut at = |step: f32| -> Result<f32, Box<dyn std::error::Error>> {
                let mut values = before[key].to_vec::<f32>()?;
                values[usize::try_from(position)?] += step;
                let changed = Array::from_slice(&values, &before[key].shape())?;
                mlx_nn::update(&mut model, [(key.clone(), changed)].into())?;
                Ok(loss(&model, &x)?.item::<f32>()?)
            };
            let numeric = (at(1e-2)? - at(-1e-2)?) / 2e-2;
            let exact = gradient.reshape(&[-1])?.index(position)?.item::<f32>()?;
            assert!(
                (numeric - exact).abs() < 1e-2,
                "{key}[{position}]: {numeric} or {exact}"
            );
        }
        mlx_nn::update(&mut model, before.clone())?;
    }
    Ok(())
}

#[test]
fn frozen_and_quantised_weights_get_no_gradient() -> TestResult {
    let mut model = Sequential::new()
        .then(Linear::new(64, 8, true)?)
        .then(Linear::new(8, 1, true)?);
    let settings = Quantization::uniform(LayerQuantization::default());
    quantize(&mut model, &settings, |path, _| path == "layers.0")?;
    let inputs = [Array::ones::<f32>(&[2, 64])?];
    let loss = |model: &mut Sequential, xs: &[Array]| Ok(sum(&model.forward(&xs[0])?, false)?);
    let (_, gradients) = value_and_grad(&mut model, &inputs, loss)?;
    let keys: Vec<String> = gradients.into_keys().collect();
    assert_eq!(keys, ["layers.0.bias", "layers.1.bias", "layers.1.weight"]);

    let chosen = trainable_parameters(&model)
        .into_keys()
        .filter(|key| key.starts_with("layers.1"));
    let (_, gradients) = value_and_grad_of(&mut model, &chosen.collect(), &inputs, loss)?;
    assert_eq!(
        gradients.into_keys().collect::<Vec<_>>(),
        ["layers.1.bias", "layers.1.weight"]
    );
    let unknown = ["layers.9.weight".to_owned()].into();
    assert!(matches!(
        value_and_grad_of(&mut model, &unknown, &inputs, loss),
        Err(Error::Weight { .. })
    ));
    Ok(())
}

#[test]
fn errors_and_panics_leave_the_model_as_it_was() -> TestResult {
    let mut model = Sequential::new().then(Linear::new(2, 1, true)?);
    let before = parameters(&model);
    let wrong = [Array::ones::<f32>(&[1, 3])?];
    let error = value_and_grad(&mut model, &wrong, |model, xs| model.forward(&xs[0]));
    assert!(matches!(error, Err(Error::Core(_))));
    let error = value_and_grad(&mut model, &[], |_, _| panic!("on purpose"));
    assert!(
        matches!(error, Err(Error::Core(mlx_core::Error::Panic(text))) if text.contains("on purpose"))
    );
    let error = value_and_grad(&mut model, &[Array::ones::<f32>(&[4, 2])?], |model, xs| {
        model.forward(&xs[0])
    });
    assert!(error.is_err(), "the value is no scalar");
    for (key, array) in parameters(&model) {
        assert_eq!(
            array.to_vec::<f32>()?,
            before[&key].to_vec::<f32>()?,
            "{key}"
        );
    }
    Ok(())
}

#[derive(Debug, Clone, Module)]
struct Normed {
    norm: BatchNorm,
    head: Linear,
}

#[test]
fn running_statistics_are_taken_over_from_the_traced_function() -> TestResult {
    let mut model = Normed {
        norm: BatchNorm::new(3)?,
        head: Linear::new(3, 1, true)?,
    };
    let x = (random::normal::<f32>(0.0, 1.0, &[8, 3], Some(&random::key(2)?))? + 5.0)?;
    let inputs = [x.clone(), Array::zeros::<f32>(&[8, 1])?];
    let (_, gradients) = value_and_grad(&mut model, &inputs, |model, xs| {
        let x = model.norm.forward_train(&xs[0])?;
        mse_loss(&model.head.forward(&x)?, &xs[1], Reduction::Mean)
    })?;
    let keys: Vec<String> = gradients.into_keys().collect();
    assert_eq!(
        keys,
        ["head.bias", "head.weight", "norm.bias", "norm.weight"]
    );
    let mut alone = BatchNorm::new(3)?;
    let _normalized = alone.forward_train(&x)?;
    let mean = |norm: &BatchNorm| norm.running_mean.as_ref().map(|mean| mean.to_vec::<f32>());
    let (found, expected) = (
        mean(&model.norm).ok_or("tracked")??,
        mean(&alone).ok_or("tracked")??,
    );
    assert_eq!(found, expected);
    assert!(found.iter().all(|mean| *mean > 0.3), "{found:?}");
    Ok(())
}

#[test]
fn initialisers_keep_their_promises() -> TestResult {
    let key = random::key(4)?;
    let deviation = |array: &Array| array.std(false, 0)?.item::<f32>();
    let normal = init::glorot_normal(&[200, 100], 1.0, Some(&key))?;
    assert!((deviation(&normal)? - (2.0_f32 / 300.0).sqrt()).abs() < 2e-3);
    let uniform = init::glorot_uniform(&[200, 100], 1.0, Some(&key))?.to_vec::<f32>()?;
    assert!(uniform.iter().all(|v| v.abs() <= (6.0_f32 / 300.0).sqrt()));
    let he = init::he_normal(&[200, 100], init::Fan::Out, 1.0, Some(&key))?;
    assert!((deviation(&he)? - (1.0_f32 / 200.0).sqrt()).abs() < 2e-3);
    let he = init::he_uniform(&[200, 100], init::Fan::In, 1.0, Some(&key))?.to_vec::<f32>()?;
    assert!(he.iter().all(|v| v.abs() <= (3.0_f32 / 100.0).sqrt()));
    for shape in [[5, 3], [3, 5]] {
        let q = init::orthogonal(&shape, 2.0, Some(&key))?;
        let q = if shape[0] > shape[1] {
            q.transpose()?
        } else {
            q
        };
        let gram = (q.matmul(&q.transpose()?)? / 4.0)?;
        let difference = (gram - Array::identity::<f32>(3)?)?
            .abs()?
            .max(false)?
            .item::<f32>()?;
        assert!(difference < 1e-5, "{difference}");
    }
    let sparse = init::sparse(&[4, 10], 0.35, 0.0, 1.0, Some(&key))?.to_vec::<f32>()?;
    for row in sparse.chunks(10) {
        assert_eq!(row.iter().filter(|v| **v == 0.0).count(), 4);
    }
    let constant = init::constant(&[2, 2], 0.5, mlx_core::Dtype::Float16)?;
    assert_eq!(constant.dtype(), mlx_core::Dtype::Float16);
    assert!(init::glorot_normal(&[3], 1.0, None).is_err());
    assert!(init::sparse(&[4, 10], 1.5, 0.0, 1.0, None).is_err());
    Ok(())
}
