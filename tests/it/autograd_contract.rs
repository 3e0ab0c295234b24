//! The transforms as their users see them: names, shapes and behaviour of `docs/DESIGN.md` section 4.
//! Everything here runs in one process, on as many threads as the test harness likes.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mlx_core::{Array, Error, Result, memory, ops};
use mlx_transforms::{
    Closure, async_eval, checkpoint, custom_vjp, eval, grad, jvp, value_and_grad, vjp,
};
use ops::arithmetic::{add, divide, exp, multiply, power, sin, square, subtract, tanh};
use ops::linalg_basic::{inner, matmul};
use ops::reduction::sum;

fn scalar(value: f32) -> Array {
    Array::full::<f32>(&[0i32; 0], value).unwrap()
}

fn vector(values: &[f32]) -> Array {
    Array::from_slice::<f32>(values, &[i32::try_from(values.len()).unwrap()]).unwrap()
}

fn read(array: &Array) -> f32 {
    array.item::<f32>().unwrap()
}

#[track_caller]
fn close(found: f32, expected: f32, tolerance: f32) {
    assert!(
        (found - expected).abs() <= tolerance,
        "found {found}, expected {expected} within {tolerance}"
    );
}

/// A function of one scalar as the transforms want it.
fn of_one(
    f: impl Fn(&Array) -> Result<Array> + 'static,
) -> impl Fn(&[Array]) -> Result<Vec<Array>> + 'static {
    move |xs: &[Array]| Ok(vec![f(&xs[0])?])
}

// Values and gradients.

#[test]
fn grad_differentiates_the_first_output() {
    let cube = grad(|xs| Ok(vec![multiply(&square(&xs[0])?, &xs[0])?]), &[0]).unwrap();
    let slopes = cube(&[scalar(2.0)]).unwrap();
    assert_eq!(slopes.len(), 1);
    close(read(&slopes[0]), 12.0, 1e-5);
}

#[test]
fn value_and_grad_returns_every_value_and_the_gradient_of_the_first() {
    let f = value_and_grad(|xs| Ok(vec![square(&xs[0])?, sin(&xs[0])?]), &[0]).unwrap();
    let (values, slopes) = f(&[scalar(3.0)]).unwrap();
    assert_eq!((values.len(), slopes.len()), (2, 1));
    close(read(&values[0]), 9.0, 1e-6);
    close(read(&values[1]), 3.0f32.sin(), 1e-6);
    close(read(&slopes[0]), 6.0, 1e-6);
}

#[test]
fn gradients_come_in_the_order_of_argnums() {
    let weighted = |xs: &[Array]| {
        Ok(vec![add(
            &multiply(&xs[0], &scalar(2.0))?,
            &multiply(&xs[1], &xs[2])?,
        )?])
    };
    let inputs = [scalar(1.0), scalar(5.0), scalar(7.0)];
    let slopes = grad(weighted, &[2, 0]).unwrap()(&inputs).unwrap();
    assert_eq!(slopes.len(), 2);
    close(read(&slopes[0]), 5.0, 1e-6);
    close(read(&slopes[1]), 2.0, 1e-6);
}

#[test]
fn gradient_of_a_sum_may_be_a_broadcast_view_and_still_reads() {
    let f = grad(|xs| Ok(vec![sum(&xs[0], false)?]), &[0]).unwrap();
    let slopes = f(&[Array::full::<f32>(&(2usize, 3usize), 4.0).unwrap()]).unwrap();
    assert_eq!(slopes[0].to_vec::<f32>().unwrap(), [1.0; 6]);
    let packed = ops::shape::contiguous(&slopes[0], false).unwrap();
    assert_eq!(packed.to_vec::<f32>().unwrap(), [1.0; 6]);
    let shape: &[i32] = slopes[0].shape();
    let like = Array::full::<f32>(&shape, 0.0).unwrap();
    assert_eq!(like.shape(), slopes[0].shape());
}

