//! The gradient of each sample of a batch, in one pass: `cargo run --example per_sample_grad -- 64`.
//!
//! Private training and influence functions need them one by one, not their sum. `vmap` over `grad`
//! computes all of them at once; a loop computes them one after the other, for comparison.

use std::io::Write;
use std::time::Instant;

use mlx_core::ops::random;
use mlx_core::prelude::*;
use mlx_transforms::{grad, vmap};

const FEATURES: i32 = 64;
const HIDDEN: i32 = 128;

/// The squared error of a network with one hidden layer on one sample:
/// weights `[FEATURES, HIDDEN]` and `[HIDDEN]`, a sample `[FEATURES]`, a target `[]`.
fn loss(xs: &[Array]) -> Result<Vec<Array>> {
    let hidden = xs[2].matmul(&xs[0])?.tanh()?;
    Ok(vec![(hidden.inner(&xs[1])? - &xs[3])?.square()?])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let batch = match std::env::args().nth(1) {
        None => 32,
        Some(text) => text
            .parse()
            .map_err(|_| "usage: per_sample_grad [BATCH]".to_owned())?,
    };
    let normal = |shape: &[i32], seed| -> Result<Array> {
        let key = random::key(seed)?;
        random::normal::<f32>(0.0, 0.1, shape, Some(&key))
    };
    let (first, second) = (normal(&[FEATURES, HIDDEN], 0)?, normal(&[HIDDEN], 1)?);
    let (samples, targets) = (normal(&[batch, FEATURES], 2)?, normal(&[batch], 3)?);
    eval(&[&first, &second, &samples, &targets])?;

    // Weights are shared (`None`), samples and targets have one slice each.
    let each = vmap(
        grad(loss, &[0, 1])?,
        &[None, None, Some(0), Some(0)],
        &[Some(0), Some(0)],
    )?;
    let start = Instant::now();
    let grads = each(&[
        first.clone(),
        second.clone(),
        samples.clone(),
        targets.clone(),
    ])?;
    eval(&[&grads[0], &grads[1]])?;
    let mapped = start.elapsed();

    let one = grad(loss, &[0, 1])?;
    let start = Instant::now();
    let mut looped = Vec::new();
    for (sample, target) in samples.iter()?.zip(targets.iter()?) {
        let mut grads = one(&[first.clone(), second.clone(), sample?, target?])?;
        grads[0].eval()?;
        looped.push(grads.swap_remove(0));
    }
    let loop_time = start.elapsed();
    let looped = mlx_core::ops::shape::stack(&looped.iter().collect::<Vec<_>>(), 0)?;
    let difference = (&looped - &grads[0])?.abs()?.max(false)?.item::<f32>()?;

    // The length of each gradient, by which private training clips.
    let norms = grads[0].square()?.sum_axes(&[1, 2], false)?.sqrt()?;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "gradients {:?} and {:?}",
        grads[0].shape(),
        grads[1].shape()
    )?;
    writeln!(out, "norms {norms:.4}")?;
    writeln!(
        out,
        "vmap {mapped:.1?}, loop {loop_time:.1?}, largest difference {difference:e}"
    )?;
    Ok(())
}
