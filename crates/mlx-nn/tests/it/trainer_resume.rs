//! What a run that goes on keeps, and what it refuses.

use std::{cell::Cell, path::Path, rc::Rc, time::Duration};

use mlx_core::Array;
use mlx_nn::{
    Error, Linear, Result,
    loss::{Reduction, mse_loss},
    optimizer::{Adam, Lion, Optimize, Optimizer, Sgd},
    parameters,
    train::{
        Dataset, Loader, LoaderOptions, Log, Position, Report, StepOptions, StopReason, TrainStep,
        Trainer, TrainerOptions,
    },
};

use crate::golden::TestResult;

/// Samples whose length is their number.
struct Numbers(usize);

impl Dataset for Numbers {
    fn len(&self) -> usize {
        self.0
    }

    fn length(&self, sample: usize) -> usize {
        sample
    }

    fn batch(&self, samples: &[usize], _: u64) -> Result<(Vec<Array>, u64)> {
        let numbers: Vec<f32> = samples.iter().map(|&n| n as f32 / 100.0).collect();
        let count = i32::try_from(samples.len()).unwrap_or(0);
        let x = Array::from_slice(&numbers, &[count, 1])?;
        Ok((vec![x.clone(), x], u64::from(count.unsigned_abs())))
    }
}

/// A run and how often its loss was asked for.
struct Run {
    loader: LoaderOptions,
    step: StepOptions,
    samples: usize,
    /// The held-out loss grows from this evaluation on.
    best: u32,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            loader: LoaderOptions::new(4),
            step: StepOptions::default().compile(false),
            samples: 40,
            best: 2,
        }
    }
}

type Step<O> = TrainStep<Linear, O>;

fn step<O: Optimize + 'static>(
    optimizer: O,
    options: StepOptions,
) -> Result<(Step<O>, Rc<Cell<u32>>)> {
    let weight = Array::full::<f32>(&[1, 1], 0.25)?;
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let linear = Linear::from_weights(weight, None)?;
    let step = TrainStep::new(linear, optimizer, options, move |model, xs, _| {
        counted.set(counted.get() + 1);
        mse_loss(&model.forward(&xs[0])?, &xs[1], Reduction::Mean)
    })?;
    Ok((step, count))
}

impl Run {
    /// Runs, and returns how many losses were computed besides the report.
    fn run(&self, folder: &Path, options: TrainerOptions) -> Result<(Report, u32)> {
        let adam = Optimizer::new(Adam::default(), 0.01)?;
        let (mut step, count) = step(adam, self.step.clone())?;
        let mut evaluations = 0;
        let trainer = Trainer::new(folder, options);
        let data = Numbers(self.samples);
        let report = trainer.run(&mut step, data, self.loader.clone(), |_| {
            evaluations += 1;
            Ok(f64::from(evaluations.max(self.best)) - f64::from(evaluations.min(self.best)))
        })?;
        Ok((report, count.get()))
    }
}

#[test]
fn a_run_that_went_stale_stays_so() -> TestResult {
    let folder = tempfile::tempdir()?;
    let options = TrainerOptions::new(1000).every(10, 10, 0).patience(Some(3));
    let (first, steps) = Run::default().run(folder.path(), options.clone())?;
    assert_eq!((first.stopped, first.steps), (StopReason::Stale, 50));
    assert_eq!(steps, 50);
    let log = std::fs::read(folder.path().join("log.jsonl"))?;
    for _ in 0..2 {
        let (again, steps) = Run::default().run(folder.path(), options.clone())?;
        assert_eq!((again.stopped, again.steps), (StopReason::Stale, 50));
        assert_eq!((steps, again.best), (0, first.best));
        assert_eq!(std::fs::read(folder.path().join("log.jsonl"))?, log);
    }
    // More patience goes on.
    let (more, steps) = Run::default().run(folder.path(), options.patience(Some(100)))?;
    assert_eq!(
        (more.stopped, more.steps, steps),
        (StopReason::Done, 1000, 950)
    );
    Ok(())
}

#[test]
fn a_run_whose_time_was_up_takes_no_further_step() -> TestResult {
    let folder = tempfile::tempdir()?;
    let limit = Some(Duration::from_nanos(1));
    let options = TrainerOptions::new(1000).time_limit(limit);
    let (first, steps) = Run::default().run(folder.path(), options.clone())?;
    assert_eq!(
        (first.stopped, first.steps),
        (StopReason::Time, u64::from(steps))
    );
    assert!(steps <= 1);
    for _ in 0..2 {
        let (again, steps) = Run::default().run(folder.path(), options.clone())?;
        assert_eq!(
            (again.stopped, again.steps),
            (StopReason::Time, first.steps)
        );
        assert_eq!(steps, 0);
    }
    Ok(())
}

