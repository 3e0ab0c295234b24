//! The trainer: order of samples, exact resuming, early stop.

use std::{path::Path, time::Duration};

use mlx_core::{Array, ops::random};
use mlx_nn::{
    Activation, Dropout, Linear, Mode, Module, Result,
    loss::{Reduction, mse_loss},
    optimizer::{Adam, Optimizer, Schedule},
    train::{
        Dataset, Loader, LoaderOptions, Log, Position, Report, StepOptions, StopReason, TrainStep,
        Trainer, TrainerOptions,
    },
};

use crate::golden::TestResult;

struct Noise;

impl Dataset for Noise {
    fn len(&self) -> usize {
        50
    }

    fn length(&self, sample: usize) -> usize {
        sample % 7
    }

    fn batch(&self, samples: &[usize], epoch: u64) -> Result<(Vec<Array>, u64)> {
        let numbers: Vec<f32> = samples
            .iter()
            .map(|&n| (n as f32 + epoch as f32).sin())
            .collect();
        let x = Array::from_slice(&numbers, &[i32::try_from(samples.len()).unwrap_or(0), 1])?;
        Ok((
            vec![x.clone(), (x * 2.0)?],
            u64::try_from(samples.len()).unwrap_or(0),
        ))
    }
}

#[derive(Debug, Clone, Module)]
struct Net {
    hidden: Linear,
    output: Linear,
    #[module(skip)]
    dropout: Dropout,
}

fn run(folder: &Path, options: TrainerOptions) -> Result<Report> {
    random::seed(11)?;
    let net = Net {
        hidden: Linear::new(1, 16, true)?,
        output: Linear::new(16, 1, true)?,
        dropout: Dropout::new(0.1)?,
    };
    let optimizer = Optimizer::new(Adam::default(), Schedule::cosine_decay(0.01, 400, 0.0)?)?;
    let step = StepOptions::default().compile(false).seed(1);
    let mut step = TrainStep::new(net, optimizer, step, |net, xs, key| {
        let x = Activation::Tanh.forward(&net.hidden.forward(&xs[0])?)?;
        let x = net.dropout.forward(&x, Mode::Train(key))?;
        mse_loss(&net.output.forward(&x)?, &xs[1], Reduction::Mean)
    })?;
    let test = Array::from_slice::<f32>(&[-0.5, 0.5], &[2, 1])?;
    let loader = LoaderOptions::new(8).shuffle(Some(4)).bucket(2);
    Trainer::new(folder, options).run(&mut step, Noise, loader, |net| {
        let y = net
            .output
            .forward(&Activation::Tanh.forward(&net.hidden.forward(&test)?)?)?;
        Ok(f64::from(
            mse_loss(&y, &(&test * 2.0)?, Reduction::Mean)?.item::<f32>()?,
        ))
    })
}

/// A step, its loss and the held-out loss as bits.
pub(crate) type Point = (u64, Option<u64>, Option<u64>);

/// All points of a log; times are left out, as they differ from run to run.
pub(crate) fn curve(folder: &Path) -> Result<Vec<Point>> {
    let bits = |loss: Option<f64>| loss.map(f64::to_bits);
    let records = Log::read(folder.join("log.jsonl"))?;
    Ok(records
        .iter()
        .map(|r| (r.step, bits(r.loss), bits(r.held_out)))
        .collect())
}

#[test]
fn a_run_in_parts_equals_a_whole_one_and_early_stop_ends_it() -> TestResult {
    let (whole, parts) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let report = run(whole.path(), TrainerOptions::new(60).every(5, 20, 10))?;
    assert_eq!((report.steps, report.stopped), (60, StopReason::Done));
    for steps in [20, 40, 60] {
        run(parts.path(), TrainerOptions::new(steps).every(5, 20, 10))?;
    }
    assert_eq!(curve(parts.path())?, curve(whole.path())?);
    let best = Log::read(whole.path().join("log.jsonl"))?
        .iter()
        .filter_map(|record| record.held_out)
        .fold(f64::INFINITY, f64::min);
    assert_eq!(report.best, Some(best));

    let no_time = TrainerOptions::new(60)
        .time_limit(Some(Duration::ZERO))
        .resume(false);
    let report = run(parts.path(), no_time)?;
    assert_eq!((report.steps, report.stopped), (0, StopReason::Time));

    let stale = tempfile::tempdir()?;
    let long = TrainerOptions::new(100_000)
        .every(50, 25, 0)
        .patience(Some(4));
    let report = run(stale.path(), long)?;
    assert_eq!(report.stopped, StopReason::Stale);
    assert!(report.steps < 100_000);
    Ok(())
}

#[test]
fn each_pass_has_every_sample_once_in_a_seeded_order() -> TestResult {
    let first = |options: LoaderOptions| -> Result<Vec<Vec<f32>>> {
        let mut loader = Loader::new(Noise, options, Position::default())?;
        (0..7)
            .map(|_| Ok(loader.next_batch()?.arrays[0].to_vec::<f32>()?))
            .collect()
    };
    let options = LoaderOptions::new(8).drop_last(false);
    let (a, b) = (first(options.clone())?, first(options.clone())?);
    assert_eq!(a, b);
    assert_ne!(a, first(options.clone().shuffle(Some(1)))?);
    let mut seen: Vec<f32> = a.concat();
    let mut all: Vec<f32> = (0..50_u8).map(|n| f32::from(n).sin()).collect();
    seen.sort_by(f32::total_cmp);
    all.sort_by(f32::total_cmp);
    assert_eq!(seen, all);

    let mut loader = Loader::new(Noise, options.clone(), Position { epoch: 0, batch: 6 })?;
    let last = loader.next_batch()?;
    assert_eq!(
        (last.arrays[0].shape(), last.next),
        (&[2, 1][..], Position { epoch: 1, batch: 0 })
    );
    assert!(Loader::new(Noise, LoaderOptions::new(51), Position::default()).is_err());
    assert!(Loader::new(Noise, LoaderOptions::new(0), Position::default()).is_err());
    Ok(())
}
