//! Layers, gradients and training over two processes, against the same in one.

use std::path::Path;

use mlx_core::distributed::Group;
use mlx_core::ops::random;
use mlx_core::ops::reduction::sum;
use mlx_core::{Array, Dtype};
use mlx_nn::adapter::{AdapterOptions, add_adapters};
use mlx_nn::distributed::{
    AllToShardedLinear, AverageOptions, FullySharded, Segments, ShardedToAllLinear, Sharding,
    average_gradients, clip_grad_norm_sharded, shard_inplace, shard_linear,
};
use mlx_nn::loss::{Reduction, mse_loss};
use mlx_nn::optimizer::{AdamW, Optimizer, Schedule, clip_grad_norm};
use mlx_nn::train::{Dataset, LoaderOptions, Log, StepOptions, TrainStep, Trainer, TrainerOptions};
use mlx_nn::{
    Activation, Gradients, LayerQuantization, Linear, Module, QuantMode, Quantization, Sequential,
    UnaryLayer, parameters, quantize, value_and_grad,
};
use mlx_transforms::value_and_grad as differentiate;

use super::distributed::run;

#[test]
fn sharded_layers_equal_whole_ones() {
    run("sharded", 2);
}

#[test]
fn gradients_are_averaged_in_every_way() {
    run("averaged", 2);
}

#[test]
fn two_processes_train_as_one_on_the_joined_batch() {
    run("trained", 2);
}

fn noise(shape: &[i32], seed: u64) -> Array {
    random::normal::<f32>(0.0, 1.0, shape, Some(&random::key(seed).unwrap())).unwrap()
}

fn layer(input: i32, output: i32, seed: u64) -> Linear {
    let weight = noise(&[output, input], seed);
    Linear::from_weights(weight, Some(noise(&[output], seed + 1))).unwrap()
}

/// This process's half along an axis.
fn half(array: &Array, axis: i32, group: &Group) -> Array {
    let parts = array.split(group.size(), axis).unwrap();
    parts[usize::try_from(group.rank()).unwrap()].clone()
}

fn assert_close(found: &Array, expected: &Array, what: &str) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let close = found.allclose(expected, 1e-4, 1e-5).unwrap();
    assert!(close.item::<bool>().unwrap(), "{what}: {found} {expected}");
}

/// Output, and the gradients of the input and of each parameter under the cotangent `c`.
fn derive<M: Module + Clone + 'static>(
    module: &M,
    x: &Array,
    c: &Array,
    forward: impl Fn(&M, &Array) -> mlx_nn::Result<Array> + Clone + 'static,
) -> (Array, Array, Gradients) {
    let y = forward(module, x).unwrap();
    let (by_input, copy, weights) = (forward.clone(), module.clone(), c.clone());
    let of_input = differentiate(
        move |xs: &[Array]| {
            let y = by_input(&copy, &xs[0])?;
            Ok(vec![sum(&(y * &weights)?, false)?])
        },
        &[0],
    )
    .unwrap();
    let dx = of_input(std::slice::from_ref(x)).unwrap().1.swap_remove(0);
    let mut gradients = Gradients::new();
    if !mlx_nn::trainable_parameters(module).is_empty() {
        let mut module = module.clone();
        let inputs = [x.clone(), c.clone()];
        gradients = value_and_grad(&mut module, &inputs, move |module, xs| {
            Ok(sum(&(forward(module, &xs[0])? * &xs[1])?, false)?)
        })
        .unwrap()
        .1;
    }
    (y, dx, gradients)
}

fn unary<L: UnaryLayer>(layer: &L, x: &Array) -> mlx_nn::Result<Array> {
    UnaryLayer::forward(layer, x)
}

