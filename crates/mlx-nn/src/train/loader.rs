//! Batches in a seeded order, made ahead by a thread.

use std::{
    fmt,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use mlx_core::Array;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Samples that can be put into batches.
pub trait Dataset: Send + Sync + 'static {
    /// The number of samples.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long a sample is, for batches of similar lengths. Only the order counts.
    fn length(&self, _sample: usize) -> usize {
        0
    }

    /// The arrays of a batch, and how many units (tokens, images) it holds. `epoch` counts the
    /// passes over the data from zero, for what changes from one to the next.
    ///
    /// # Errors
    /// Whatever hinders; the loader passes it on.
    fn batch(&self, samples: &[usize], epoch: u64) -> Result<(Vec<Array>, u64)>;
}

/// How a [`Loader`] makes batches.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[must_use]
pub struct LoaderOptions {
    /// Samples in a batch.
    pub batch_size: usize,
    /// Where the order of samples comes from; `None` keeps their own.
    pub shuffle: Option<u64>,
    /// How many batches together are sorted by length, so that those in one batch are alike; zero
    /// for none.
    pub bucket: usize,
    /// How many batches are made ahead.
    pub prefetch: usize,
    /// Whether an incomplete batch at the end of a pass is left out.
    pub drop_last: bool,
    /// Which of how many equal parts of each batch is made: for processes that train together,
    /// each on its part. Needs complete batches; the whole by default.
    pub part: (usize, usize),
}

impl LoaderOptions {
    /// Shuffled by seed 0, two batches ahead, incomplete ones left out.
    pub const fn new(batch_size: usize) -> Self {
        Self {
            batch_size,
            shuffle: Some(0),
            bucket: 0,
            prefetch: 2,
            drop_last: true,
            part: (0, 1),
        }
    }

    /// Sets where the order of samples comes from.
    pub const fn shuffle(mut self, seed: Option<u64>) -> Self {
        self.shuffle = seed;
        self
    }

    /// Sets how many batches together are sorted by length.
    pub const fn bucket(mut self, batches: usize) -> Self {
        self.bucket = batches;
        self
    }

    /// Sets how many batches are made ahead.
    pub const fn prefetch(mut self, batches: usize) -> Self {
        self.prefetch = batches;
        self
    }

    /// Sets whether an incomplete batch at the end of a pass is left out.
    pub const fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Sets which of how many parts of each batch is made.
    pub const fn part(mut self, part: usize, parts: usize) -> Self {
        self.part = (part, parts);
        self
    }
}

/// A place in the endless sequence of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Passes over the data that are over.
    pub epoch: u64,
    /// Batches of this pass that are over.
    pub batch: usize,
}

/// A batch, and where the loader stands after it.
#[derive(Debug)]
pub struct Batch {
    /// What the loss gets.
    pub arrays: Vec<Array>,
    /// How many tokens or samples those are.
    pub units: u64,
    /// Where to go on after this batch.
    pub next: Position,
}