#[test]
fn other_batches_or_seeds_are_no_continuation() -> TestResult {
    let folder = tempfile::tempdir()?;
    let options = |steps| TrainerOptions::new(steps).every(10, 0, 0);
    let run = Run::default();
    run.run(folder.path(), options(10))?;
    let changed = [
        (
            "batch_size was 4 and is 8",
            Run {
                loader: LoaderOptions::new(8),
                ..Run::default()
            },
        ),
        (
            "shuffle was 0 and is null",
            Run {
                loader: LoaderOptions::new(4).shuffle(None),
                ..Run::default()
            },
        ),
        (
            "bucket was 0 and is 2, drop_last was true and is false",
            Run {
                loader: LoaderOptions::new(4).bucket(2).drop_last(false),
                ..Run::default()
            },
        ),
        (
            "seed was 0 and is 7",
            Run {
                step: StepOptions::default().seed(7),
                ..Run::default()
            },
        ),
        (
            "samples was 40 and is 44",
            Run {
                samples: 44,
                ..Run::default()
            },
        ),
    ];
    for (said, other) in changed {
        let error = other.run(folder.path(), options(20)).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidArgument { message, .. } if message.contains(said)),
            "{said}: {error}"
        );
    }
    let error = run
        .run(folder.path(), options(20).accumulate(2))
        .unwrap_err();
    assert!(
        error.to_string().contains("accumulate was 1 and is 2"),
        "{error}"
    );
    // What only makes batches sooner is free, and so is beginning anew.
    let ahead = Run {
        loader: LoaderOptions::new(4).prefetch(5),
        ..Run::default()
    };
    assert_eq!(ahead.run(folder.path(), options(20))?.1, 10);
    let anew = options(20).accumulate(2).resume(false);
    assert_eq!(run.run(folder.path(), anew)?.1, 40);
    Ok(())
}

#[test]
fn a_checkpoint_of_another_optimizer_changes_nothing() -> TestResult {
    let folder = tempfile::tempdir()?;
    let options = TrainerOptions::new(10).every(10, 0, 0);
    Run::default().run(folder.path(), options.clone())?;
    let lion = Optimizer::new(Lion::default(), 0.01)?;
    let (mut other, count) = step(lion, StepOptions::default().compile(false))?;
    let (before, state) = (parameters(&*other.model()), other.state());
    let trainer = Trainer::new(folder.path(), options);
    let error = trainer
        .run(&mut other, Numbers(40), LoaderOptions::new(4), |_| Ok(0.0))
        .unwrap_err();
    assert!(
        matches!(&error, Error::Weight { key, .. } if key == "weight.v"),
        "{error}"
    );
    assert_eq!(count.get(), 0);
    let after = parameters(&*other.model());
    assert_eq!(
        after["weight"].to_vec::<f32>()?,
        before["weight"].to_vec::<f32>()?
    );
    let keys = |state: std::collections::BTreeMap<String, Array>| -> Vec<String> {
        state.into_keys().collect()
    };
    assert_eq!(keys(other.state()), keys(state));
    Ok(())
}

#[test]
fn accumulated_batches_train_as_one_of_their_size() -> TestResult {
    let curve = |accumulate: usize, batch: usize| -> Result<(Vec<f64>, Report)> {
        let folder = tempfile::tempdir().map_err(|e| mlx_core::Error::Backend(e.to_string()))?;
        let options = TrainerOptions::new(12)
            .every(1, 0, 0)
            .accumulate(accumulate);
        let sgd = Optimizer::new(Sgd::default(), 0.5)?;
        let (mut step, _) = step(sgd, StepOptions::default())?;
        let loader = LoaderOptions::new(batch);
        let trainer = Trainer::new(folder.path(), options);
        let report = trainer.run(&mut step, Numbers(48), loader, |_| Ok(0.0))?;
        let records = Log::read(trainer.log_path())?;
        Ok((records.iter().filter_map(|r| r.loss).collect(), report))
    };
    let ((whole, a), (parts, b)) = (curve(1, 8)?, curve(2, 4)?);
    assert_eq!((whole.len(), parts.len()), (12, 12));
    for (whole, part) in whole.iter().zip(&parts) {
        assert!((whole - part).abs() < 1e-6, "{whole} {part}");
    }
    assert_eq!((a.units, b.units, b.steps), (96, 96, 12));
    Ok(())
}

#[test]
fn an_incomplete_batch_loses_other_samples_in_each_pass() -> TestResult {
    // 10 samples in batches of 4: two are left out of each pass.
    let options = LoaderOptions::new(4).bucket(3);
    let mut loader = Loader::new(Numbers(10), options, Position::default())?;
    let mut missed = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let batch = loader.next_batch()?.arrays[0].to_vec::<f32>()?;
            assert!(batch.is_sorted(), "{batch:?}");
            seen.extend(batch.iter().map(|n| (n * 100.0).round()));
        }
        seen.sort_by(f32::total_cmp);
        seen.dedup();
        assert_eq!(seen.len(), 8);
        missed.extend((0..10).filter(|n| !seen.contains(&(*n as f32))));
    }
    assert!(missed.len() >= 8, "{missed:?}");
    Ok(())
}
