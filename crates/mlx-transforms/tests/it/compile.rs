//! Compiled functions: what is traced, what is remembered, and for whom.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mlx_core::{Array, Error, Result, array};
use mlx_transforms::{State, compile, compile_with_state, grad};

fn value(outputs: Result<Vec<Array>>) -> f32 {
    outputs.unwrap()[0].item::<f32>().unwrap()
}

#[test]
fn one_trace_serves_equal_shapes_and_shapeless_all() -> Result<()> {
    let traces = Rc::new(Cell::new(0));
    let count = Rc::clone(&traces);
    let f = move |xs: &[Array]| {
        count.set(count.get() + 1);
        Ok(vec![(&xs[0] * 2.0)?.sum(false)?])
    };
    let exact = compile(f.clone(), false)?;
    let (two, three) = (array!([1.0, 2.0])?, array!([1.0, 2.0, 3.0])?);
    for _ in 0..3 {
        assert_eq!(value(exact(&[two.clone()])), 6.0);
    }
    assert_eq!(traces.get(), 1);
    assert_eq!(value(exact(&[three.clone()])), 12.0);
    assert_eq!(traces.get(), 2);
    let free = compile(f, true)?;
    assert_eq!(value(free(&[two])), 6.0);
    assert_eq!(value(free(&[three])), 12.0);
    assert_eq!(traces.get(), 3);
    Ok(())
}

/// Functions that are dropped and made again at the same address, as often as it takes.
#[test]
fn a_function_never_gets_the_graph_of_one_that_is_gone() -> Result<()> {
    let x = array!(1.0)?;
    for round in 0..200 {
        let by = round as f32;
        let f = compile(move |xs: &[Array]| Ok(vec![(&xs[0] * by)?]), false)?;
        assert_eq!(value(f(&[x.clone()])), by);
    }
    Ok(())
}

/// The same with the function made on one thread, called on another, and dropped on the first.
#[test]
fn nor_does_it_on_a_thread_that_did_not_make_it() -> Result<()> {
    type Job = Box<dyn Fn(&[Array]) -> Result<Vec<Array>> + Send + Sync>;
    let (send, receive) = std::sync::mpsc::channel::<Arc<Job>>();
    let (answer, answers) = std::sync::mpsc::channel();
    let worker = thread::spawn(move || {
        let x = array!(1.0).unwrap();
        for job in receive {
            let result = value(job(&[x.clone()]));
            drop(job);
            answer.send(result).unwrap();
        }
    });
    for round in 0..200 {
        let by = round as f32;
        let job: Job = Box::new(compile(
            move |xs: &[Array]| Ok(vec![(&xs[0] * by)?]),
            false,
        )?);
        let job = Arc::new(job);
        send.send(Arc::clone(&job)).unwrap();
        assert_eq!(answers.recv().unwrap(), by);
        drop(job);
    }
    drop(send);
    worker.join().unwrap();
    Ok(())
}

#[test]
fn one_function_runs_on_many_threads_that_come_and_go() -> Result<()> {
    let traces = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&traces);
    let f = compile(
        move |xs: &[Array]| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(vec![(xs[0].square()? + &xs[0])?])
        },
        false,
    )?;
    for _ in 0..5 {
        thread::scope(|scope| {
            for n in 0..4 {
                let f = &f;
                scope.spawn(move || {
                    for i in 0..10 {
                        let x = (n * 10 + i) as f32;
                        let y = value(f(&[Array::scalar(x).unwrap()]));
                        assert_eq!(y, x * x + x);
                    }
                });
            }
        });
    }
    // Each thread traces once.
    assert_eq!(traces.load(Ordering::SeqCst), 20);
    Ok(())
}

#[test]
fn what_a_function_captures_goes_with_it() -> Result<()> {
    let witness = Rc::new(());
    let inside = Rc::clone(&witness);
    let f = compile(
        move |xs: &[Array]| {
            let _ = &inside;
            Ok(vec![xs[0].exp()?])
        },
        false,
    )?;
    assert_eq!(value(f(&[array!(0.0)?])), 1.0);
    drop(f);
    assert_eq!(Rc::strong_count(&witness), 1);
    Ok(())
}

/// MLX would trace into a list that the outer call still points into.
#[test]
fn a_call_from_within_runs_uncompiled() -> Result<()> {
    type Function = Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>;
    let slot: Rc<RefCell<Option<Function>>> = Rc::default();
    let inner = Rc::clone(&slot);
    let depth = Rc::new(Cell::new(0));
    let f = compile(
        move |xs: &[Array]| {
            if depth.get() == 8 {
                return Ok(vec![xs[0].clone()]);
            }
            depth.set(depth.get() + 1);
            // Arguments that are no placeholders, of a shape not seen before.
            let n = depth.get();
            let own = Array::ones::<f32>(&[n])?;
            let sum = inner.borrow().as_ref().unwrap()(&[own])?[0].sum(false)?;
            Ok(vec![(&xs[0] + sum)?])
        },
        false,
    )?;
    *slot.borrow_mut() = Some(Box::new(f));
    let result = slot.borrow().as_ref().unwrap()(&[array!([1.0])?])?;
    assert!(result[0].item::<f32>()? > 1.0);
    slot.borrow_mut().take();
    Ok(())
}