#[test]
fn matrix_gradient_has_the_shape_of_its_argument() {
    let f = grad(
        |xs| Ok(vec![sum(&matmul(&xs[0], &xs[1])?, false)?]),
        &[0, 1],
    )
    .unwrap();
    let a = Array::from_slice::<f32>(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
    let b = Array::from_slice::<f32>(&[1.0, 0.0, 2.0, 1.0, 0.0, 3.0], &[3, 2]).unwrap();
    let slopes = f(&[a, b]).unwrap();
    assert_eq!(
        slopes[0].to_vec::<f32>().unwrap(),
        [1.0, 3.0, 3.0, 1.0, 3.0, 3.0]
    );
    assert_eq!(
        slopes[1].to_vec::<f32>().unwrap(),
        [5.0, 5.0, 7.0, 7.0, 9.0, 9.0]
    );
}

#[test]
fn gradients_agree_with_finite_differences() {
    type Op = fn(&Array) -> Result<Array>;
    let cases: [(&str, Op); 9] = [
        ("sin", sin),
        ("exp", exp),
        ("tanh", tanh),
        ("square", square),
        ("cubed", |x| power(x, &scalar(3.0))),
        ("reciprocal", |x| divide(&scalar(1.0), x)),
        ("sin of exp", |x| sin(&exp(x)?)),
        ("x minus tanh x", |x| subtract(x, &tanh(x)?)),
        ("x sin x", |x| multiply(x, &sin(x)?)),
    ];
    for (name, f) in cases {
        let slope = grad(of_one(f), &[0]).unwrap();
        for at in [0.4f32, 0.9, 1.3] {
            let found = read(&slope(&[scalar(at)]).unwrap()[0]);
            let step = 1e-2;
            let difference = (read(&f(&scalar(at + step)).unwrap())
                - read(&f(&scalar(at - step)).unwrap()))
                / (2.0 * step);
            let allowed = 1e-2 * (1.0 + difference.abs());
            assert!(
                (found - difference).abs() < allowed,
                "{name} at {at}: gradient {found}, difference {difference}"
            );
        }
    }
}

#[test]
fn gradients_of_a_vector_function_agree_with_finite_differences() {
    let f = |xs: &[Array]| inner(&sin(&xs[0])?, &tanh(&xs[1])?);
    let (x, y) = ([0.3f32, -0.8, 1.1], [0.5f32, 0.2, -0.4]);
    let slopes =
        grad(move |xs| Ok(vec![f(xs)?]), &[0, 1]).unwrap()(&[vector(&x), vector(&y)]).unwrap();
    let step = 1e-2;
    for i in 0..3 {
        let moved = |by: f32| {
            let mut x = x;
            x[i] += by;
            read(&f(&[vector(&x), vector(&y)]).unwrap())
        };
        close(
            slopes[0].to_vec::<f32>().unwrap()[i],
            (moved(step) - moved(-step)) / (2.0 * step),
            2e-3,
        );
        let moved = |by: f32| {
            let mut y = y;
            y[i] += by;
            read(&f(&[vector(&x), vector(&y)]).unwrap())
        };
        close(
            slopes[1].to_vec::<f32>().unwrap()[i],
            (moved(step) - moved(-step)) / (2.0 * step),
            2e-3,
        );
    }
}

#[test]
fn grad_of_grad_gives_higher_derivatives() {
    let first = grad(of_one(sin), &[0]).unwrap();
    let second = grad(first, &[0]).unwrap();
    close(
        read(&second(&[scalar(0.7)]).unwrap()[0]),
        -(0.7f32.sin()),
        1e-5,
    );
    let third = grad(second, &[0]).unwrap();
    close(
        read(&third(&[scalar(0.7)]).unwrap()[0]),
        -(0.7f32.cos()),
        1e-5,
    );
}

#[test]
fn mixed_second_derivative_of_two_arguments() {
    let f = |xs: &[Array]| Ok(vec![multiply(&square(&xs[0])?, &sin(&xs[1])?)?]);
    let by_first = grad(f, &[0]).unwrap();
    let then_second = grad(by_first, &[1]).unwrap();
    close(
        read(&then_second(&[scalar(1.5), scalar(0.4)]).unwrap()[0]),
        2.0 * 1.5 * 0.4f32.cos(),
        1e-5,
    );
}

#[test]
fn vjp_and_jvp_are_adjoint() {
    let f = |xs: &[Array]| Ok(vec![multiply(&sin(&xs[0])?, &xs[1])?, exp(&xs[1])?]);
    let primals = vec![vector(&[0.1, 0.5, -0.3]), vector(&[1.0, -2.0, 0.5])];
    let tangents = vec![vector(&[1.0, 2.0, 3.0]), vector(&[-1.0, 0.5, 0.25])];
    let cotangents = vec![vector(&[0.5, -1.0, 2.0]), vector(&[1.0, 1.0, -1.0])];
    let (values, forward) = jvp(f, &primals, &tangents).unwrap();
    let (same, backward) = vjp(f, &primals, &cotangents).unwrap();
    assert_eq!((values.len(), forward.len(), backward.len()), (2, 2, 2));
    assert_eq!(
        values[0].to_vec::<f32>().unwrap(),
        same[0].to_vec::<f32>().unwrap()
    );
    let dot = |a: &[Array], b: &[Array]| {
        a.iter()
            .zip(b)
            .map(|(a, b)| read(&inner(a, b).unwrap()))
            .sum::<f32>()
    };
    close(dot(&forward, &cotangents), dot(&backward, &tangents), 1e-5);
}

#[test]
fn gradient_descent_finds_the_line_through_points() {
    let inputs = vector(&[-1.0, 0.0, 1.0, 2.0]);
    let targets = vector(&[-1.0, 1.0, 3.0, 5.0]);
    let loss = move |xs: &[Array]| {
        let predicted = add(&multiply(&inputs, &xs[0])?, &xs[1])?;
        Ok(vec![sum(
            &square(&subtract(&predicted, &targets)?)?,
            false,
        )?])
    };
    let step = value_and_grad(loss, &[0, 1]).unwrap();
    let mut parameters = vec![scalar(0.0), scalar(0.0)];
    for _ in 0..200 {
        let (_, slopes) = step(&parameters).unwrap();
        for (parameter, slope) in parameters.iter_mut().zip(&slopes) {
            *parameter = subtract(parameter, &multiply(slope, &scalar(0.05)).unwrap()).unwrap();
        }
        eval(&[&parameters[0], &parameters[1]]).unwrap();
    }
    close(read(&parameters[0]), 2.0, 1e-3);
    close(read(&parameters[1]), 1.0, 1e-3);
}

#[test]
fn one_callable_serves_many_calls_and_shapes() {
    let f = grad(|xs| Ok(vec![sum(&square(&xs[0])?, false)?]), &[0]).unwrap();
    for n in 1..=64u8 {
        let x = vector(&vec![f32::from(n); usize::from(n)]);
        let slope = f(&[x]).unwrap().remove(0).to_vec::<f32>().unwrap();
        assert_eq!(slope, vec![2.0 * f32::from(n); usize::from(n)]);
    }
}

// Custom gradients and rematerialisation.

#[test]
fn custom_vjp_sees_primals_cotangents_outputs_in_that_order() {
    let f = custom_vjp(
        |xs| Ok(vec![square(&xs[0])?]),
        |primals: &[Array], cotangents: &[Array], outputs: &[Array]| {
            assert_eq!((primals.len(), cotangents.len(), outputs.len()), (1, 1, 1));
            let thousands = multiply(&primals[0], &scalar(1000.0))?;
            let tens = multiply(&cotangents[0], &scalar(10.0))?;
            Ok(vec![add(&add(&thousands, &tens)?, &outputs[0])?])
        },
    )
    .unwrap();
    let (values, slopes) = vjp(f, &[scalar(3.0)], &[scalar(2.0)]).unwrap();
    assert_eq!(read(&values[0]), 9.0);
    assert_eq!(read(&slopes[0]), 3029.0);
}

#[test]
fn custom_vjp_replaces_the_gradient_and_can_be_called_plainly() {
    let straight_through = || {
        custom_vjp(
            |xs| Ok(vec![tanh(&xs[0])?]),
            |_: &[Array], cotangents: &[Array], _: &[Array]| Ok(cotangents.to_vec()),
        )
        .unwrap()
    };
    close(
        read(&straight_through()(&[scalar(0.5)]).unwrap()[0]),
        0.5f32.tanh(),
        1e-6,
    );
    let inside = straight_through();
    let f = grad(
        move |xs| Ok(vec![multiply(&inside(xs)?[0], &scalar(4.0))?]),
        &[0],
    )
    .unwrap();
    assert_eq!(read(&f(&[scalar(0.5)]).unwrap()[0]), 4.0);
}

#[test]
fn custom_vjp_of_two_inputs_and_two_outputs() {
    let f = custom_vjp(
        |xs| Ok(vec![add(&xs[0], &xs[1])?, multiply(&xs[0], &xs[1])?]),
        |primals: &[Array], cotangents: &[Array], outputs: &[Array]| {
            assert_eq!((primals.len(), cotangents.len(), outputs.len()), (2, 2, 2));
            Ok(vec![
                add(&cotangents[0], &multiply(&cotangents[1], &primals[1])?)?,
                add(&cotangents[0], &multiply(&cotangents[1], &primals[0])?)?,
            ])
        },
    )
    .unwrap();
    let (_, slopes) = vjp(f, &[scalar(3.0), scalar(5.0)], &[scalar(1.0), scalar(10.0)]).unwrap();
    assert_eq!((read(&slopes[0]), read(&slopes[1])), (51.0, 31.0));
}

#[test]
fn custom_vjp_is_differentiable_again() {
    let f = custom_vjp(
        |xs| Ok(vec![multiply(&square(&xs[0])?, &xs[0])?]),
        |primals: &[Array], cotangents: &[Array], _: &[Array]| {
            Ok(vec![multiply(
                &cotangents[0],
                &multiply(&scalar(3.0), &square(&primals[0])?)?,
            )?])
        },
    )
    .unwrap();
    let second = grad(grad(f, &[0]).unwrap(), &[0]).unwrap();
    close(read(&second(&[scalar(2.0)]).unwrap()[0]), 12.0, 1e-4);
}

#[test]
fn checkpoint_keeps_value_and_gradient_and_recomputes() {
    let calls = Rc::new(Cell::new(0));
    let counter = Rc::clone(&calls);
    let f = checkpoint(move |xs| {
        counter.set(counter.get() + 1);
        Ok(vec![sum(&sin(&square(&xs[0])?)?, false)?])
    })
    .unwrap();
    let with_slope = value_and_grad(f, &[0]).unwrap();
    let (values, slopes) = with_slope(&[vector(&[0.5, 1.5])]).unwrap();
    close(read(&values[0]), 0.25f32.sin() + 2.25f32.sin(), 1e-5);
    let slopes = slopes[0].to_vec::<f32>().unwrap();
    close(slopes[0], 0.25f32.cos(), 1e-5);
    close(slopes[1], 3.0 * 2.25f32.cos(), 1e-5);
    assert!(
        calls.get() >= 2,
        "the function ran {} time(s): nothing was recomputed",
        calls.get()
    );
}

// Ownership.

#[test]
fn closures_capture_arrays_that_outlive_them() {
    let scale = vector(&[1.0, 2.0, 3.0]);
    let captured = scale.clone();
    let f = grad(
        move |xs| Ok(vec![sum(&multiply(&xs[0], &captured)?, false)?]),
        &[0],
    )
    .unwrap();
    let slopes = f(&[vector(&[0.0; 3])]).unwrap();
    drop(f);
    assert_eq!(slopes[0].to_vec::<f32>().unwrap(), [1.0, 2.0, 3.0]);
    assert_eq!(
        scale.try_clone().unwrap().to_vec::<f32>().unwrap(),
        [1.0, 2.0, 3.0]
    );
}

#[test]
fn dropping_a_callable_drops_what_it_captured() {
    let witness = Rc::new(());
    let make = |held: Rc<()>| {
        move |xs: &[Array]| {
            let _held = &held;
            Ok(vec![square(&xs[0])?])
        }
    };
    let closure = Closure::new(make(Rc::clone(&witness))).unwrap();
    assert!(!closure.as_raw().ctx.is_null());
    let slope = grad(make(Rc::clone(&witness)), &[0]).unwrap();
    let saved = checkpoint(make(Rc::clone(&witness))).unwrap();
    let twice = grad(grad(make(Rc::clone(&witness)), &[0]).unwrap(), &[0]).unwrap();
    for _ in 0..3 {
        slope(&[scalar(1.0)]).unwrap();
        saved(&[scalar(1.0)]).unwrap();
        twice(&[scalar(1.0)]).unwrap();
    }
    vjp(make(Rc::clone(&witness)), &[scalar(1.0)], &[scalar(1.0)]).unwrap();
    jvp(make(Rc::clone(&witness)), &[scalar(1.0)], &[scalar(1.0)]).unwrap();
    assert_eq!(Rc::strong_count(&witness), 5);
    drop((closure, slope, saved, twice));
    assert_eq!(
        Rc::strong_count(&witness),
        1,
        "a closure outlived its owner"
    );
}

#[test]
fn peak_memory_only_grows_while_closures_are_built() {
    let mut last = memory::peak_memory().unwrap();
    for _ in 0..10 {
        let closure = Closure::new(|xs: &[Array]| Ok(vec![square(&xs[0])?])).unwrap();
        drop(closure);
        let now = memory::peak_memory().unwrap();
        assert!(now >= last);
        last = now;
    }
}

// Errors.

#[test]
fn empty_argnums_fail_when_the_callable_is_built() {
    let identity = |xs: &[Array]| Ok(vec![xs[0].clone()]);
    let refused = [
        ("value_and_grad", value_and_grad(identity, &[]).err()),
        ("grad", grad(identity, &[]).err()),
    ];
    for (function, error) in refused {
        let Some(Error::EmptyInput(p)) = error else {
            panic!("{function}: {error:?}")
        };
        let context = p.context().to_string();
        assert!(
            context.contains(function) && context.contains("argnums"),
            "{context}"
        );
    }
}

/// Every way to run a failing function, and the error that comes out.
fn failures(fail: fn() -> Result<Vec<Array>>) -> Vec<(&'static str, Error)> {
    let x = || [scalar(1.0)];
    let f = move |_: &[Array]| fail();
    let failing_backward = || {
        custom_vjp(
            |xs| Ok(vec![square(&xs[0])?]),
            move |_: &[Array], _: &[Array], _: &[Array]| fail(),
        )
        .unwrap()
    };
    let mut found = vec![
        ("grad", grad(f, &[0]).unwrap()(&x()).err()),
        (
            "value_and_grad",
            value_and_grad(f, &[0]).unwrap()(&x()).err(),
        ),
        (
            "grad of grad",
            grad(grad(f, &[0]).unwrap(), &[0]).unwrap()(&x()).err(),
        ),
        ("vjp", vjp(f, &x(), &x()).err()),
        ("jvp", jvp(f, &x(), &x()).err()),
        ("checkpoint", checkpoint(f).unwrap()(&x()).err()),
        (
            "grad of checkpoint",
            grad(checkpoint(f).unwrap(), &[0]).unwrap()(&x()).err(),
        ),
        (
            "backward of custom_vjp",
            vjp(failing_backward(), &x(), &x()).err(),
        ),
        (
            "grad of custom_vjp",
            grad(failing_backward(), &[0]).unwrap()(&x()).err(),
        ),
    ];
    let forward = custom_vjp(f, |_: &[Array], c: &[Array], _: &[Array]| Ok(c.to_vec())).unwrap();
    found.push(("forward of custom_vjp", forward(&x()).err()));
    found
        .into_iter()
        .map(|(name, error)| (name, error.unwrap_or_else(|| panic!("{name} succeeded"))))
        .collect()
}

#[test]
fn a_users_error_travels_as_itself() {
    for (name, error) in failures(|| Err(Error::Backend("the cat sat on the keyboard".into()))) {
        assert!(matches!(error, Error::Backend(_)), "{name}: {error:?}");
        let expected = Error::Backend("the cat sat on the keyboard".into());
        assert_eq!(error.to_string(), expected.to_string(), "{name}");
    }
}

#[test]
fn a_panic_becomes_an_error_that_names_it() {
    let plain: fn() -> Result<Vec<Array>> = || panic!("a plain payload");
    let formatted: fn() -> Result<Vec<Array>> = || panic!("payload number {}", 42);
    for (fail, payload) in [(plain, "a plain payload"), (formatted, "payload number 42")] {
        for (name, error) in failures(fail) {
            let text = error.to_string();
            assert!(
                text.contains("panic") && text.contains(payload),
                "{name}: {text}"
            );
        }
    }
    let slope = grad(of_one(square), &[0]).unwrap();
    assert_eq!(read(&slope(&[scalar(4.0)]).unwrap()[0]), 8.0);
}

#[test]
fn an_operation_that_fails_inside_a_closure_is_the_error_of_the_call() {
    let f =
        |xs: &[Array]| -> Result<Vec<Array>> { Ok(vec![sum(&matmul(&xs[0], &xs[0])?, false)?]) };
    let x = Array::full::<f32>(&[2, 3], 1.0).unwrap();
    let direct = f(std::slice::from_ref(&x)).unwrap_err().to_string();
    let through = grad(f, &[0]).unwrap()(&[x]).unwrap_err().to_string();
    assert_eq!(direct, through);
}

#[test]
fn misuse_is_an_error_and_not_a_crash() {
    let identity = |xs: &[Array]| Ok(vec![xs[0].clone()]);
    assert!(
        grad(identity, &[1]).unwrap()(&[scalar(1.0)]).is_err(),
        "argnum beyond the arguments"
    );
    assert!(
        grad(identity, &[0]).unwrap()(&[]).is_err(),
        "no argument at all"
    );
    assert!(
        grad(identity, &[0]).unwrap()(&[vector(&[1.0, 2.0])]).is_err(),
        "gradient of a vector"
    );
    assert!(
        grad(|_: &[Array]| Ok(vec![]), &[0]).unwrap()(&[scalar(1.0)]).is_err(),
        "function without a result"
    );
    assert!(
        vjp(identity, &[scalar(1.0)], &[]).is_err(),
        "cotangent missing"
    );
    assert!(
        vjp(identity, &[scalar(1.0)], &[vector(&[1.0, 2.0])]).is_err(),
        "cotangent of another shape"
    );
    assert!(
        jvp(identity, &[scalar(1.0)], &[]).is_err(),
        "tangent missing"
    );
    let wrong_count = custom_vjp(
        |xs| Ok(vec![add(&xs[0], &xs[1])?]),
        |_: &[Array], c: &[Array], _: &[Array]| Ok(c.to_vec()),
    )
    .unwrap();
    assert!(
        grad(wrong_count, &[0, 1]).unwrap()(&[scalar(1.0), scalar(2.0)]).is_err(),
        "one gradient for two inputs"
    );
}

// Evaluation and threads.

#[test]
fn eval_and_async_eval_of_nothing_do_nothing() {
    eval(&[]).unwrap();
    async_eval(&[]).unwrap();
}

#[test]
fn async_eval_starts_work_that_reading_waits_for() {
    let x = sin(&vector(&[0.1, 0.2, 0.3])).unwrap();
    let y = exp(&x).unwrap();
    async_eval(&[&x, &y]).unwrap();
    let found = y.to_vec::<f32>().unwrap();
    for (value, input) in found.iter().zip([0.1f32, 0.2, 0.3]) {
        close(*value, input.sin().exp(), 1e-5);
    }
}

/// Joins every thread and repeats the first panic with its own message.
fn join_all(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        if let Err(payload) = thread.join() {
            std::panic::resume_unwind(payload);
        }
    }
}

