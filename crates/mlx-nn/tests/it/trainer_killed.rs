//! A worker that is killed at random times ends with the weights of one that never was.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mlx_core::{Array, io::load_safetensors, ops::random};
use mlx_nn::{
    Activation, BatchNorm, Dropout, Linear, Mode, Module, Result,
    loss::{Reduction, mse_loss},
    optimizer::{AdamW, MultiOptimizer, Optimizer, Schedule, Sgd},
    train::{Dataset, LoaderOptions, Log, StepOptions, TrainStep, Trainer, TrainerOptions},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{golden::TestResult, trainer::curve};

const FOLDER: &str = "MLX_NN_TEST_TRAINS_IN";
const SEED: &str = "MLX_NN_TEST_KILL_SEED";
const NAME: &str = "trainer_killed::a_worker_killed_at_random_ends_where_an_undisturbed_one_does";
const KILLS: u32 = 6;
const STEPS: u64 = 400;

struct Waves;

impl Dataset for Waves {
    fn len(&self) -> usize {
        50
    }

    fn length(&self, sample: usize) -> usize {
        sample % 7
    }

    fn batch(&self, samples: &[usize], epoch: u64) -> Result<(Vec<Array>, u64)> {
        let wave = |&n: &usize| (n as f32 + epoch as f32).sin();
        let numbers: Vec<f32> = samples.iter().map(wave).collect();
        let count = i32::try_from(samples.len()).unwrap_or(0);
        let x = Array::from_slice(&numbers, &[count, 1])?;
        Ok((vec![x.clone(), (x * 2.0)?], u64::from(count.unsigned_abs())))
    }
}

#[derive(Debug, Module)]
struct Net {
    hidden: Linear,
    norm: BatchNorm,
    output: Linear,
    #[module(skip)]
    dropout: Dropout,
}

/// All that has a state: a buffer, dropout, two rules, a schedule, a compiled step that runs ahead.
fn work(folder: &Path) -> Result<()> {
    random::seed(11)?;
    let net = Net {
        hidden: Linear::new(1, 16, true)?,
        norm: BatchNorm::new(16)?,
        output: Linear::new(16, 1, true)?,
        dropout: Dropout::new(0.1)?,
    };
    let momentum = Sgd {
        momentum: 0.9,
        ..Sgd::default()
    };
    let decaying = Optimizer::new(AdamW::default(), Schedule::cosine_decay(0.01, 400, 0.0)?)?;
    let optimizer = MultiOptimizer::new(decaying)
        .with(Optimizer::new(momentum, 1e-3)?, |key, _| {
            key.ends_with("bias")
        });
    let options = StepOptions::default()
        .seed(1)
        .clip_norm(1.0)
        .pipelined(true);
    let mut step = TrainStep::new(net, optimizer, options, |net, xs, key| {
        let x = net.norm.forward_train(&net.hidden.forward(&xs[0])?)?;
        let x = Activation::Tanh.forward(&x)?;
        let x = net.dropout.forward(&x, Mode::Train(key))?;
        mse_loss(&net.output.forward(&x)?, &xs[1], Reduction::Mean)
    })?;
    let test = Array::from_slice::<f32>(&[-0.5, 0.25, 0.5], &[3, 1])?;
    let loader = LoaderOptions::new(8).shuffle(Some(4)).bucket(2);
    let options = TrainerOptions::new(STEPS).every(3, 20, 7);
    Trainer::new(folder, options).run(&mut step, Waves, loader, |net| {
        let x = net.norm.forward(&net.hidden.forward(&test)?)?;
        let y = net.output.forward(&Activation::Tanh.forward(&x)?)?;
        let loss = mse_loss(&y, &(&test * 2.0)?, Reduction::Mean)?;
        Ok(f64::from(loss.item::<f32>()?))
    })?;
    Ok(())
}

fn spawn(folder: &Path) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(["--exact", NAME])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Lets workers live until a random step and a random moment after it, at most `KILLS` of them, and
/// then one until it is done; returns how many were killed.
fn live(folder: &Path, random: &mut ChaCha8Rng) -> std::io::Result<u32> {
    let log = folder.join("log.jsonl");
    let reached = || {
        let records = Log::read(&log).ok()?;
        records.last().map(|record| record.step)
    };
    let mut kills = 0;
    loop {
        let last = reached().unwrap_or(0) + random.random_range(1..STEPS / 4);
        let moment = Duration::from_micros(random.random_range(0..5000));
        let mut child = spawn(folder)?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if kills < KILLS && reached().unwrap_or(0) >= last {
                std::thread::sleep(moment);
                child.kill()?;
                // It may have been done a moment before.
                break Some(child.wait()?).filter(ExitStatus::success);
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        match status {
            Some(status) if status.success() => return Ok(kills),
            Some(status) => panic!("the worker failed: {status}"),
            None => kills += 1,
        }
    }
}

/// The arrays of a file as bits.
fn bits(path: &Path) -> mlx_core::Result<BTreeMap<String, Vec<u64>>> {
    let (arrays, _) = load_safetensors(path)?;
    let read = |(key, array): (String, Array)| {
        let bits = match array.dtype() {
            mlx_core::Dtype::Float32 => {
                let numbers = array.to_vec::<f32>()?;
                numbers.iter().map(|n| n.to_bits().into()).collect()
            }
            mlx_core::Dtype::Uint64 => array.to_vec::<u64>()?,
            _ => array.astype(mlx_core::Dtype::Uint64)?.to_vec::<u64>()?,
        };
        Ok((key, bits))
    };
    arrays.into_iter().map(read).collect()
}

#[test]
fn a_worker_killed_at_random_ends_where_an_undisturbed_one_does() -> TestResult {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return Ok(work(folder.as_ref())?);
    }
    let seed = match std::env::var(SEED) {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
    };
    eprintln!("{SEED}={seed} gives the same times again");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let whole = tempfile::tempdir()?;
    assert!(spawn(whole.path())?.wait()?.success(), "the worker failed");
    // A worker may be done before anybody sees how far it is.
    for _ in 0..5 {
        let killed = tempfile::tempdir()?;
        let kills = live(killed.path(), &mut random)?;
        let case = format!("seed {seed}, killed {kills} times");
        eprintln!("{case}");
        assert_eq!(curve(killed.path())?, curve(whole.path())?, "{case}");
        for file in ["checkpoint.safetensors", "best.safetensors"] {
            let expected = bits(&whole.path().join(file))?;
            assert!(expected.len() >= 8, "{file}: {:?}", expected.keys());
            assert_eq!(bits(&killed.path().join(file))?, expected, "{case}: {file}");
        }
        if kills > 0 {
            return Ok(());
        }
    }
    Err("every worker was done before it was killed".into())
}