pub(crate) fn sharded(group: &Group) {
    let one = Segments::default();
    let whole = layer(16, 12, 1);
    let (x, c) = (noise(&[3, 16], 3), noise(&[3, 12], 4));
    let (y, dx, gradients) = derive(&whole, &x, &c, unary);

    let part = AllToShardedLinear::from_linear(&whole, &one, group).unwrap();
    let found = derive(&part, &x, &half(&c, 1, group), unary);
    assert_close(&found.0, &half(&y, 1, group), "y to sharded");
    assert_close(&found.1, &dx, "dx to sharded");
    for key in ["weight", "bias"] {
        assert_close(&found.2[key], &half(&gradients[key], 0, group), key);
    }

    let part = ShardedToAllLinear::from_linear(&whole, &one, group).unwrap();
    let found = derive(&part, &half(&x, 1, group), &c, unary);
    assert_close(&found.0, &y, "y to all");
    assert_close(&found.1, &half(&dx, 1, group), "dx to all");
    assert_close(
        &found.2["weight"],
        &half(&gradients["weight"], 1, group),
        "weight",
    );
    assert_close(&found.2["bias"], &gradients["bias"], "bias");

    // Two layers with one exchange between them, as in a transformer's block.
    let second = layer(12, 5, 5);
    let block = |first: Linear, second: Linear| {
        Sequential::new()
            .then(first)
            .then(Activation::Gelu)
            .then(second)
    };
    let c = noise(&[3, 5], 7);
    let (y, dx, gradients) = derive(&block(whole.clone(), second.clone()), &x, &c, unary);
    let parts = Sequential::new()
        .then(AllToShardedLinear::from_linear(&whole, &one, group).unwrap())
        .then(Activation::Gelu)
        .then(ShardedToAllLinear::from_linear(&second, &one, group).unwrap());
    let found = derive(&parts, &x, &c, unary);
    assert_close(&found.0, &y, "y of the block");
    assert_close(&found.1, &dx, "dx of the block");
    for (key, axis) in [
        ("layers.0.weight", 0),
        ("layers.0.bias", 0),
        ("layers.2.weight", 1),
    ] {
        assert_close(&found.2[key], &half(&gradients[key], axis, group), key);
    }

    quantized(group);
    segments(group);
    fully(group);

    let odd = layer(7, 9, 1);
    for sharding in [Sharding::AllToSharded, Sharding::ShardedToAll] {
        assert!(shard_linear(&odd, sharding, &one, group).is_err());
        let unloaded = Linear::placeholder(4, 4, false).unwrap();
        assert!(shard_linear(&unloaded, sharding, &one, group).is_err());
        let mut adapted = layer(4, 4, 1);
        add_adapters(&mut adapted, AdapterOptions::default(), |_| true).unwrap();
        assert!(shard_linear(&adapted, sharding, &one, group).is_err());
    }
    assert!(AllToShardedLinear::new(4, 3, true, group).is_err());
    assert!(ShardedToAllLinear::new(3, 4, true, group).is_err());
    let fresh = ShardedToAllLinear::new(4, 3, true, group).unwrap();
    assert_eq!(parameters(&fresh)["weight"].shape(), [3, 2]);
}

/// The weight is frozen; the gradient of the input is not.
fn quantized(group: &Group) {
    let mut whole = layer(128, 8, 8);
    let mode = LayerQuantization {
        group_size: 32,
        bits: 4,
        mode: QuantMode::Affine,
    };
    quantize(&mut whole, &Quantization::uniform(mode), |_, _| true).unwrap();
    let (x, c) = (noise(&[3, 128], 10), noise(&[3, 8], 11));
    let (y, dx, _) = derive(&whole, &x, &c, unary);
    let one = Segments::default();
    let part = AllToShardedLinear::from_linear(&whole, &one, group).unwrap();
    let found = derive(&part, &x, &half(&c, 1, group), unary);
    assert_close(&found.0, &half(&y, 1, group), "quantised y to sharded");
    assert_close(&found.1, &dx, "quantised dx to sharded");
    let part = ShardedToAllLinear::from_linear(&whole, &one, group).unwrap();
    let found = derive(&part, &half(&x, 1, group), &c, unary);
    assert_close(&found.0, &y, "quantised y to all");
    assert_close(&found.1, &half(&dx, 1, group), "quantised dx to all");
    assert_eq!(parameters(&part)["scales"].shape(), [8, 2]);
}

/// Queries, keys and values in one matrix: each process gets half of each.
fn segments(group: &Group) {
    let whole = layer(4, 12, 12);
    let x = noise(&[2, 4], 14);
    let y = whole.forward(&x).unwrap();
    let thirds: Vec<Array> = y.split(3, 1).unwrap();
    let expected: Vec<Array> = thirds.iter().map(|third| half(third, 1, group)).collect();
    let expected =
        mlx_core::ops::shape::concatenate(&expected.iter().collect::<Vec<_>>(), 1).unwrap();
    for segments in [
        Segments::Equal(3),
        Segments::Fractions(vec![1.0 / 3.0, 2.0 / 3.0]),
    ] {
        let mut part = whole.clone();
        shard_inplace(&mut part, Sharding::AllToSharded, &segments, group).unwrap();
        assert_close(&part.forward(&x).unwrap(), &expected, "segments");
    }
}