#[test]
fn errors_pass_through_and_leave_nothing_behind() -> Result<()> {
    let fail = Rc::new(Cell::new(true));
    let flag = Rc::clone(&fail);
    let f = compile(
        move |xs: &[Array]| {
            assert!(flag.get() || !xs.is_empty());
            if flag.get() {
                return Err(Error::Backend("not today".to_owned()));
            }
            Ok(vec![xs[0].negative()?])
        },
        false,
    )?;
    for _ in 0..3 {
        let error = f(&[array!(1.0)?]).unwrap_err();
        assert_eq!(error.to_string(), "not today");
    }
    fail.set(false);
    assert_eq!(value(f(&[array!(1.0)?])), -1.0);
    let eval_inside = compile(
        |xs: &[Array]| Ok(vec![xs[0].item::<f32>()?.exp().try_into_array()?]),
        false,
    )?;
    assert!(eval_inside(&[array!(1.0)?]).is_err());
    Ok(())
}

trait IntoScalar {
    fn try_into_array(self) -> Result<Array>;
}

impl IntoScalar for f32 {
    fn try_into_array(self) -> Result<Array> {
        Array::scalar(self)
    }
}

#[test]
fn captured_arrays_are_constants_and_arguments_may_not_be_captured() -> Result<()> {
    let scale = Rc::new(RefCell::new(array!(2.0)?));
    let captured = Rc::clone(&scale);
    let f = compile(
        move |xs: &[Array]| Ok(vec![(&xs[0] * &*captured.borrow())?]),
        false,
    )?;
    assert_eq!(value(f(&[array!(3.0)?])), 6.0);
    *scale.borrow_mut() = array!(10.0)?;
    assert_eq!(value(f(&[array!(3.0)?])), 6.0);
    let x = array!(3.0)?;
    *scale.borrow_mut() = x.clone();
    let captured = Rc::clone(&scale);
    let f = compile(
        move |xs: &[Array]| Ok(vec![(&xs[0] * &*captured.borrow())?]),
        false,
    )?;
    assert!(f(&[x]).is_err());
    Ok(())
}

#[test]
fn compiled_functions_have_gradients() -> Result<()> {
    let f = compile(|xs: &[Array]| Ok(vec![xs[0].square()?.sum(false)?]), false)?;
    let slope = compile(grad(f, &[0])?, false)?;
    let g = slope(&[array!([1.0, -2.0])?])?;
    assert_eq!(g[0].to_vec::<f32>()?, [2.0, -4.0]);
    Ok(())
}

#[test]
fn state_is_read_and_replaced_by_each_call() -> Result<()> {
    let traces = Rc::new(Cell::new(0));
    let count = Rc::clone(&traces);
    let state = State::new(vec![array!(0)?, array!([1.0, 1.0])?]);
    let step = compile_with_state(
        move |xs, state| {
            count.set(count.get() + 1);
            state[0] = (&state[0] + 1)?;
            state[1] = (&state[1] * &xs[0])?;
            Ok(vec![state[1].sum(false)?])
        },
        &state,
        false,
    )?;
    for n in 1..5 {
        let sum = value(step(&[array!([2.0, 1.0])?]));
        assert_eq!(sum, 2f32.powi(n) + 1.0);
    }
    assert_eq!(traces.get(), 1);
    assert_eq!(state.get()[0].item::<i32>()?, 4);
    // From outside, of another shape: another trace.
    state.set(vec![array!(7)?, array!([[1.0, 2.0]])?]);
    assert_eq!(value(step(&[array!([2.0, 1.0])?])), 4.0);
    assert_eq!(traces.get(), 2);
    assert_eq!(state.get()[0].item::<i32>()?, 8);
    Ok(())
}

#[test]
fn state_survives_what_goes_wrong() -> Result<()> {
    let state = State::new(vec![array!(1.0)?]);
    let bad = compile_with_state(
        |_, state| {
            state.push(array!(2.0)?);
            Ok(vec![])
        },
        &state,
        false,
    )?;
    assert!(matches!(bad(&[]), Err(Error::Shape { .. })));
    let fails = compile_with_state(
        |_, state| {
            state[0] = array!(9.0)?;
            Err(Error::Backend("no".to_owned()))
        },
        &state,
        false,
    )?;
    assert!(fails(&[]).is_err());
    let shared = Arc::new(state.clone());
    let again = Rc::new(RefCell::new(
        None::<Box<dyn Fn(&[Array]) -> Result<Vec<Array>>>>,
    ));
    let inner = Rc::clone(&again);
    let nested = compile_with_state(
        move |xs, _| inner.borrow().as_ref().unwrap()(xs),
        &shared,
        false,
    )?;
    *again.borrow_mut() = Some(Box::new(nested));
    let result = again.borrow().as_ref().unwrap()(&[]);
    assert!(matches!(result, Err(Error::Unsupported(_))));
    again.borrow_mut().take();
    assert_eq!(state.get()[0].item::<f32>()?, 1.0);
    Ok(())
}

#[test]
fn calls_on_one_state_lose_nothing() -> Result<()> {
    let state = State::new(vec![array!(0)?]);
    let add = compile_with_state(
        |xs, state| {
            state[0] = (&state[0] + &xs[0])?;
            Ok(vec![])
        },
        &state,
        false,
    )?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    add(&[array!(1).unwrap()]).unwrap();
                }
            });
        }
    });
    assert_eq!(state.get()[0].item::<i32>()?, 100);
    Ok(())
}
