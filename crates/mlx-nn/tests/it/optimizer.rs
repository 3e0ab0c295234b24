//! Optimizers over twenty steps, schedules, clipping, and their state.

use mlx_core::Array;
use mlx_nn::{
    Gradients, Linear, Sequential,
    optimizer::{
        AdaDelta, Adafactor, Adagrad, Adam, AdamW, Adamax, Lion, MultiOptimizer, Muon, Optimize,
        Optimizer, RmsProp, Rule, Schedule, Sgd, clip_grad_norm, clip_grad_value,
    },
};

use crate::golden::{Golden, TestResult};

const NAMES: [&str; 3] = ["matrix", "vector", "kernel"];

fn start(golden: &Golden) -> Result<Gradients, String> {
    NAMES
        .iter()
        .map(|&name| Ok((name.to_owned(), golden.get("shared", name)?)))
        .collect()
}

fn gradients(golden: &Golden, step: i32) -> Result<Gradients, Box<dyn std::error::Error>> {
    let at = |&name: &&str| {
        let all = golden.get("shared", &format!("gradients.{name}"))?;
        Ok((name.to_owned(), all.index(step)?))
    };
    NAMES.iter().map(at).collect()
}

/// Compares how far a parameter has come: small steps vanish beside what they start from.
fn check_way(start: &Array, found: &Array, golden: &Array) -> Result<(), String> {
    let read = |array: &Array| array.to_vec::<f32>().map_err(|error| error.to_string());
    let (start, found, golden) = (read(start)?, read(found)?, read(golden)?);
    let largest = |numbers: &mut dyn Iterator<Item = f32>| numbers.fold(0.0_f32, f32::max);
    let way = largest(&mut golden.iter().zip(&start).map(|(a, b)| (a - b).abs()));
    let gap = largest(&mut golden.iter().zip(&found).map(|(a, b)| (a - b).abs()));
    // Each step rounds to a float near the parameter.
    let rounding = 4.0 * f32::EPSILON * largest(&mut start.iter().map(|a| a.abs()));
    if way > 0.0 && gap <= 2e-5 * way + rounding {
        return Ok(());
    }
    Err(format!("{gap:e} off the end of a way of {way:e}"))
}

fn check<R: Rule>(
    golden: &Golden,
    case: &str,
    rule: R,
    learning_rate: impl Into<Schedule>,
) -> TestResult {
    let mut optimizer = Optimizer::new(rule, learning_rate)?;
    let start = start(golden)?;
    let mut parameters = start.clone();
    for step in 0..20 {
        parameters = optimizer.apply(&gradients(golden, step)?, &parameters)?;
        if step == 0 || step == 19 {
            let case = format!("{case}.{}", step + 1);
            for (name, parameter) in &parameters {
                golden.check(&case, name, parameter)?;
                check_way(&start[name], parameter, &golden.get(&case, name)?)
                    .map_err(|error| format!("{case}/{name}: {error}"))?;
            }
        }
    }
    let state = optimizer.state();
    for (name, _) in golden.all(&format!("{case}.state"), "") {
        let found = state
            .get(&name)
            .ok_or_else(|| format!("{case}: no state {name}"))?;
        golden.check(&format!("{case}.state"), &name, found)?;
    }
    assert_eq!(optimizer.step().item::<u64>()?, 20);
    Ok(())
}

#[test]
fn trajectories_equal_python() -> TestResult {
    let golden = Golden::open("optimizer")?;
    check(&golden, "sgd", Sgd::default(), 0.1)?;
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.01,
        dampening: 0.1,
        nesterov: false,
    };
    check(&golden, "sgd.momentum", sgd, 0.1)?;
    check(
        &golden,
        "sgd.nesterov",
        Sgd {
            momentum: 0.9,
            nesterov: true,
            ..Sgd::default()
        },
        0.1,
    )?;
    check(&golden, "rmsprop", RmsProp::default(), 0.01)?;
    check(&golden, "adagrad", Adagrad::default(), 0.1)?;
    check(&golden, "adadelta", AdaDelta::default(), 1.0)?;
    check(&golden, "adam", Adam::default(), 0.01)?;
    let corrected = Adam {
        bias_correction: true,
        ..Adam::default()
    };
    check(&golden, "adam.corrected", corrected, 0.01)?;
    check(
        &golden,
        "adamw",
        AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        },
        0.01,
    )?;
    check(&golden, "adamax", Adamax::default(), 0.01)?;
    check(
        &golden,
        "lion",
        Lion {
            weight_decay: 0.1,
            ..Lion::default()
        },
        0.01,
    )?;
    let adafactor = Adafactor::default();
    check(&golden, "adafactor", adafactor, 0.0)?;
    check(
        &golden,
        "adafactor.warmup",
        Adafactor {
            warmup_init: true,
            ..adafactor
        },
        0.0,
    )?;
    let absolute = Adafactor {
        beta_1: Some(0.9),
        weight_decay: 0.1,
        scale_parameter: false,
        relative_step: false,
        ..adafactor
    };
    check(&golden, "adafactor.absolute", absolute, 0.01)?;
    check(&golden, "muon", Muon::default(), 0.02)?;
    let plain = Muon {
        weight_decay: 0.0,
        nesterov: false,
        ..Muon::default()
    };
    check(&golden, "muon.plain", plain, 0.02)?;
    check(
        &golden,
        "scheduled",
        Sgd::default(),
        Schedule::cosine_decay(0.1, 10, 0.01)?,
    )
}