#[test]
fn transforms_work_on_many_threads_at_once() {
    let workers = (1..=12u8).map(|id| {
        thread::spawn(move || {
            let at = 0.1 * f32::from(id);
            for _ in 0..20 {
                let slope = grad(of_one(sin), &[0]).unwrap();
                let curvature = grad(grad(of_one(exp), &[0]).unwrap(), &[0]).unwrap();
                let doubled = custom_vjp(
                    |xs| Ok(vec![xs[0].clone()]),
                    |_: &[Array], c: &[Array], _: &[Array]| {
                        Ok(vec![multiply(&c[0], &scalar(2.0))?])
                    },
                )
                .unwrap();
                close(read(&slope(&[scalar(at)]).unwrap()[0]), at.cos(), 1e-5);
                close(read(&curvature(&[scalar(at)]).unwrap()[0]), at.exp(), 1e-4);
                close(
                    read(&grad(doubled, &[0]).unwrap()(&[scalar(at)]).unwrap()[0]),
                    2.0,
                    0.0,
                );
            }
        })
    });
    join_all(workers.collect());
}

#[test]
fn failing_closures_leave_other_threads_async_work_alone_a_thousand_times() {
    const ROUNDS: usize = 1000;
    let rounds_left = Arc::new(AtomicUsize::new(ROUNDS));
    let evaluators = (0..3u8).map(|id| {
        let rounds_left = Arc::clone(&rounds_left);
        thread::spawn(move || {
            let base = f32::from(id);
            // Keeps evaluating until the failing threads are through, and 1,000 times at least.
            let mut done = 0;
            while done < ROUNDS || rounds_left.load(Ordering::Relaxed) > 0 {
                let x = vector(&[base, base + 0.5, base + 1.0]);
                let y = add(&square(&x).unwrap(), &sin(&x).unwrap()).unwrap();
                async_eval(&[&y]).unwrap();
                let found = y.to_vec::<f32>().unwrap();
                for (i, value) in (0u8..).zip(found) {
                    let at = base + 0.5 * f32::from(i);
                    close(value, at * at + at.sin(), 1e-4);
                }
                done += 1;
            }
        })
    });
    let failing = (0..2).map(|_| {
        let rounds_left = Arc::clone(&rounds_left);
        thread::spawn(move || {
            let panics = grad(
                |_: &[Array]| -> Result<Vec<Array>> { panic!("on purpose") },
                &[0],
            )
            .unwrap();
            let errs = grad(
                |xs: &[Array]| {
                    let _abandoned = square(&xs[0])?;
                    Err(Error::Backend("on purpose".into()))
                },
                &[0],
            )
            .unwrap();
            let works = value_and_grad(of_one(square), &[0]).unwrap();
            loop {
                let claimed =
                    rounds_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    });
                let Ok(round) = claimed else { break };
                let error = if round % 2 == 0 {
                    panics(&[scalar(1.0)])
                } else {
                    errs(&[scalar(1.0)])
                }
                .unwrap_err();
                assert!(error.to_string().contains("on purpose"), "{error}");
                let (values, slopes) = works(&[scalar(3.0)]).unwrap();
                assert_eq!((read(&values[0]), read(&slopes[0])), (9.0, 6.0));
            }
        })
    });
    let threads: Vec<_> = evaluators.chain(failing).collect();
    join_all(threads);
}
