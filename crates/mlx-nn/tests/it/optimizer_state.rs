//! What optimizers take up, refuse and roll back; learning rates that change.

use std::collections::BTreeMap;

use mlx_core::{Array, ops::arithmetic::rsqrt};
use mlx_nn::{
    Error, Gradients,
    optimizer::{
        Adafactor, Adam, AdamW, MultiOptimizer, Optimize, Optimizer, RmsProp, Schedule, Sgd,
    },
};

use crate::golden::TestResult;

type State = BTreeMap<String, Array>;

fn weights() -> mlx_core::Result<Gradients> {
    Ok(Gradients::from([
        ("a".to_owned(), Array::ones::<f32>(&[2, 3])?),
        ("b".to_owned(), Array::ones::<f32>(&[4])?),
    ]))
}

fn values(state: &State) -> mlx_core::Result<BTreeMap<String, Vec<f32>>> {
    let value = |(key, array): (&String, &Array)| {
        let array = array.astype(mlx_core::Dtype::Float32)?;
        Ok((key.clone(), array.to_vec::<f32>()?))
    };
    state.iter().map(value).collect()
}

/// Gives `optimizer` the state with one array more or other than its own; the error's text.
fn refused(
    optimizer: &mut dyn Optimize,
    key: &str,
    array: Option<Array>,
) -> mlx_core::Result<String> {
    let before = optimizer.state();
    let mut state = before.clone();
    state.remove(key);
    state.extend(array.map(|array| (key.to_owned(), array)));
    let result = optimizer.set_state(state);
    assert!(matches!(result, Err(Error::Weight { .. })), "{result:?}");
    assert_eq!(values(&optimizer.state())?, values(&before)?);
    Ok(result
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default())
}

#[test]
fn a_state_with_other_names_or_shapes_is_refused() -> TestResult {
    let mut optimizer = Optimizer::new(Adam::default(), 0.1)?;
    optimizer.apply(&weights()?, &weights()?)?;
    let four = || Array::ones::<f32>(&[4]);
    for (key, array, said) in [
        ("b.momentum", Some(four()?), "keeps no such slot"),
        (
            "a.m",
            Some(four()?),
            "weight a.m: expected [2, 3], found [4]",
        ),
        ("a.v", None, "weight a.v: missing"),
        ("step", None, "weight step: missing"),
        ("step", Some(four()?), "weight step: expected a whole"),
        ("step", Some(Array::scalar(1.0_f32)?), "found float32 []"),
        ("learning_rate", Some(four()?), "expected a single number"),
        ("stray", Some(four()?), "names no slot"),
    ] {
        let error = refused(&mut optimizer, key, array)?;
        assert!(error.contains(said), "{key}: {error}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_checked_yet_is_checked_with_the_first_gradient() -> TestResult {
    let fresh = || Optimizer::new(Adam::default(), 0.1);
    let mut trained = fresh()?;
    trained.apply(&weights()?, &weights()?)?;
    for (key, array) in [
        ("a.m", Array::ones::<f32>(&[3, 2])?),
        ("a.momentum", Array::ones::<f32>(&[2, 3])?),
    ] {
        let mut state = trained.state();
        state.insert(key.to_owned(), array);
        let mut optimizer = fresh()?;
        optimizer.set_state(state)?;
        let before = values(&optimizer.state())?;
        assert!(optimizer.init(&weights()?).is_err(), "{key}");
        assert!(optimizer.apply(&weights()?, &weights()?).is_err(), "{key}");
        assert_eq!(values(&optimizer.state())?, before, "{key}");
    }
    Ok(())
}

#[test]
fn several_optimizers_take_up_all_or_nothing() -> TestResult {
    let mut optimizer = MultiOptimizer::new(Optimizer::new(RmsProp::default(), 0.1)?)
        .with(Optimizer::new(Adam::default(), 0.1)?, |key, _| key == "a");
    optimizer.apply(&weights()?, &weights()?)?;
    let before = optimizer.state();
    // The first one's part is another, and fits; the second's does not.
    let mut state = before.clone();
    state.insert("states.0.a.m".to_owned(), Array::zeros::<f32>(&[2, 3])?);
    state.insert("states.1.b.v".to_owned(), Array::zeros::<f32>(&[5])?);
    assert!(optimizer.set_state(state).is_err());
    assert_eq!(values(&optimizer.state())?, values(&before)?);
    Ok(())
}

#[test]
fn a_state_without_learning_rate_follows_the_schedule() -> TestResult {
    // As Python's Adafactor saves it.
    let mut optimizer = Optimizer::new(Adafactor::default(), 0.0)?;
    optimizer.apply(&weights()?, &weights()?)?;
    let mut state = optimizer.state();
    state.remove("learning_rate");
    let mut other = Optimizer::new(Adafactor::default(), 0.0)?;
    other.set_state(state)?;
    let (a, b) = (
        optimizer.apply(&weights()?, &weights()?)?,
        other.apply(&weights()?, &weights()?)?,
    );
    assert_eq!(values(&a)?, values(&b)?);
    Ok(())
}

#[test]
fn several_optimizers_have_the_rate_of_the_first_and_get_one_together() -> TestResult {
    let mut optimizer = MultiOptimizer::new(Optimizer::new(AdamW::default(), 0.25)?)
        .with(Optimizer::new(Sgd::default(), 0.5)?, |key, _| key == "a");
    assert_eq!(optimizer.learning_rate().item::<f32>()?, 0.5);
    let constant = optimizer.revision();
    optimizer.set_learning_rate(0.125.into())?;
    for name in ["states.0.learning_rate", "states.1.learning_rate"] {
        assert_eq!(optimizer.state()[name].item::<f32>()?, 0.125);
    }
    assert_eq!(
        optimizer.revision(),
        constant,
        "the rate is part of the state"
    );
    optimizer.set_learning_rate(Schedule::exponential_decay(0.5, 0.5))?;
    assert!(optimizer.revision() > constant, "a schedule is not");
    let one = Gradients::from([("a".to_owned(), Array::ones::<f32>(&[1])?)]);
    let first = optimizer.apply(&one, &one)?;
    let second = optimizer.apply(&one, &first)?;
    assert_eq!(second["a"].item::<f32>()?, 1.0 - 0.5 - 0.25);
    let mut boxed: Box<dyn Optimize> = Box::new(optimizer);
    boxed.set_learning_rate(1.0.into())?;
    assert_eq!(boxed.learning_rate().item::<f32>()?, 1.0);
    Ok(())
}

#[test]
fn any_function_of_the_step_is_a_schedule() -> TestResult {
    let schedule = Schedule::custom(|step| Ok(rsqrt(&(step + 1.0_f32)?)?));
    assert_eq!(schedule, schedule.clone());
    assert_ne!(schedule, Schedule::custom(|step| Ok(step.clone())));
    let joined = Schedule::join(vec![0.5.into(), schedule.clone()], vec![2])?;
    let steps = Array::arange::<i32>(0.0, 6.0, 1.0)?;
    let rates = joined.at(&steps)?.to_vec::<f32>()?;
    assert_eq!((rates[1], rates[2], rates[5]), (0.5, 1.0, 0.5));
    let mut optimizer = Optimizer::new(Sgd::default(), schedule)?;
    let one = Gradients::from([("a".to_owned(), Array::ones::<f32>(&[1])?)]);
    for rate in [1.0, 0.5_f32.sqrt()] {
        let changed = optimizer.apply(&one, &one)?["a"].item::<f32>()?;
        assert!((changed - (1.0 - rate)).abs() < 1e-6, "{changed}");
    }
    Ok(())
}
