//! Transforms of long chains of operations, from threads with ordinary stacks.

use mlx_core::{Array, Error, Result};
use mlx_transforms::{compile, grad, jvp, vmap};

/// Rust's default for threads that a program starts.
const STACK: usize = 2 << 20;

fn on_a_small_stack(f: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(STACK)
        .spawn(f)
        .unwrap()
        .join()
        .unwrap();
}

/// `x + one + one + …`.
fn chain(x: &Array, length: usize) -> Result<Array> {
    let one = Array::scalar(1.0f32)?;
    let mut sum = x.clone();
    for _ in 0..length {
        sum = (&sum + &one)?;
    }
    Ok(sum)
}

#[test]
fn the_gradient_of_a_million_additions_fits_a_small_stack() {
    on_a_small_stack(|| {
        let slope = grad(|xs: &[Array]| Ok(vec![chain(&xs[0], 1_000_000)?]), &[0]).unwrap();
        let x = Array::scalar(2.0f32).unwrap();
        assert_eq!(slope(&[x]).unwrap()[0].item::<f32>().unwrap(), 1.0);
    });
}

#[test]
fn other_transforms_follow_long_chains_too() {
    on_a_small_stack(|| {
        let length = 100_000;
        let f = move |xs: &[Array]| Ok(vec![chain(&xs[0], length)?]);
        let x = Array::scalar(0.0f32).unwrap();
        let (values, slopes) = jvp(
            f,
            std::slice::from_ref(&x),
            &[Array::scalar(1.0f32).unwrap()],
        )
        .unwrap();
        assert_eq!(values[0].item::<f32>().unwrap(), 100_000.0);
        assert_eq!(slopes[0].item::<f32>().unwrap(), 1.0);
        let mapped = vmap(f, &[Some(0)], &[Some(0)]).unwrap();
        let rows = Array::from_slice(&[0.0f32, 1.0], &[2]).unwrap();
        assert_eq!(
            mapped(&[rows]).unwrap()[0].to_vec::<f32>().unwrap(),
            [100_000.0, 100_001.0]
        );
        let compiled = compile(f, false).unwrap();
        let traced = compiled(&[x]).unwrap();
        assert_eq!(traced[0].shape(), [0i32; 0]);
    });
}

#[test]
fn a_chain_that_no_stack_can_hold_is_an_error() {
    on_a_small_stack(|| {
        let slope = grad(|xs: &[Array]| Ok(vec![chain(&xs[0], 2_000_000)?]), &[0]).unwrap();
        let error = slope(&[Array::scalar(2.0f32).unwrap()]).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)), "{error}");
        // The next transform works as if nothing had happened.
        let square = grad(|xs: &[Array]| Ok(vec![xs[0].square()?]), &[0]).unwrap();
        let x = Array::scalar(3.0f32).unwrap();
        assert_eq!(square(&[x]).unwrap()[0].item::<f32>().unwrap(), 6.0);
    });
}

#[test]
fn printing_a_deep_graph_fits_a_small_stack_or_is_an_error() {
    on_a_small_stack(|| {
        let x = Array::scalar(2.0f32).unwrap();
        let text = |length| mlx_transforms::Graph::new(&[&chain(&x, length).unwrap()]).text();
        assert!(text(50_000).unwrap().len() > 50_000);
        assert!(matches!(text(2_000_000), Err(Error::Unsupported(_))));
    });
}
