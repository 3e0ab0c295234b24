//! The compiled training step.

use mlx_core::{Array, ops::random};
use mlx_nn::{
    Activation, BatchNorm, Dropout, Error, Linear, LoadOptions, Mode, Module, Sequential, Weights,
    checkpoint, load_weights,
    loss::{Reduction, mse_loss},
    optimizer::{Adam, MultiOptimizer, Optimize, Optimizer, Schedule, Sgd},
    parameters, save_weights_npz, summary,
    train::{StepOptions, TrainStep},
    value_and_grad,
};

use crate::golden::TestResult;

#[derive(Debug, Clone, Module)]
struct Net {
    norm: BatchNorm,
    head: Linear,
    #[module(skip)]
    dropout: Dropout,
}

fn net() -> mlx_nn::Result<Net> {
    random::seed(3)?;
    Ok(Net {
        norm: BatchNorm::new(4)?,
        head: Linear::new(4, 1, true)?,
        dropout: Dropout::new(0.2)?,
    })
}

fn loss(net: &mut Net, xs: &[Array], key: &Array) -> mlx_nn::Result<Array> {
    let x = net.norm.forward_train(&xs[0])?;
    let x = net.dropout.forward(&x, Mode::Train(key))?;
    mse_loss(&net.head.forward(&x)?, &xs[1], Reduction::Mean)
}

fn batch(seed: u64) -> mlx_core::Result<[Array; 2]> {
    let x = random::normal::<f32>(1.0, 2.0, &[8, 4], Some(&random::key(seed)?))?;
    let y = x.slice(&[0, 0], &[8, 1])?;
    Ok([x, y])
}

fn optimizer() -> mlx_nn::Result<MultiOptimizer> {
    let schedule = Schedule::cosine_decay(0.05, 20, 0.0)?;
    let rest = Optimizer::new(Adam::default(), schedule)?;
    Ok(
        MultiOptimizer::new(rest).with(Optimizer::new(Sgd::default(), 0.05)?, |key, _| {
            key.ends_with("bias")
        }),
    )
}

fn curve(options: StepOptions, steps: u64) -> Result<(Vec<f32>, Net), Box<dyn std::error::Error>> {
    let mut step = TrainStep::new(net()?, optimizer()?, options, loss)?;
    let mut losses = Vec::new();
    for number in 0..steps {
        losses.push(step.step(&batch(number)?)?.item::<f32>()?);
    }
    Ok((losses, step.into_model()?))
}

#[test]
fn compiled_eager_and_pipelined_steps_agree() -> TestResult {
    let options = StepOptions::default().seed(5).clip_norm(1.0);
    let (eager, model) = curve(options.clone().compile(false), 12)?;
    assert!(eager[11] < eager[0], "{eager:?}");
    for options in [options.clone(), options.pipelined(true)] {
        let (losses, other) = curve(options, 12)?;
        for (a, b) in eager.iter().zip(&losses) {
            assert!(
                (a - b).abs() <= 1e-5 * a.abs().max(1.0),
                "{eager:?} {losses:?}"
            );
        }
        for (key, array) in parameters(&model) {
            let (a, b) = (
                array.to_vec::<f32>()?,
                parameters(&other)[&key].to_vec::<f32>()?,
            );
            let gap = a
                .iter()
                .zip(&b)
                .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()));
            assert!(gap < 1e-4, "{key}: {gap}");
        }
    }
    let Some(mean) = &model.norm.running_mean else {
        return Err("statistics are tracked".into());
    };
    assert!(mean.to_vec::<f32>()?.iter().all(|mean| mean.abs() > 0.1));
    Ok(())
}

#[test]
fn a_step_of_two_halves_equals_a_whole_one() -> TestResult {
    let plain = |net: &mut Linear, xs: &[Array], _: &Array| {
        mse_loss(&net.forward(&xs[0])?, &xs[1], Reduction::Mean)
    };
    let make = || -> mlx_nn::Result<_> {
        random::seed(1)?;
        let optimizer = Optimizer::new(Adam::default(), 0.1)?;
        let options = StepOptions::default().compile(false);
        TrainStep::new(Linear::new(4, 1, true)?, optimizer, options, plain)
    };
    let [x, y] = batch(1)?;
    let half = |from: i32| -> mlx_core::Result<[Array; 2]> {
        Ok([
            x.slice(&[from, 0], &[from + 4, 4])?,
            y.slice(&[from, 0], &[from + 4, 1])?,
        ])
    };
    let (mut whole, mut halves, mut averaged) = (make()?, make()?, make()?);
    averaged.average_with(Ok);
    let a = whole.step(&[x.clone(), y.clone()])?.item::<f32>()?;
    let b = halves.accumulate([half(0)?, half(4)?])?.item::<f32>()?;
    let c = averaged.step(&[x.clone(), y.clone()])?.item::<f32>()?;
    assert!((a - b).abs() < 1e-5 && (a - c).abs() < 1e-6, "{a} {b} {c}");
    for other in [&halves, &averaged] {
        let (a, b) = (parameters(&*whole.model()), parameters(&*other.model()));
        let (a, b) = (a["weight"].to_vec::<f32>()?, b["weight"].to_vec::<f32>()?);
        assert!(
            a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5),
            "{a:?} {b:?}"
        );
    }
    assert!(halves.accumulate(Vec::<Vec<Array>>::new()).is_err());
    Ok(())
}

