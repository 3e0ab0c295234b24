//! How tokens are chosen.

use clap::Args;
use mlx_lm::GenerateOptions;

/// Arguments that shape an answer.
#[derive(Debug, Args)]
pub(crate) struct SamplingArguments {
    /// Randomness; 0 always takes the most likely token
    #[arg(long, visible_alias = "temperature", value_name = "T")]
    temp: Option<f32>,
    /// Keep the most likely tokens up to this probability in all
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Make recent tokens less likely; 1 does nothing
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,
    /// How many recent tokens the penalty looks at
    #[arg(long, value_name = "N")]
    repetition_context_size: Option<usize>,
    /// Repeat the same random choices
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Limit of positions remembered, so that text may outgrow the model's context
    #[arg(long, value_name = "N")]
    max_kv_size: Option<i32>,
    /// Prompt tokens processed at a time
    #[arg(long, default_value_t = 2048, value_name = "N")]
    prefill_step_size: usize,
}

impl SamplingArguments {
    pub(crate) fn options(&self) -> GenerateOptions {
        GenerateOptions::default()
            .temperature(self.temp)
            .top_p(self.top_p)
            .top_k(self.top_k)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .repetition_context(self.repetition_context_size)
            .seed(self.seed)
            .stop(self.stop.clone())
            .max_kv_size(self.max_kv_size)
            .prefill_step_size(self.prefill_step_size)
    }
}