/// Each process sees another half of the batch, and keeps the mean gradient of its rows.
fn fully(group: &Group) {
    let whole = layer(6, 4, 15);
    let (x, target) = (noise(&[8, 6], 17), noise(&[8, 4], 18));
    let error = |layer: &Linear, xs: &[Array]| -> mlx_nn::Result<Array> {
        mse_loss(&layer.forward(&xs[0])?, &xs[1], Reduction::Mean)
    };
    let joined = [x.clone(), target.clone()];
    let expected = value_and_grad(&mut whole.clone(), &joined, move |layer, xs| {
        error(layer, xs)
    })
    .unwrap()
    .1;
    let mut part = FullySharded::new(whole, group, None).unwrap();
    assert_eq!(parameters(&part)["module.weight"].shape(), [2, 6]);
    let inputs = [half(&x, 0, group), half(&target, 0, group)];
    let (_, found) = value_and_grad(&mut part, &inputs, move |part, xs| {
        part.run(|layer| error(layer, xs))
    })
    .unwrap();
    for key in ["weight", "bias"] {
        let expected = half(&expected[key], 0, group);
        assert_close(&found[&format!("module.{key}")], &expected, key);
    }
    let (clipped, norm) = clip_grad_norm_sharded(&found, 0.1, group).unwrap();
    let (whole_clipped, whole_norm) = clip_grad_norm(&expected, 0.1).unwrap();
    assert_close(&norm, &whole_norm, "norm");
    let expected = half(&whole_clipped["weight"], 0, group);
    assert_close(&clipped["module.weight"], &expected, "clipped");
    assert!(FullySharded::new(layer(6, 3, 1), group, None).is_err());
}

pub(crate) fn averaged(group: &Group) {
    let shapes: [&[i32]; 4] = [&[3, 4], &[5], &[], &[2, 2, 2]];
    let of = |rank: i32| -> Gradients {
        let seed = u64::try_from(rank).unwrap() * 10;
        let made = shapes.iter().zip(seed..).map(|(shape, seed)| {
            let key = format!("p{}", seed % 10);
            (key, noise(shape, seed))
        });
        made.collect()
    };
    let (own, zero, one) = (of(group.rank()), of(0), of(1));
    let expected = |key: &String| ((&zero[key] + &one[key]).unwrap() * 0.5).unwrap();
    for bytes in [0, 1, 40, 1 << 20] {
        let options = AverageOptions::default().all_reduce_size(bytes);
        let found = average_gradients(&own, group, options).unwrap();
        assert_eq!(found.len(), own.len());
        for (key, array) in &found {
            assert_close(array, &expected(key), key);
        }
    }
    let options = AverageOptions::default().communication_type(Some(Dtype::Float16));
    for (key, array) in &average_gradients(&own, group, options).unwrap() {
        assert_eq!(array.dtype(), Dtype::Float32);
        let close = array.allclose(&expected(key), 1e-2, 1e-2).unwrap();
        assert!(close.item::<bool>().unwrap(), "{key}");
    }
    let integers = AverageOptions::default().communication_type(Some(Dtype::Int32));
    assert!(average_gradients(&own, group, integers).is_err());

    let mut mixed = own.clone();
    let half = own["p1"].astype(Dtype::Bfloat16).unwrap();
    mixed.insert("p1".to_owned(), half);
    let found = average_gradients(&mixed, group, AverageOptions::default()).unwrap();
    assert_eq!(found["p1"].dtype(), Dtype::Bfloat16);
    assert_close(
        &found["p0"],
        &expected(&"p0".to_owned()),
        "beside another dtype",
    );
}

#[derive(Debug, Clone, Module)]
struct Net {
    hidden: Linear,
    output: Linear,
}

fn net() -> Net {
    Net {
        hidden: layer(3, 8, 20),
        output: layer(8, 1, 22),
    }
}

fn forward(net: &Net, x: &Array) -> mlx_nn::Result<Array> {
    net.output.forward(&net.hidden.forward(x)?.tanh()?)
}