#[test]
fn schedules_equal_python() -> TestResult {
    let golden = Golden::open("optimizer")?;
    let warmup = Schedule::linear(0.0, 0.1, 5)?;
    let joined = Schedule::join(
        vec![warmup.clone(), Schedule::cosine_decay(0.1, 10, 0.0)?],
        vec![5],
    )?;
    let steps = Array::arange::<i32>(0.0, 20.0, 1.0)?;
    for (case, schedule) in [
        ("exponential", Schedule::exponential_decay(0.1, 0.9)),
        ("step", Schedule::step_decay(0.1, 0.5, 4)?),
        ("cosine", Schedule::cosine_decay(0.1, 12, 0.01)?),
        ("linear", warmup),
        ("joined", joined),
    ] {
        golden.check(&format!("schedule.{case}"), "y", &schedule.at(&steps)?)?;
    }
    assert!(Schedule::linear(0.0, 0.1, 0).is_err());
    assert!(Schedule::join(vec![], vec![]).is_err());
    Ok(())
}

#[test]
fn clipping_equals_python() -> TestResult {
    let golden = Golden::open("optimizer")?;
    let first = gradients(&golden, 0)?;
    let (clipped, norm) = clip_grad_norm(&first, 1.0)?;
    golden.check("clipped", "norm", &norm)?;
    for (name, gradient) in &clipped {
        golden.check("clipped", name, gradient)?;
    }
    for gradient in clip_grad_value(&first, 0.5)?.values() {
        assert!(gradient.to_vec::<f32>()?.iter().all(|v| v.abs() <= 0.5));
    }
    assert!(clip_grad_norm(&first, -1.0).is_err());
    Ok(())
}

#[test]
fn a_saved_state_continues_exactly() -> TestResult {
    let golden = Golden::open("optimizer")?;
    let new = || Optimizer::new(AdamW::default(), Schedule::exponential_decay(0.01, 0.9));
    let (mut first, mut parameters) = (new()?, start(&golden)?);
    for step in 0..5 {
        parameters = first.apply(&gradients(&golden, step)?, &parameters)?;
    }
    let mut second = new()?;
    second.set_state(first.state())?;
    let next = gradients(&golden, 5)?;
    let (expected, found) = (
        first.apply(&next, &parameters)?,
        second.apply(&next, &parameters)?,
    );
    for name in NAMES {
        assert_eq!(
            found[name].to_vec::<f32>()?,
            expected[name].to_vec::<f32>()?,
            "{name}"
        );
    }
    let keys: Vec<String> = first.state().into_keys().collect();
    assert_eq!(
        keys[..4],
        ["kernel.m", "kernel.v", "learning_rate", "matrix.m"]
    );
    assert!(second.set_state(Gradients::new()).is_err());
    Ok(())
}

#[test]
fn each_optimizer_of_several_takes_its_part() -> TestResult {
    let golden = Golden::open("optimizer")?;
    let new = || -> mlx_nn::Result<_> {
        Ok(MultiOptimizer::new(Optimizer::new(Sgd::default(), 0.1)?)
            .with(Optimizer::new(Muon::default(), 0.02)?, |_, gradient| {
                gradient.ndim() > 1
            }))
    };
    let mut optimizer = new()?;
    let changed = optimizer.apply(&gradients(&golden, 0)?, &start(&golden)?)?;
    golden.check("muon.1", "matrix", &changed["matrix"])?;
    golden.check("muon.1", "kernel", &changed["kernel"])?;
    golden.check("sgd.1", "vector", &changed["vector"])?;
    let state = optimizer.state();
    assert!(state.contains_key("states.0.matrix.v") && state.contains_key("states.1.vector.v"));
    let mut other = new()?;
    other.set_state(state.clone())?;
    assert_eq!(other.state().len(), state.len());
    let stray = [("states.7.step".to_owned(), Array::scalar::<u64>(1)?)].into();
    assert!(other.set_state(stray).is_err());
    assert_eq!(other.state().len(), state.len());
    Ok(())
}