/// The samples of a data set, batch after batch, pass after pass, without end.
///
/// The order is a function of seed and pass alone, so a [`Position`] is all that it takes to go on
/// exactly.
///
/// ```
/// use mlx_core::Array;
/// use mlx_nn::{Result, train::{Dataset, Loader, LoaderOptions, Position}};
///
/// struct Squares;
///
/// impl Dataset for Squares {
///     fn len(&self) -> usize {
///         10
///     }
///
///     fn batch(&self, samples: &[usize], _: u64) -> Result<(Vec<Array>, u64)> {
///         let squares: Vec<f32> = samples.iter().map(|&n| (n * n) as f32).collect();
///         Ok((vec![Array::from_slice(&squares, &[samples.len() as i32])?], samples.len() as u64))
///     }
/// }
///
/// let mut loader = Loader::new(Squares, LoaderOptions::new(4), Position::default())?;
/// let first = loader.next_batch()?;
/// assert_eq!((first.arrays[0].shape(), first.next.batch), (&[4][..], 1));
/// # Ok::<(), mlx_nn::Error>(())
/// ```
pub struct Loader {
    receiver: Option<mpsc::Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

impl Loader {
    /// Starts to make batches from `position` on.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if there is not one batch in the data, or batches do not divide
    /// into the parts asked for; [`Error::File`] if no thread can be started.
    pub fn new(dataset: impl Dataset, options: LoaderOptions, position: Position) -> Result<Self> {
        let samples = dataset.len();
        let batches = if options.drop_last {
            samples.checked_div(options.batch_size)
        } else {
            (options.batch_size > 0).then(|| samples.div_ceil(options.batch_size))
        };
        if batches.unwrap_or(0) == 0 {
            let message = format!("{samples} samples make no batch of {}", options.batch_size);
            return Err(Error::invalid("Loader", message));
        }
        let (part, parts) = options.part;
        let whole = parts == 1 || options.drop_last;
        if part >= parts || !options.batch_size.is_multiple_of(parts) || !whole {
            let message = format!(
                "batches of {} have no part {part} of {parts}, or incomplete ones are kept",
                options.batch_size
            );
            return Err(Error::invalid("Loader", message));
        }
        let (sender, receiver) = mpsc::sync_channel(options.prefetch);
        let dataset: Arc<dyn Dataset> = Arc::new(dataset);
        let thread = std::thread::Builder::new()
            .name("mlx-loader".to_owned())
            .spawn(move || {
                let mut position = position;
                loop {
                    let order = batches_of(dataset.as_ref(), &options, position.epoch);
                    for (index, samples) in order.iter().enumerate().skip(position.batch) {
                        let next = if index + 1 == order.len() {
                            Position {
                                epoch: position.epoch + 1,
                                batch: 0,
                            }
                        } else {
                            Position {
                                epoch: position.epoch,
                                batch: index + 1,
                            }
                        };
                        let made = dataset.batch(samples, position.epoch);
                        let batch = made.map(|(arrays, units)| Batch {
                            arrays,
                            units,
                            next,
                        });
                        // The loader is gone: so is the need for batches.
                        if sender.send(batch).is_err() {
                            return;
                        }
                    }
                    position = Position {
                        epoch: position.epoch + 1,
                        batch: 0,
                    };
                }
            })
            .map_err(|source| Error::file("start a thread for", "the loader", source))?;
        Ok(Self {
            receiver: Some(receiver),
            thread: Some(thread),
        })
    }

    /// Waits for the next batch.
    ///
    /// # Errors
    /// What the data set reports; [`Error::InvalidArgument`] if it panicked.
    pub fn next_batch(&mut self) -> Result<Batch> {
        let received = self
            .receiver
            .as_ref()
            .and_then(|receiver| receiver.recv().ok());
        received.unwrap_or_else(|| Err(Error::invalid("Loader", "the data set panicked")))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // A sender that waits for room fails once its receiver is gone, and the thread ends.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the data set was reported with the batch that it was to make.
            let _ = thread.join();
        }
    }
}

/// The samples of each batch of a pass.
fn batches_of(dataset: &dyn Dataset, options: &LoaderOptions, epoch: u64) -> Vec<Vec<usize>> {
    let mut samples: Vec<usize> = (0..dataset.len()).collect();
    let mut random = options.shuffle.map(|seed| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(epoch);
        random
    });
    if let Some(random) = &mut random {
        samples.shuffle(random);
    }
    if options.drop_last {
        // Before sorting, or it would always be the longest samples of the last bucket that go.
        samples.truncate(samples.len() - samples.len() % options.batch_size.max(1));
    }
    if options.bucket > 0 {
        for bucket in samples.chunks_mut(options.bucket.saturating_mul(options.batch_size)) {
            bucket.sort_by_key(|&sample| dataset.length(sample));
        }
    }
    let mut batches: Vec<Vec<usize>> = samples
        .chunks(options.batch_size)
        .map(<[usize]>::to_vec)
        .collect();
    // Sorted buckets would always bring their short batches first.
    if let (Some(random), true) = (&mut random, options.bucket > 0) {
        batches.shuffle(random);
    }
    let (part, parts) = options.part;
    if parts > 1 {
        let share = options.batch_size / parts;
        for batch in &mut batches {
            *batch = batch
                .iter()
                .skip(part * share)
                .take(share)
                .copied()
                .collect();
        }
    }
    batches
}