#[test]
fn errors_panics_and_frozen_parameters_leave_things_as_they_were() -> TestResult {
    for compile in [false, true] {
        let options = StepOptions::default().compile(compile);
        let mut step = TrainStep::new(net()?, optimizer()?, options, |net, xs, key| {
            assert!(xs.len() == 2, "two arrays make a batch");
            loss(net, xs, key)
        })?;
        step.freeze(|key| key.starts_with("head"));
        let before = parameters(&*step.model());
        let state = step.state();
        let wrong = [Array::ones::<f32>(&[2, 7])?, Array::ones::<f32>(&[2, 1])?];
        assert!(step.step(&wrong).is_err());
        assert!(step.step(&[]).is_err());
        assert_eq!(
            step.state()["key"].to_vec::<u32>()?,
            state["key"].to_vec::<u32>()?
        );
        for (key, array) in parameters(&*step.model()) {
            assert_eq!(
                array.to_vec::<f32>()?,
                before[&key].to_vec::<f32>()?,
                "{key}"
            );
        }
        let _loss = step.step(&batch(0)?)?;
        let after = parameters(&*step.model());
        assert_eq!(
            after["head.weight"].to_vec::<f32>()?,
            before["head.weight"].to_vec::<f32>()?
        );
        assert_ne!(
            after["norm.weight"].to_vec::<f32>()?,
            before["norm.weight"].to_vec::<f32>()?
        );
        step.freeze(|_| true);
        assert!(matches!(
            step.step(&batch(0)?),
            Err(Error::InvalidArgument { .. })
        ));
        step.unfreeze(|key| key == "head.bias");
        let _loss = step.step(&batch(0)?)?;
        assert_ne!(
            parameters(&*step.model())["head.bias"].to_vec::<f32>()?,
            before["head.bias"].to_vec::<f32>()?
        );
    }
    Ok(())
}

#[test]
fn a_saved_state_goes_on_where_it_was() -> TestResult {
    let options = || StepOptions::default().compile(false).seed(9);
    let mut first = TrainStep::new(net()?, optimizer()?, options(), loss)?;
    for number in 0..3 {
        let _loss = first.step(&batch(number)?)?;
    }
    let mut second = TrainStep::new(net()?, optimizer()?, options(), loss)?;
    mlx_nn::update(&mut *second.model_mut(), parameters(&*first.model()))?;
    second.set_state(first.state())?;
    for number in 3..6 {
        let a = first.step(&batch(number)?)?.item::<f32>()?;
        let b = second.step(&batch(number)?)?.item::<f32>()?;
        assert_eq!(a.to_bits(), b.to_bits());
    }
    let mut stray = first.state();
    stray.insert("elsewhere".to_owned(), Array::scalar(1.0_f32)?);
    assert!(second.set_state(stray).is_err());
    Ok(())
}

#[test]
fn checkpointed_gradients_equal_plain_ones() -> TestResult {
    let mut model = Sequential::new()
        .then(Linear::new(4, 8, true)?)
        .then(Activation::Tanh)
        .then(Linear::new(8, 1, true)?);
    let inputs = batch(2)?;
    let (a, plain) = value_and_grad(&mut model, &inputs, |m, xs| {
        mse_loss(&m.forward(&xs[0])?, &xs[1], Reduction::Mean)
    })?;
    let (b, checkpointed) = value_and_grad(&mut model, &inputs, |m, xs| {
        let y = checkpoint(m, &xs[..1], |m, xs| Ok(vec![m.forward(&xs[0])?]))?;
        mse_loss(&y[0], &xs[1], Reduction::Mean)
    })?;
    assert_eq!(a.item::<f32>()?, b.item::<f32>()?);
    for (key, gradient) in &plain {
        let (a, b) = (
            gradient.to_vec::<f32>()?,
            checkpointed[key].to_vec::<f32>()?,
        );
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-6), "{key}");
        assert!(a.iter().any(|a| *a != 0.0), "{key}");
    }
    Ok(())
}

