//! The loop: batches in, log and checkpoints out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mlx_core::{Array, memory};

use super::{
    Dataset, Loader, LoaderOptions, Log, Record, TrainStep,
    checkpoint::{self, Progress, Settings},
    progress::Bar,
};
use crate::{
    Error, Module, Result,
    distributed::{largest, mean as mean_of_all},
    optimizer::Optimize,
    save_weights,
};

/// How long and how closely watched a [`Trainer`] works.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct TrainerOptions {
    /// The last step.
    pub steps: u64,
    /// Steps between two records of the log.
    pub log_every: u64,
    /// Steps between two evaluations.
    pub evaluate_every: u64,
    /// Steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Batches whose mean gradient makes one step.
    pub accumulate: usize,
    /// Evaluations without a new best after which training stops.
    pub patience: Option<u32>,
    /// The time after which training stops, counted over resumed runs together.
    pub time_limit: Option<Duration>,
    /// Whether a progress bar is shown on standard error.
    pub progress: bool,
    /// Whether to go on from a checkpoint in the folder.
    pub resume: bool,
}

impl TrainerOptions {
    /// A record every 10 steps, an evaluation every 100, a checkpoint every 100, one batch a step,
    /// nothing shown, resumed where there is something to resume.
    pub const fn new(steps: u64) -> Self {
        Self {
            steps,
            log_every: 10,
            evaluate_every: 100,
            checkpoint_every: 100,
            accumulate: 1,
            patience: None,
            time_limit: None,
            progress: false,
            resume: true,
        }
    }

    /// Sets the steps between two records, evaluations and checkpoints.
    pub const fn every(mut self, log: u64, evaluate: u64, checkpoint: u64) -> Self {
        self.log_every = log;
        self.evaluate_every = evaluate;
        self.checkpoint_every = checkpoint;
        self
    }

    /// Sets how many batches make one step.
    pub const fn accumulate(mut self, batches: usize) -> Self {
        self.accumulate = batches;
        self
    }

    /// Sets how many evaluations without a new best end the training.
    pub const fn patience(mut self, evaluations: Option<u32>) -> Self {
        self.patience = evaluations;
        self
    }

    /// Sets the time that ends the training.
    pub const fn time_limit(mut self, limit: Option<Duration>) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets whether a progress bar is shown.
    pub const fn progress(mut self, progress: bool) -> Self {
        self.progress = progress;
        self
    }

    /// Sets whether to go on from a checkpoint.
    pub const fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }
}

/// Why training stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// All steps were taken.
    Done,
    /// There was no new best for too long.
    Stale,
    /// The time was up.
    Time,
}

/// What came of a training run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The steps taken, those before resuming included.
    pub steps: u64,
    /// Tokens or samples seen.
    pub units: u64,
    /// Seconds spent.
    pub seconds: f64,
    /// The best held-out loss, if there was an evaluation.
    pub best: Option<f64>,
    /// Why it stopped.
    pub stopped: StopReason,
}

/// Trains in a folder: `log.jsonl`, `checkpoint.safetensors` to resume from, and
/// `best.safetensors`, the weights with the lowest held-out loss.
///
/// Resuming is exact: the order of samples, the random keys and the optimizer go on as if nothing
/// had happened, and the log has no gap and no double line. A run that was over stays so: run again
/// with the same options it takes no step.
///
/// If the step has a [group](super::StepOptions::group), every process runs the same trainer on
/// its part of each batch. They share the folder, into which the first of them writes, and agree
/// on the held-out loss and on when to stop.
#[derive(Debug)]
pub struct Trainer {
    folder: PathBuf,
    options: TrainerOptions,
}

impl Trainer {
    /// A trainer that works in `folder`.
    pub fn new(folder: impl AsRef<Path>, options: TrainerOptions) -> Self {
        Self {
            folder: folder.as_ref().to_owned(),
            options,
        }
    }