#[test]
fn settings_and_gradients_out_of_range_are_refused() -> TestResult {
    assert!(
        Optimizer::new(
            Sgd {
                nesterov: true,
                ..Sgd::default()
            },
            0.1
        )
        .is_err()
    );
    assert!(
        Optimizer::new(
            Adam {
                betas: (1.0, 0.9),
                ..Adam::default()
            },
            0.1
        )
        .is_err()
    );
    assert!(
        Optimizer::new(
            RmsProp {
                eps: 0.0,
                ..RmsProp::default()
            },
            0.1
        )
        .is_err()
    );
    assert!(Optimizer::new(Adagrad { eps: -1.0 }, 0.1).is_err());
    let mut model = Sequential::new().then(Linear::new(2, 1, false)?);
    let mut optimizer = Optimizer::new(Sgd::default(), 0.1)?;
    for (key, shape) in [("layers.0.bias", [1, 2]), ("layers.0.weight", [2, 1])] {
        let gradients = [(key.to_owned(), Array::ones::<f32>(&shape)?)].into();
        assert!(optimizer.update(&mut model, &gradients).is_err(), "{key}");
    }
    assert_eq!(optimizer.step().item::<u64>()?, 0);
    Ok(())
}

#[test]
fn several_rules_at_once_equal_python() -> TestResult {
    let golden = Golden::open("optimizer")?;
    let rest = Optimizer::new(AdamW::default(), 0.01)?;
    let mut optimizer = MultiOptimizer::new(rest)
        .with(Optimizer::new(Muon::default(), 0.02)?, |_, gradient| {
            gradient.ndim() == 2
        });
    let mut parameters = start(&golden)?;
    for step in 0..20 {
        parameters = optimizer.apply(&gradients(&golden, step)?, &parameters)?;
    }
    for (name, parameter) in &parameters {
        golden.check("multi.20", name, parameter)?;
    }
    Ok(())
}

fn check_half<R: Rule + Copy>(
    golden: &Golden,
    case: &str,
    rule: R,
    learning_rate: f32,
) -> TestResult {
    for dtype in ["float16", "bfloat16"] {
        let names = ["matrix", "vector"];
        let named = |prefix: &str, step: Option<i32>| -> mlx_nn::Result<Gradients> {
            let get = |name: &&str| -> mlx_nn::Result<(String, Array)> {
                let array = golden
                    .get(dtype, &format!("{prefix}{name}"))
                    .map_err(mlx_core::Error::Backend)?;
                let array = step.map_or(Ok(array.clone()), |step| array.index(step))?;
                Ok(((*name).to_owned(), array))
            };
            names.iter().map(get).collect()
        };
        let mut optimizer = Optimizer::new(rule, learning_rate)?;
        let mut parameters = named("", None)?;
        for step in 0..20 {
            parameters = optimizer.apply(&named("gradients.", Some(step))?, &parameters)?;
        }
        for (name, parameter) in &parameters {
            golden.check(&format!("{dtype}.{case}"), name, parameter)?;
        }
    }
    Ok(())
}

#[test]
fn half_precision_equals_python_in_dtype_and_value() -> TestResult {
    let golden = Golden::open("optimizer_half")?;
    let sgd = Sgd {
        momentum: 0.9,
        weight_decay: 0.01,
        dampening: 0.1,
        nesterov: false,
    };
    check_half(&golden, "sgd.momentum", sgd, 0.1)?;
    check_half(&golden, "rmsprop", RmsProp::default(), 0.01)?;
    check_half(&golden, "adagrad", Adagrad::default(), 0.1)?;
    let adadelta = AdaDelta {
        eps: 1e-4,
        ..AdaDelta::default()
    };
    check_half(&golden, "adadelta", adadelta, 1.0)?;
    let adam = Adam {
        eps: 1e-4,
        ..Adam::default()
    };
    let corrected = Adam {
        bias_correction: true,
        ..adam
    };
    check_half(&golden, "adam.corrected", corrected, 0.01)?;
    let weight_decay = 0.1;
    check_half(&golden, "adamw", AdamW { adam, weight_decay }, 0.01)?;
    let adamax = Adamax {
        eps: 1e-4,
        ..Adamax::default()
    };
    check_half(&golden, "adamax", adamax, 0.01)?;
    let lion = Lion {
        weight_decay,
        ..Lion::default()
    };
    check_half(&golden, "lion", lion, 0.01)?;
    let adafactor = Adafactor {
        eps: (1e-6, 1e-3),
        ..Adafactor::default()
    };
    check_half(&golden, "adafactor", adafactor, 0.0)?;
    check_half(&golden, "muon", Muon::default(), 0.02)
}