#[test]
fn npz_files_and_dtypes_are_checked() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.npz");
    let model = Sequential::new().then(Linear::new(3, 2, true)?);
    save_weights_npz(&model, &path)?;
    let mut other = Sequential::new().then(Linear::new(3, 2, true)?);
    load_weights(
        &mut other,
        Weights::load_npz(&path)?,
        &LoadOptions::default(),
    )?;
    assert_eq!(
        parameters(&other)["layers.0.weight"].to_vec::<f32>()?,
        parameters(&model)["layers.0.weight"].to_vec::<f32>()?
    );
    for dtype in [mlx_core::Dtype::Bool, mlx_core::Dtype::Int32] {
        for key in ["layers.0.weight", "layers.0.bias"] {
            let mut weights = Weights::load_npz(&path)?;
            let array = weights.take(key).ok_or("missing")?;
            weights.insert(key, array.astype(dtype)?)?;
            let error = load_weights(&mut other, weights, &LoadOptions::default());
            assert!(matches!(error, Err(Error::Load(_))), "{key} {dtype}");
        }
    }
    let table = summary(&model);
    assert_eq!(
        (table.parameters(), table.trainable(), table.bytes()),
        (8, 8, 32)
    );
    Ok(())
}

#[test]
fn a_compiled_step_notices_another_schedule() -> TestResult {
    // The gradient of the only weight is one, so that a step goes as far as its rate.
    let make = |rate: Schedule| -> mlx_nn::Result<_> {
        let optimizer = Optimizer::new(Sgd::default(), rate)?;
        let several = MultiOptimizer::new(optimizer);
        let line = Linear::from_weights(Array::zeros::<f32>(&[1, 1])?, None)?;
        TrainStep::new(line, several, StepOptions::default(), |line, xs, _| {
            Ok(line.forward(&xs[0])?.sum(false)?)
        })
    };
    let one = [Array::ones::<f32>(&[1, 1])?];
    let mut step = make(Schedule::exponential_decay(0.5, 0.5))?;
    let went = |step: &mut TrainStep<Linear, MultiOptimizer>| -> Result<f32, mlx_nn::Error> {
        let read = |step: &TrainStep<Linear, MultiOptimizer>| {
            parameters(&*step.model())["weight"].item::<f32>()
        };
        let before = read(step)?;
        let _loss = step.step(&one)?;
        Ok(before - read(step)?)
    };
    assert_eq!((went(&mut step)?, went(&mut step)?), (0.5, 0.25));
    let linear = Schedule::linear(0.0, 8.0, 8)?;
    step.optimizer_mut().set_learning_rate(linear)?;
    assert_eq!((went(&mut step)?, went(&mut step)?), (2.0, 3.0));
    step.optimizer_mut().set_learning_rate(0.125.into())?;
    assert_eq!((went(&mut step)?, went(&mut step)?), (0.125, 0.125));
    step.optimizer_mut().set_learning_rate(0.25.into())?;
    assert_eq!(went(&mut step)?, 0.25);
    // Another optimizer in its place, too.
    *step.optimizer_mut() = MultiOptimizer::new(Optimizer::new(
        Sgd::default(),
        Schedule::linear(1.0, 2.0, 2)?,
    )?);
    assert_eq!((went(&mut step)?, went(&mut step)?), (1.0, 1.5));
    Ok(())
}

#[test]
fn numbers_of_gradients_are_limited_before_their_norm() -> TestResult {
    let went = |options: StepOptions| -> mlx_nn::Result<Vec<f32>> {
        let line = Linear::from_weights(Array::zeros::<f32>(&[1, 2])?, None)?;
        let sgd = Optimizer::new(Sgd::default(), 1.0)?;
        let mut step = TrainStep::new(line, sgd, options, |line, xs, _| {
            Ok(line.forward(&xs[0])?.sum(false)?)
        })?;
        let _loss = step.step(&[Array::from_slice::<f32>(&[-30.0, 4.0], &[1, 2])?])?;
        Ok(parameters(&*step.model())["weight"].to_vec::<f32>()?)
    };
    let options = StepOptions::default().clip_value(3.0);
    assert_eq!(went(options.clone())?, [3.0, -3.0]);
    let both = went(options.clip_norm(1.0))?;
    assert!((both[0] - 0.5_f32.sqrt()).abs() < 1e-5, "{both:?}");
    assert!(went(StepOptions::default().clip_value(-1.0)).is_err());
    Ok(())
}
