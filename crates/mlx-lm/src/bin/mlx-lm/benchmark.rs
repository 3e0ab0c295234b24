//! `mlx-lm benchmark`: how fast prompts are read and tokens are written.

mod drafted;

use std::time::{Duration, Instant};

use clap::Args;
use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::reshape;
use mlx_core::{Array, async_eval, eval, memory};
use mlx_lm::cache::CacheOptions;
use mlx_lm::cli::{Failure, Progress, Unit, interrupt_flag, write_out};
use mlx_lm::generate::Speculation;
use mlx_lm::{CancelFlag, Input, LanguageModel, LoadedModel};
use serde_json::{Value, json};

use super::caching::CacheArguments;
use super::drafting::DraftArguments;
use super::model::RunArguments;

/// Arguments of `mlx-lm benchmark`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  mlx-lm benchmark
  mlx-lm benchmark --model models/qwen3-0.6b -p 2048 -g 128 -n 3
  mlx-lm benchmark -p 512 2048 -g 64 --batch-size 1 4 16 --json
  mlx-lm benchmark -p 4096 --kv-bits 8 --quantized-kv-start 0
  mlx-lm benchmark --model models/qwen3.5-4b --mtp

Prompts are random tokens, tokens are chosen greedily, and no token ends an answer. One run
before the counted ones warms up. Rates are medians; tokens of all sequences of a batch count.
With speculative decoding, the part of the tokens that were proposed is told; it depends on the
text, and after random tokens it is lower than after real ones.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: RunArguments,
    /// Tokens of each prompt; several lengths are measured one after the other
    #[arg(short, long, value_name = "N", num_args = 1.., default_values_t = [512])]
    prompt_tokens: Vec<usize>,
    /// Tokens to generate
    #[arg(short, long, default_value_t = 128, value_name = "N")]
    generation_tokens: usize,
    /// Sequences at a time; several sizes are measured one after the other
    #[arg(short, long, value_name = "N", num_args = 1.., default_values_t = [1])]
    batch_size: Vec<usize>,
    /// Counted runs
    #[arg(short, long, default_value_t = 5, value_name = "N")]
    num_trials: usize,
    #[command(flatten)]
    caching: CacheArguments,
    #[command(flatten)]
    drafting: DraftArguments,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Arguments {
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }
}

/// One prompt length with one batch size.
struct Case {
    prompt: usize,
    batch: usize,
    generate: usize,
    step: usize,
}

struct Measured {
    case: Case,
    prompt_tps: f64,
    generation_tps: f64,
    peak: usize,
    /// The part of the generated tokens that a drafter proposed, if there is one.
    drafted: Option<f64>,
}

/// What one run took.
struct Run {
    /// Until the first token.
    prompt: Duration,
    /// For further ones.
    generation: Duration,
    /// How many those were.
    generated: usize,
    drafted: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let zero = [
        arguments.num_trials,
        arguments.generation_tokens,
        arguments.caching.step(),
    ];
    let mut counts = zero
        .iter()
        .chain(&arguments.prompt_tokens)
        .chain(&arguments.batch_size);
    if counts.any(|&count| count == 0) {
        return Err(Failure::usage("a count is 0", "give numbers of 1 or more"));
    }
    let cancel = interrupt_flag();
    let options = arguments.caching.options();
    options.validate()?;
    let largest = |counts: &[usize]| counts.iter().copied().max().unwrap_or(0);
    let rows = largest(&arguments.batch_size);
    let tokens = largest(&arguments.prompt_tokens) + arguments.generation_tokens;
    let budget = arguments.caching.budget(tokens.saturating_mul(rows));
    let named = arguments.model.own_heads(arguments.drafting.own_heads());
    let model = named.load(budget, arguments.quiet, &cancel)?;
    let draft = arguments.drafting.load(arguments.quiet, &cancel)?;
    let speculation = arguments.drafting.speculation(&model, draft.as_ref())?;
    let mut results = Vec::new();
    for &prompt in &arguments.prompt_tokens {
        for &batch in &arguments.batch_size {
            let case = Case {
                prompt,
                batch,
                generate: arguments.generation_tokens,
                step: arguments.caching.step(),
            };
            let speculation = speculation.as_ref();
            results.push(measure(case, &model, speculation, arguments, &cancel)?);
        }
    }
    if arguments.json {
        let results: Vec<Value> = results.iter().map(record).collect();
        let record = json!({
            "model": model.path().display().to_string(),
            "trials": arguments.num_trials,
            "results": results,
        });
        return write_out(&format!("{record}\n"));
    }
    let mut text = format!(
        "{:>8} {:>8} {:>6} {:>14} {:>14} {:>10}{}\n",
        "prompt",
        "generate",
        "batch",
        "prompt tok/s",
        "gen tok/s",
        "peak MB",
        if speculation.is_some() {
            "   drafted"
        } else {
            ""
        }
    );
    for result in &results {
        let drafted = result.drafted.map(|part| format!("{:>9.1}%", 100.0 * part));
        text.push_str(&format!(
            "{:>8} {:>8} {:>6} {:>14.1} {:>14.1} {:>10}{}\n",
            result.case.prompt,
            result.case.generate,
            result.case.batch,
            result.prompt_tps,
            result.generation_tps,
            result.peak / 1_000_000,
            drafted.unwrap_or_default()
        ));
    }
    write_out(&text)
}

