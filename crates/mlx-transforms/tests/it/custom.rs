//! Functions with all three derivatives of their own, and the threads that they must not leave.

use std::cell::Cell;
use std::rc::Rc;
use std::thread;

use mlx_core::{Array, Result, array};
use mlx_transforms::{
    CustomFunction, checkpoint, custom_function, custom_vjp, grad, jvp, stop_gradient, vmap,
};

#[test]
fn each_transform_uses_its_hook() -> Result<()> {
    let make = || {
        custom_function(
            CustomFunction::new(|xs: &[Array]| Ok(vec![xs[0].square()?]))
                .vjp(|_, cotangents, _| Ok(vec![(&cotangents[0] * 10.0)?]))
                .jvp(|_, tangents, argnums| {
                    assert_eq!(argnums, [0]);
                    Ok(vec![(&tangents[0] * 100.0)?])
                })
                .vmap(|inputs, axes| Ok((vec![(&inputs[0] * 1000.0)?], vec![axes[0]]))),
        )
    };
    let x = array!(3.0)?;
    assert_eq!(make()?(&[x.clone()])?[0].item::<f32>()?, 9.0);
    assert_eq!(grad(make()?, &[0])?(&[x.clone()])?[0].item::<f32>()?, 10.0);
    let (_, tangents) = jvp(make()?, &[x], &[array!(1.0)?])?;
    assert_eq!(tangents[0].item::<f32>()?, 100.0);
    let mapped = vmap(make()?, &[Some(0)], &[Some(0)])?;
    let y = mapped(&[array!([1.0, 2.0])?])?;
    assert_eq!(y[0].to_vec::<f32>()?, [1000.0, 2000.0]);
    Ok(())
}

#[test]
fn gradients_stop_where_they_are_told_to() -> Result<()> {
    let f = grad(
        |xs: &[Array]| Ok(vec![(&xs[0] * stop_gradient(&xs[0])?)?]),
        &[0],
    )?;
    assert_eq!(f(&[array!(5.0)?])?[0].item::<f32>()?, 5.0);
    Ok(())
}

/// Says on which thread it was dropped.
struct Bound(Rc<Cell<usize>>, thread::ThreadId);

impl Drop for Bound {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.1, "dropped on another thread");
        self.0.set(self.0.get() + 1);
    }
}

/// The graph of a custom function holds its closures, and arrays may go anywhere with their graph.
#[test]
fn closures_come_home_to_be_dropped() -> Result<()> {
    let drops = Rc::new(Cell::new(0));
    let bound = Bound(Rc::clone(&drops), thread::current().id());
    let f = custom_vjp(
        |xs: &[Array]| Ok(vec![xs[0].exp()?]),
        move |_, cotangents, _| {
            let _ = &bound;
            Ok(cotangents.to_vec())
        },
    )?;
    let y = f(&[array!(0.0)?])?.remove(0);
    drop(f);
    assert_eq!(drops.get(), 0, "the graph still needs it");
    // Evaluation there releases the graph, and with it the closures.
    let back = thread::spawn(move || {
        y.eval().unwrap();
        y.item::<f32>().unwrap()
    });
    assert_eq!(back.join().unwrap(), 1.0);
    assert_eq!(drops.get(), 0, "not dropped elsewhere");
    // The next custom function of this thread looks after what came back.
    drop(checkpoint(|xs: &[Array]| Ok(xs.to_vec()))?);
    assert_eq!(drops.get(), 1);
    Ok(())
}

#[test]
fn closures_that_come_home_too_late_are_not_dropped_elsewhere() {
    let y = thread::spawn(|| {
        let bound = Rc::new(());
        let f = checkpoint(move |xs: &[Array]| {
            let _ = Rc::clone(&bound);
            Ok(vec![xs[0].exp()?])
        })
        .unwrap();
        f(&[array!(0.0).unwrap()]).unwrap().remove(0)
    })
    .join()
    .unwrap();
    assert_eq!(y.item::<f32>().unwrap(), 1.0);
}
