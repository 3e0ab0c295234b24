//! Learns to read handwritten digits, with an MLP and with a CNN:
//! `cargo run --release -p mlx-nn --features plot --example digits -- cnn digits.svg`.
//!
//! One image in five is held out; the others stand a pixel off their place in most passes. Ends
//! with an error if less than 98 % of the held-out images are read right. The data are
//! scikit-learn's, as `tests/parity/digits.py` exports them.

use std::{
    io::{Write, stdout},
    path::{Path, PathBuf},
    time::Instant,
};

use mlx_core::{Array, Dtype, io::load_safetensors, ops::random};
use mlx_nn::{
    Conv2d, Dropout, Linear, Mode, Module, Pool2d, Result,
    activation::relu,
    loss::{CrossEntropyOptions, Reduction, cross_entropy},
    optimizer::{Adam, AdamW, Optimizer, Schedule},
    parameter_count,
    train::{
        Dataset, LoaderOptions, Log, StepOptions, TrainStep, Trainer, TrainerOptions, loss_curve,
    },
};

const BATCH: usize = 64;
/// The part of the held-out images that must be read right.
const ENOUGH: f32 = 0.98;
const SIDE: i32 = 8;

#[derive(Debug, Module)]
enum Classifier {
    Mlp {
        first: Linear,
        second: Linear,
        output: Linear,
        #[module(skip)]
        dropout: Dropout,
    },
    Cnn {
        first: Conv2d,
        second: Conv2d,
        hidden: Linear,
        output: Linear,
        #[module(skip)]
        pool: Pool2d,
        #[module(skip)]
        dropout: Dropout,
    },
}

impl Classifier {
    fn mlp() -> Result<Self> {
        Ok(Self::Mlp {
            first: Linear::new(SIDE * SIDE, 256, true)?,
            second: Linear::new(256, 256, true)?,
            output: Linear::new(256, 10, true)?,
            dropout: Dropout::new(0.2)?,
        })
    }

    fn cnn() -> Result<Self> {
        Ok(Self::Cnn {
            first: Conv2d::new(1, 24, [3, 3])?.padding([1, 1])?,
            second: Conv2d::new(24, 48, [3, 3])?.padding([1, 1])?,
            hidden: Linear::new(48 * SIDE * SIDE / 4, 96, true)?,
            output: Linear::new(96, 10, true)?,
            pool: Pool2d::max([2, 2])?,
            dropout: Dropout::new(0.3)?,
        })
    }

    /// How many steps are enough.
    const fn steps(&self) -> u32 {
        match self {
            Self::Mlp { .. } => 4000,
            Self::Cnn { .. } => 900,
        }
    }

    /// Images `[B, 8, 8, 1]` to logits `[B, 10]`.
    fn forward(&self, x: &Array, mode: Mode<'_>) -> Result<Array> {
        match self {
            Self::Mlp {
                first,
                second,
                output,
                dropout,
            } => {
                let x = relu(&first.forward(&x.flatten(1, -1)?)?)?;
                let x = relu(&second.forward(&dropout.forward(&x, mode)?)?)?;
                output.forward(&dropout.forward(&x, mode)?)
            }
            Self::Cnn {
                first,
                second,
                hidden,
                output,
                pool,
                dropout,
            } => {
                let x = relu(&first.forward(x)?)?;
                let x = pool.forward(&relu(&second.forward(&x)?)?)?;
                let x = relu(&hidden.forward(&x.flatten(1, -1)?)?)?;
                output.forward(&dropout.forward(&x, mode)?)
            }
        }
    }
}

/// Images and what they show, in the order of the file.
struct Digits {
    images: Vec<f32>,
    labels: Vec<i32>,
    /// Whether images stand in another place in each pass.
    moved: bool,
}

impl Digits {
    /// Training images, and every fifth as held-out ones.
    fn load(path: &Path) -> Result<(Self, Self)> {
        let (arrays, _) = load_safetensors(path)?;
        let array = |name: &str, dtype| {
            let found = arrays.get(name).ok_or_else(|| {
                mlx_core::Error::Backend(format!("{} has no {name}", path.display()))
            });
            found.and_then(|array| array.astype(dtype))
        };
        let images = (array("images", Dtype::Float32)? / 16.0)?.to_vec::<f32>()?;
        let labels = array("labels", Dtype::Int32)?.to_vec::<i32>()?;
        let (mut training, mut held_out) = (Self::empty(true), Self::empty(false));
        let pixels = (SIDE * SIDE).unsigned_abs() as usize;
        for (index, (image, label)) in images.chunks_exact(pixels).zip(labels).enumerate() {
            let part = if index % 5 == 4 {
                &mut held_out
            } else {
                &mut training
            };
            part.images.extend_from_slice(image);
            part.labels.push(label);
        }
        Ok((training, held_out))
    }

    const fn empty(moved: bool) -> Self {
        Self {
            images: Vec::new(),
            labels: Vec::new(),
            moved,
        }
    }
}