fn record(result: &Measured) -> Value {
    json!({
        "prompt_tokens": result.case.prompt,
        "generation_tokens": result.case.generate,
        "batch_size": result.case.batch,
        "prompt_tps": result.prompt_tps,
        "generation_tps": result.generation_tps,
        "peak_memory_bytes": result.peak,
        "drafted_part": result.drafted,
    })
}

fn measure(
    case: Case,
    loaded: &LoadedModel,
    speculation: Option<&Speculation<'_>>,
    arguments: &Arguments,
    cancel: &CancelFlag,
) -> Result<Measured, Failure> {
    let model = loaded.model();
    let limit = match arguments.caching.is_limited() {
        true => i32::MAX,
        false => model.max_position_embeddings().unwrap_or(i32::MAX),
    };
    let needed = case.prompt + case.generate;
    if usize::try_from(limit).is_ok_and(|limit| needed > limit) {
        return Err(Failure::usage(
            format!("prompt and answer have {needed} tokens but the model's context holds {limit}"),
            "ask for fewer tokens",
        ));
    }
    let what = format!("{} tokens, batch {}", case.prompt, case.batch);
    let mut progress = Progress::new(what, Unit::Items, arguments.quiet);
    memory::reset_peak_memory()?;
    let (mut prompts, mut generations) = (Vec::new(), Vec::new());
    let mut drafted = 0;
    let size = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    for trial in 0..=arguments.num_trials {
        progress.set(trial, arguments.num_trials + 1);
        let options = arguments.caching.options();
        let run = match speculation {
            Some(speculation) => drafted::once(&case, model, &options, speculation, cancel)?,
            None => once(&case, model, &options, cancel)?,
        };
        if trial == 0 {
            continue;
        }
        let rate = |count: usize, time: Duration| size(count) / time.as_secs_f64();
        prompts.push(rate(case.prompt * case.batch, run.prompt));
        generations.push(rate(run.generated, run.generation));
        drafted += run.drafted;
    }
    let generated = case.generate * case.batch * arguments.num_trials;
    Ok(Measured {
        case,
        prompt_tps: median(&mut prompts),
        generation_tps: median(&mut generations),
        peak: memory::peak_memory().unwrap_or(0),
        drafted: speculation.map(|_| size(drafted) / size(generated)),
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (1, Some(&value)) => value,
        (_, Some(&value)) => {
            let below = values.get(middle.wrapping_sub(1)).copied().unwrap_or(value);
            (below + value) / 2.0
        }
        _ => 0.0,
    }
}

/// Random tokens that are the same in every run.
struct Chance(u32);

impl Chance {
    fn tokens(&mut self, count: usize, vocab: i32) -> Vec<u32> {
        let mut next = || {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 8) % vocab.max(1).unsigned_abs()
        };
        (0..count).map(|_| next()).collect()
    }
}

/// Times until the first token, and for all further ones.
fn once(
    case: &Case,
    model: &dyn LanguageModel,
    options: &CacheOptions,
    cancel: &CancelFlag,
) -> Result<Run, Failure> {
    let size = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (rows, vocab) = (size(case.batch), model.vocab_size());
    let mut cache = model.make_cache(options);
    let mut chance = Chance(1);
    let mut tokens = |count: usize| {
        let ids = chance.tokens(count * case.batch, vocab);
        Array::from_slice::<u32>(&ids, &[rows, size(count)])
    };
    let started = Instant::now();
    let mut left = case.prompt;
    let mut last = None;
    while left > 0 {
        interrupted(cancel)?;
        let count = left.min(case.step);
        let chunk = tokens(count)?;
        let hidden = model.hidden(Input::tokens(&chunk), &mut cache)?;
        left -= count;
        match left {
            0 => last = Some((hidden, count)),
            _ => eval(&[&hidden])?,
        }
    }
    let Some((hidden, count)) = last else {
        return Err(Failure::interrupted());
    };
    let end = Array::from_slice::<i32>(&[size(count) - 1], &[1])?;
    let mut next = choose(model, &hidden.take(&end, 1)?)?;
    eval(&[&next])?;
    let prompt = started.elapsed();
    let started = Instant::now();
    for _ in 0..case.generate {
        interrupted(cancel)?;
        let hidden = model.hidden(Input::tokens(&next), &mut cache)?;
        let following = choose(model, &hidden)?;
        async_eval(&[&following])?;
        // What a program that shows its tokens does.
        eval(&[&next])?;
        next = following;
    }
    eval(&[&next])?;
    Ok(Run {
        prompt,
        generation: started.elapsed(),
        generated: case.generate * case.batch,
        drafted: 0,
    })
}

fn choose(model: &dyn LanguageModel, hidden: &Array) -> Result<Array, Failure> {
    let logits = model.logits(hidden)?;
    Ok(reshape(&argmax_axis(&logits, -1, false)?, &[-1, 1])?)
}

fn interrupted(cancel: &CancelFlag) -> Result<(), Failure> {
    match cancel.is_cancelled() {
        true => Err(Failure::interrupted()),
        false => Ok(()),
    }
}