fn step(options: StepOptions) -> TrainStep<Net, Optimizer<AdamW>> {
    let schedule = Schedule::cosine_decay(0.02, 60, 0.0).unwrap();
    let optimizer = Optimizer::new(AdamW::default(), schedule).unwrap();
    TrainStep::new(net(), optimizer, options.clip_norm(0.5), |net, xs, _| {
        mse_loss(&forward(net, &xs[0])?, &xs[1], Reduction::Mean)
    })
    .unwrap()
}

struct Waves;

impl Dataset for Waves {
    fn len(&self) -> usize {
        40
    }

    fn batch(&self, samples: &[usize], _: u64) -> mlx_nn::Result<(Vec<Array>, u64)> {
        let number = |n: usize| f32::from(u16::try_from(n).unwrap_or(0));
        let rows: Vec<f32> = samples
            .iter()
            .flat_map(|&n| [number(n).sin(), number(n).cos(), number(n) / 40.0])
            .collect();
        let count = i32::try_from(samples.len()).unwrap_or(0);
        let x = Array::from_slice(&rows, &[count, 3])?;
        let y = x.sum_axes(&[1], true)?.sin()?;
        Ok((vec![x, y], u64::from(count.unsigned_abs())))
    }
}

pub(crate) fn trained(group: &Group, folder: &Path) {
    // Steps by hand, on halves of each batch.
    for compile in [true, false] {
        let options = StepOptions::default().compile(compile);
        let mut alone = step(options.clone());
        let mut together = step(options.group(group.clone()));
        assert_eq!(together.group().map(Group::size), Some(2));
        for number in 0..8_usize {
            let samples: Vec<usize> = (0..8).map(|n| n * 5 + number % 5).collect();
            let (batch, _) = Waves.batch(&samples, 0).unwrap();
            let halves: Vec<Array> = batch.iter().map(|array| half(array, 0, group)).collect();
            let expected = alone.step(&batch).unwrap();
            assert_close(&together.step(&halves).unwrap(), &expected, "loss");
        }
        let expected = parameters(&*alone.model());
        for (key, array) in parameters(&*together.model()) {
            assert_close(&array, &expected[&key], &key);
        }
    }

    // The trainer, interrupted once, with one folder for both processes.
    let run = |mut step: TrainStep<Net, Optimizer<AdamW>>, folder: &Path, steps: u64| {
        let options = TrainerOptions::new(steps)
            .every(5, 10, 10)
            .time_limit(Some(std::time::Duration::from_secs(600)));
        let trainer = Trainer::new(folder, options);
        let loader = LoaderOptions::new(8).shuffle(Some(1));
        let (test, _) = Waves.batch(&[1, 2, 3, 4], 0).unwrap();
        let report = trainer
            .run(&mut step, Waves, loader, |net| {
                let error = mse_loss(&forward(net, &test[0])?, &test[1], Reduction::Mean)?;
                Ok(f64::from(error.item::<f32>()?))
            })
            .unwrap();
        (
            report,
            parameters(&*step.model()),
            Log::read(trainer.log_path()).unwrap(),
        )
    };
    let shared = folder.join("together");
    let distributed = || step(StepOptions::default().group(group.clone()));
    let (half_way, ..) = run(distributed(), &shared, 20);
    assert_eq!((half_way.steps, half_way.units), (20, 160));
    let (report, found, log) = run(distributed(), &shared, 40);
    let own = folder.join(format!("alone-{}", group.rank()));
    let (expected_report, expected, expected_log) = run(step(StepOptions::default()), &own, 40);
    assert_eq!(
        (report.steps, report.units),
        (expected_report.steps, expected_report.units)
    );
    for (key, array) in &found {
        assert_close(array, &expected[key], key);
    }
    assert_eq!(log.len(), expected_log.len());
    for (record, expected) in log.iter().zip(&expected_log) {
        assert_eq!(record.step, expected.step);
        let gap = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => (a - b).abs() < 1e-4 * b.abs() + 1e-6,
            (a, b) => a.is_none() && b.is_none(),
        };
        assert!(gap(record.loss, expected.loss), "{record:?} {expected:?}");
        assert!(
            gap(record.held_out, expected.held_out),
            "{record:?} {expected:?}"
        );
    }
}