    /// The log's path.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log.jsonl")
    }

    /// The path of the weights with the lowest held-out loss.
    #[must_use]
    pub fn best_path(&self) -> PathBuf {
        self.folder.join("best.safetensors")
    }

    /// The path of the checkpoint.
    #[must_use]
    pub fn checkpoint_path(&self) -> PathBuf {
        self.folder.join("checkpoint.safetensors")
    }

    /// Trains; `evaluate` gives the loss on held-out data, the lower the better.
    ///
    /// # Errors
    /// What the step, the data or `evaluate` report; [`Error::InvalidArgument`] if the loss is no
    /// finite number any more, or the checkpoint is of a run with other samples, batches or seeds;
    /// [`Error::Weight`] if it is of another model or optimizer; [`Error::File`] if the folder
    /// cannot be written. The checkpoint before it stays.
    pub fn run<M: Module + 'static, O: Optimize + 'static>(
        &self,
        step: &mut TrainStep<M, O>,
        dataset: impl Dataset,
        loader: LoaderOptions,
        mut evaluate: impl FnMut(&M) -> Result<f64>,
    ) -> Result<Report> {
        let checkpoint_path = self.checkpoint_path();
        let batches = self.options.accumulate.max(1);
        let settings = Settings {
            samples: dataset.len(),
            batch_size: loader.batch_size,
            shuffle: loader.shuffle,
            bucket: loader.bucket,
            drop_last: loader.drop_last,
            accumulate: batches,
            seed: step.seed(),
        };
        let mut progress = if self.options.resume && checkpoint_path.exists() {
            checkpoint::load(&checkpoint_path, step, &settings)?
        } else {
            Progress {
                settings,
                ..Progress::default()
            }
        };
        let group = step.group().cloned();
        let group = group.as_ref();
        let (rank, size) = group.map_or((0, 1), |group| (group.rank(), group.size()));
        let writes = rank == 0;
        let at = i64::try_from(progress.step).unwrap_or(i64::MAX);
        if largest(at, group)? != at || largest(-at, group)? != -at {
            let message = "the processes found different checkpoints: they must share a folder";
            return Err(Error::invalid("Trainer", message));
        }
        let loader = match (usize::try_from(rank), usize::try_from(size)) {
            (Ok(rank), Ok(size)) if size > 1 => loader.part(rank, size),
            _ => loader,
        };
        let mut log = writes
            .then(|| Log::resume(self.log_path(), progress.step))
            .transpose()?;
        let mut loader = Loader::new(dataset, loader, progress.position)?;
        let shown = self.options.progress && writes;
        let bar = Bar::new(shown, self.options.steps, progress.step);
        let (start, before) = (Instant::now(), progress.seconds);
        let mut since = (Instant::now(), progress.units);
        let mut pending: Vec<Array> = Vec::new();
        let is_due = |step: u64, every: u64| every > 0 && step.is_multiple_of(every);
        let out_of_time = || match self.options.time_limit {
            Some(limit) => {
                let over = before + start.elapsed().as_secs_f64() >= limit.as_secs_f64();
                // Clocks differ: all stop with the first.
                Ok(largest(i64::from(over), group)? > 0)
            }
            None => Ok::<bool, Error>(false),
        };
        let mut is_late = out_of_time()?;
        let stopped = loop {
            // Asked before the first step as well, so that a run that was over stays so.
            if let Some(reason) = self.over(&progress, is_late) {
                break reason;
            }
            let mut parts = Vec::with_capacity(batches);
            for _ in 0..batches {
                let batch = loader.next_batch()?;
                // The parts of a batch have as many samples, and count for as many units.
                progress.units += batch.units.saturating_mul(size.unsigned_abs().into());
                progress.position = batch.next;
                parts.push(batch.arrays);
            }
            pending.push(match parts.as_slice() {
                [whole] => step.step(whole)?,
                parts => step.accumulate(parts)?,
            });
            progress.step += 1;
            bar.advance(progress.step);

            let last = progress.step == self.options.steps;
            let log_due = last || is_due(progress.step, self.options.log_every);
            let evaluation_due = last || is_due(progress.step, self.options.evaluate_every);
            is_late = out_of_time()?;
            let checkpoint_due =
                last || is_late || is_due(progress.step, self.options.checkpoint_every);
            if log_due || evaluation_due || checkpoint_due {
                read(&mut pending, &mut progress.pending)?;
            }
            progress.seconds = before + start.elapsed().as_secs_f64();
            let mut record = Record {
                step: progress.step,
                units: progress.units,
                seconds: progress.seconds,
                peak_memory: memory::peak_memory()?.try_into().unwrap_or(u64::MAX),
                ..Record::default()
            };
            if log_due {
                record.loss = mean(&progress.pending);
                progress.pending.clear();
                let seconds = since.0.elapsed().as_secs_f64();
                record.units_per_second =
                    Some(count(progress.units.saturating_sub(since.1)) / seconds.max(1e-9));
            }
            if evaluation_due {
                let own = evaluate(&step.model())?;
                // In one precision, so that all draw the same conclusions from it.
                let loss = match group {
                    Some(_) => {
                        let own = Array::scalar_dtype(own, mlx_core::Dtype::Float32)?;
                        f64::from(mean_of_all(&own, group)?.item::<f32>()?)
                    }
                    None => own,
                };
                record.held_out = Some(loss);
                if progress.best.is_none_or(|best| loss < best) {
                    progress.best = Some(loss);
                    progress.stale = 0;
                    if writes {
                        checkpoint::replace(&self.best_path(), |beside| {
                            save_weights(&*step.model(), beside, &[].into())
                        })?;
                    }
                } else {
                    progress.stale += 1;
                }
            }
            if log_due || evaluation_due {
                if let Some(log) = &mut log {
                    log.write(&record)?;
                }
                bar.show(&record, progress.best);
                since = (Instant::now(), progress.units);
            }
            if checkpoint_due || self.is_stale(&progress) {
                progress.seconds = before + start.elapsed().as_secs_f64();
                if writes {
                    checkpoint::save(&checkpoint_path, step, &progress)?;
                }
            }
        };
        bar.finish();
        // Nobody goes on to read the files before they are written.
        largest(0, group)?;
        Ok(Report {
            steps: progress.step,
            units: progress.units,
            seconds: progress.seconds,
            best: progress.best,
            stopped,
        })
    }

    /// Why there is no further step to take, if so.
    fn over(&self, progress: &Progress, is_late: bool) -> Option<StopReason> {
        if self.is_stale(progress) {
            Some(StopReason::Stale)
        } else if progress.step >= self.options.steps {
            Some(StopReason::Done)
        } else {
            is_late.then_some(StopReason::Time)
        }
    }

    fn is_stale(&self, progress: &Progress) -> bool {
        let patience = self.options.patience;
        patience.is_some_and(|patience| progress.stale >= patience.max(1))
    }
}

/// Reads the losses that were computed, and refuses numbers that no training comes back from.
fn read(lazy: &mut Vec<Array>, read: &mut Vec<f32>) -> Result<()> {
    for loss in lazy.drain(..) {
        let loss = loss.astype(mlx_core::Dtype::Float32)?.item::<f32>()?;
        if !loss.is_finite() {
            return Err(Error::invalid("Trainer", format!("the loss became {loss}")));
        }
        read.push(loss);
    }
    Ok(())
}

fn mean(losses: &[f32]) -> Option<f64> {
    let sum: f64 = losses.iter().map(|loss| f64::from(*loss)).sum();
    let count = u32::try_from(losses.len())
        .ok()
        .filter(|count| *count > 0)?;
    Some(sum / f64::from(count))
}

fn count(units: u64) -> f64 {
    u32::try_from(units).map_or(f64::from(u32::MAX), f64::from)
}
