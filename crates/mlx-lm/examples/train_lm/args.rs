//! What can be chosen on the command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use mlx_core::Dtype;

/// Trains a small Llama from scratch on texts.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// Folder with train.jsonl and valid.jsonl.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Folder for tokenizer, log, checkpoint, best weights and loss curve.
    #[arg(long, default_value = "train_lm")]
    pub(crate) out: PathBuf,
    /// Score this model on the held-out data instead of training.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) score: Option<PathBuf>,
    /// Write a model folder that `mlx-lm generate --model` loads.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) export: Option<PathBuf>,
    /// The dtype of the exported weights.
    #[arg(long, value_enum, default_value = "bfloat16")]
    pub(crate) export_dtype: Precision,
    /// A tokenizer.json to use; without it a BPE is trained on the training data.
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens of a BPE that is trained.
    #[arg(long, default_value_t = 4096)]
    pub(crate) vocab: usize,

    /// Layers of the model.
    #[arg(long, default_value_t = 6)]
    pub(crate) layers: i32,
    /// Width of the model.
    #[arg(long, default_value_t = 256)]
    pub(crate) hidden: i32,
    /// Width of the feed-forward block.
    #[arg(long, default_value_t = 704)]
    pub(crate) intermediate: i32,
    /// Attention heads.
    #[arg(long, default_value_t = 8)]
    pub(crate) heads: i32,
    /// Key and value heads.
    #[arg(long, default_value_t = 4)]
    pub(crate) kv_heads: i32,
    /// Tokens of a sample.
    #[arg(long, default_value_t = 256)]
    pub(crate) context: usize,

    /// Samples in a step.
    #[arg(long, default_value_t = 128)]
    pub(crate) batch: usize,
    /// Steps in all; the cosine ends there.
    #[arg(long, default_value_t = 1500)]
    pub(crate) steps: u64,
    /// The highest learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub(crate) lr: f64,
    /// Steps until it is reached.
    #[arg(long, default_value_t = 100)]
    pub(crate) warmup: u32,
    /// The part of it that is left at the end.
    #[arg(long, default_value_t = 0.02)]
    pub(crate) final_rate: f64,
    /// Decoupled weight decay.
    #[arg(long, default_value_t = 0.1)]
    pub(crate) weight_decay: f64,
    /// The largest norm of the gradients.
    #[arg(long, default_value_t = 1.0)]
    pub(crate) clip: f64,
    /// Dropout of embeddings and last hidden states.
    #[arg(long, default_value_t = 0.15)]
    pub(crate) dropout: f32,
    /// Dropout of single weights of the layers' matrices ("Regularization of Neural Networks using
    /// DropConnect", 2013).
    #[arg(long, default_value_t = 0.1)]
    pub(crate) drop_weights: f32,
    /// What the passes compute in; weights and optimizer stay float32.
    #[arg(long, value_enum, default_value = "float32")]
    pub(crate) dtype: Precision,
    /// Where weights, order and dropout come from.
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,

    /// Steps between two lines of the log.
    #[arg(long, default_value_t = 10)]
    pub(crate) log_every: u64,
    /// Steps between two evaluations.
    #[arg(long, default_value_t = 100)]
    pub(crate) eval_every: u64,
    /// Steps between two checkpoints.
    #[arg(long, default_value_t = 100)]
    pub(crate) save_every: u64,
    /// Stop after this many evaluations without a new best.
    #[arg(long)]
    pub(crate) patience: Option<u32>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) time_limit: Option<u64>,
    /// Begin anew, whatever checkpoint there is.
    #[arg(long)]
    pub(crate) no_resume: bool,
    /// Run the steps without compiling them.
    #[arg(long)]
    pub(crate) no_compile: bool,
    /// Use the CPU, whatever else there is.
    #[arg(long)]
    pub(crate) cpu: bool,
}

/// A floating-point dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Precision {
    Float32,
    Float16,
    Bfloat16,
}

impl From<Precision> for Dtype {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::Float32 => Self::Float32,
            Precision::Float16 => Self::Float16,
            Precision::Bfloat16 => Self::Bfloat16,
        }
    }
}
