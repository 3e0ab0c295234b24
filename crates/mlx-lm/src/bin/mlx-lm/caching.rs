//! What is remembered of a text, and in which form.

use clap::Args;
use mlx_lm::GenerateOptions;
use mlx_lm::cache::{CacheOptions, KvQuantization};
use mlx_lm::memory::MemoryBudget;

/// Arguments about the key-value cache.
#[derive(Debug, Args)]
#[command(next_help_heading = "Memory")]
pub(crate) struct CacheArguments {
    /// Limit of positions remembered, so that text may outgrow the model's context
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    max_kv_size: Option<i32>,
    /// Pack keys and values into so many bits: 2, 3, 4, 5, 6 or 8
    #[arg(long, value_name = "BITS", allow_negative_numbers = true)]
    kv_bits: Option<i32>,
    /// Numbers that share a scale when keys and values are packed: 32, 64 or 128
    #[arg(long, value_name = "N", requires = "kv_bits", default_value_t = 64)]
    kv_group_size: i32,
    /// Pack only once the text is longer than this
    #[arg(long, value_name = "N", requires = "kv_bits", default_value_t = 5000, value_parser = clap::value_parser!(i32).range(0..))]
    quantized_kv_start: i32,
    /// Prompt tokens processed at a time
    #[arg(long, default_value_t = 2048, value_name = "N")]
    prefill_step_size: usize,
}

impl CacheArguments {
    pub(crate) fn quantization(&self) -> Option<KvQuantization> {
        let format = KvQuantization::new(self.kv_bits?);
        Some(
            format
                .group_size(self.kv_group_size)
                .start(self.quantized_kv_start),
        )
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.max_kv_size.is_some()
    }

    pub(crate) fn step(&self) -> usize {
        self.prefill_step_size
    }

    pub(crate) fn apply(&self, options: GenerateOptions) -> GenerateOptions {
        options
            .max_kv_size(self.max_kv_size)
            .kv_quantization(self.quantization())
            .prefill_step_size(self.prefill_step_size)
    }

    pub(crate) fn options(&self) -> CacheOptions {
        self.apply(GenerateOptions::default()).cache()
    }

    /// What a model needs that is to remember so many tokens.
    pub(crate) fn budget(&self, tokens: usize) -> MemoryBudget {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        MemoryBudget::default()
            .cache(self.options())
            .tokens(number(tokens))
            .chunk(number(self.prefill_step_size))
    }
}