impl Dataset for Digits {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn batch(&self, samples: &[usize], epoch: u64) -> Result<(Vec<Array>, u64)> {
        let pixels = self.images.len() / self.labels.len().max(1);
        let (mut images, mut labels) = (Vec::new(), Vec::<i32>::new());
        for &sample in samples {
            let image = self.images.chunks_exact(pixels).nth(sample);
            let image = image.unwrap_or_default();
            if self.moved {
                // Each of the nine places in turn, its own oftener, every image beginning with another.
                let place = i32::try_from((sample as u64 + epoch) % 12).unwrap_or(0);
                let place = if place < 9 { place } else { 4 };
                images.extend(shifted(image, place % 3 - 1, place / 3 - 1));
            } else {
                images.extend_from_slice(image);
            }
            labels.extend(self.labels.get(sample));
        }
        let count = i32::try_from(labels.len()).unwrap_or(i32::MAX);
        let arrays = vec![
            Array::from_slice(&images, &[count, SIDE, SIDE, 1])?,
            Array::from_slice(&labels, &[count])?,
        ];
        Ok((arrays, u64::try_from(labels.len()).unwrap_or(u64::MAX)))
    }
}

/// An image moved right and down; what comes in from beyond its edges is empty.
fn shifted(image: &[f32], right: i32, down: i32) -> impl Iterator<Item = f32> {
    let rows = (0..SIDE).flat_map(|row| (0..SIDE).map(move |column| (row, column)));
    rows.map(move |(row, column)| {
        let (row, column) = (row - down, column - right);
        let inside = (0..SIDE).contains(&row) && (0..SIDE).contains(&column);
        let at = usize::try_from(row * SIDE + column).ok();
        let pixel = at.filter(|_| inside).and_then(|at| image.get(at));
        pixel.copied().unwrap_or(0.0)
    })
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_else(|| "cnn".to_owned());
    let picture = arguments
        .next()
        .unwrap_or_else(|| format!("digits-{kind}.svg"));
    let data = arguments.next().map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../../tests/fixtures/digits/digits.safetensors")
        },
        PathBuf::from,
    );
    let start = Instant::now();
    random::seed(0)?;
    let model = match kind.as_str() {
        "mlp" => Classifier::mlp()?,
        "cnn" => Classifier::cnn()?,
        other => return Err(format!("`{other}` is neither mlp nor cnn").into()),
    };
    let (parameters, steps) = (parameter_count(&model), model.steps());
    let (training, held_out) = Digits::load(&data)?;
    let all: Vec<usize> = (0..held_out.len()).collect();
    let (test, _) = held_out.batch(&all, 0)?;

    let rule = AdamW {
        adam: Adam {
            bias_correction: true,
            ..Adam::default()
        },
        weight_decay: 0.05,
    };
    let optimizer = Optimizer::new(rule, Schedule::cosine_decay(3e-3, steps, 0.0)?)?;
    let mean = || CrossEntropyOptions::default().reduction(Reduction::Mean);
    let loss = move |model: &mut Classifier, xs: &[Array], key: &Array| {
        cross_entropy(&model.forward(&xs[0], Mode::Train(key))?, &xs[1], mean())
    };
    let mut step = TrainStep::new(model, optimizer, StepOptions::default(), loss)?;
    let scratch = std::env::temp_dir().join(format!("digits-{}", std::process::id()));
    let options = TrainerOptions::new(u64::from(steps))
        .every(10, 50, 0)
        .resume(false);
    let trainer = Trainer::new(&scratch, options);
    trainer.run(&mut step, training, LoaderOptions::new(BATCH), |model| {
        let logits = model.forward(&test[0], Mode::Evaluate)?;
        Ok(f64::from(
            cross_entropy(&logits, &test[1], mean())?.item::<f32>()?,
        ))
    })?;

    let logits = step.model().forward(&test[0], Mode::Evaluate)?;
    let right = logits
        .argmax_axis(-1, false)?
        .astype(Dtype::Int32)?
        .equal(&test[1])?;
    let accuracy = right.astype(Dtype::Float32)?.mean(false)?.item::<f32>()?;
    let title = format!(
        "digits, {kind}: {:.1} % of held-out images",
        100.0 * accuracy
    );
    loss_curve(&Log::read(trainer.log_path())?, &title, &picture)?;
    std::fs::remove_dir_all(&scratch)?;
    writeln!(
        stdout(),
        "{kind}: {parameters} parameters, {:.2} % of {} held-out images after {:.0} s; {picture}",
        100.0 * accuracy,
        all.len(),
        start.elapsed().as_secs_f64()
    )?;
    if accuracy < ENOUGH {
        let (found, enough) = (100.0 * accuracy, 100.0 * ENOUGH);
        return Err(format!("{found:.2} % is less than {enough:.0} %").into());
    }
    Ok(())
}
