//! `mlx-lm convert`: a model in another dtype, quantised or dense.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use mlx_core::Dtype;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, note, write_out};
use mlx_lm::load::{QuantizeOptions, SaveOptions, allocate_bits, quantize_model, sensitivities};
use mlx_lm::memory::MemoryBudget;
use mlx_lm::{CancelFlag, LoadedModel};
use serde_json::json;

use super::lines::read_text;
use super::manage::bytes;
use super::model::{MemoryArguments, ModelArguments};
use super::quantization::QuantizationArguments;

/// Arguments of `mlx-lm convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm convert --model org/name -q --mlx-path name-4bit
  mlx-lm convert --model models/qwen3-0.6b -q --q-bits 3 --quant-predicate mixed_3_6
  mlx-lm convert --model models/qwen3-0.6b -q --dynamic --calibration book.txt --target-bpw 5
  mlx-lm convert --model name-4bit --dequantize --dtype bfloat16 --mlx-path name-dense
  mlx-lm convert --model name-8bit --dequantize -q --q-bits 4 --mlx-path name-4bit
  mlx-lm convert --model model-Q4_K_M.gguf --mlx-path model

The folder appears whole or not at all, and can be read by mlx-lm for Python, too.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    memory: MemoryArguments,
    /// The folder to make
    #[arg(long, value_name = "FOLDER", default_value = "mlx_model")]
    mlx_path: PathBuf,
    /// Quantise the weights
    #[arg(short, long)]
    quantize: bool,
    #[command(flatten)]
    quantization: QuantizationArguments,
    /// Measure how sensitive each weight is, and give more bits to those that need them
    #[arg(
        long,
        requires = "quantize",
        requires = "calibration",
        conflicts_with = "quant_predicate"
    )]
    dynamic: bool,
    /// With --dynamic: text to measure on
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// With --dynamic: tokens of it
    #[arg(long, value_name = "N", default_value_t = 512)]
    calibration_tokens: usize,
    /// With --dynamic: bits of sensitive weights
    #[arg(long, value_name = "N", default_value_t = 8)]
    high_bits: i32,
    /// With --dynamic: bits per weight on average, scales included
    #[arg(long, value_name = "X", default_value_t = 5.0)]
    target_bpw: f64,
    /// Make quantised weights dense; with -q, before they are quantised anew
    #[arg(short, long)]
    dequantize: bool,
    /// Store floating-point weights in this dtype
    #[arg(long, value_enum)]
    dtype: Option<Kind>,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Float16,
    Bfloat16,
    Float32,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let folder = &arguments.mlx_path;
    if occupied(folder) {
        return Err(Failure::usage(
            format!("{} exists already", folder.display()),
            "name a new folder with --mlx-path",
        ));
    }
    let options = arguments.quantization.options()?;
    let cancel = interrupt_flag();
    let model = arguments
        .model
        .load_with(arguments.quiet, &cancel, |loader| {
            // Nothing is generated with it.
            let budget = arguments.memory.apply(MemoryBudget::default().tokens(0));
            let mut loader = loader.dequantize(arguments.dequantize).memory(budget);
            if let Some(kind) = arguments.dtype {
                loader = loader.dtype(match kind {
                    Kind::Float16 => Dtype::Float16,
                    Kind::Bfloat16 => Dtype::Bfloat16,
                    Kind::Float32 => Dtype::Float32,
                });
            }
            match arguments.quantize && !arguments.dynamic {
                true => loader.quantize(options.clone()),
                false => loader,
            }
        })?;
    if arguments.quantize && model.kept_quantized() > 0 {
        return Err(Failure::usage(
            format!("{} weights are quantised already", model.kept_quantized()),
            "add --dequantize to quantise them anew, at some loss, or convert the original model",
        ));
    }
    let model = match arguments.dynamic {
        true => dynamic(arguments, model, options, &cancel)?,
        false => model,
    };
    if cancel.is_cancelled() {
        return Err(Failure::interrupted());
    }
    if !arguments.quiet {
        note(&format!("Writing {}\n", folder.display()));
    }
    model.save(folder, &SaveOptions::default())?;
    let size = model.size();
    let stored = u64::try_from(size.bytes).unwrap_or(u64::MAX);
    let number = |count: u64| f64::from(u32::try_from(count >> 10).unwrap_or(u32::MAX));
    let bits = match size.parameters {
        0..1024 => 8.0 * number(stored << 10) / number(size.parameters << 10).max(1.0),
        count => 8.0 * number(stored) / number(count),
    };
    write_out(&match arguments.json {
        true => {
            let record = json!({
                "path": folder.display().to_string(),
                "bytes": size.bytes,
                "parameters": size.parameters,
                "bits_per_weight": bits,
            });
            format!("{record}\n")
        }
        false => format!(
            "{}: {}, {bits:.3} bits per weight\n",
            folder.display(),
            bytes(stored)
        ),
    })
}

/// Quantises by measured sensitivity.
fn dynamic(
    arguments: &Arguments,
    mut model: LoadedModel,
    options: QuantizeOptions,
    cancel: &CancelFlag,
) -> Result<LoadedModel, Failure> {
    let text = read_text(arguments.calibration.as_deref().unwrap_or(Path::new("-")))?;
    let mut tokens = model.tokenizer().encode(&text, true)?;
    let limit = model.model().max_position_embeddings();
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    tokens.truncate(
        arguments
            .calibration_tokens
            .min(limit.unwrap_or(usize::MAX)),
    );
    let low = arguments.quantization.layer();
    let mut high = low;
    high.bits = arguments.high_bits;
    let mut progress = Progress::new("measuring weights", Unit::Items, arguments.quiet);
    let measured = sensitivities(model.model_mut(), &tokens, low, cancel, |done, total| {
        progress.set(done, total);
    })?;
    drop(progress);
    let mut options = options;
    for (path, layer) in allocate_bits(&measured, low, high, arguments.target_bpw) {
        options = options.layer(path, layer);
    }
    quantize_model(model.model_mut(), &options)?;
    Ok(model)
}

fn occupied(folder: &Path) -> bool {
    folder.is_file() || std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}
