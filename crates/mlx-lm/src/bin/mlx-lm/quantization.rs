//! How weights are to be packed.

use clap::{Args, ValueEnum};
use mlx_lm::cli::Failure;
use mlx_lm::load::{MixedRecipe, QuantizeOptions};
use mlx_nn::{LayerQuantization, QuantMode};

/// Arguments about quantisation.
#[derive(Debug, Args)]
pub(crate) struct QuantizationArguments {
    /// Bits per weight [default: that of the mode]
    #[arg(long, value_name = "N")]
    q_bits: Option<i32>,
    /// Weights that share a scale [default: that of the mode]
    #[arg(long, value_name = "N")]
    q_group_size: Option<i32>,
    /// How codes are read
    #[arg(long, value_enum, default_value_t = Mode::Affine)]
    q_mode: Mode,
    /// More bits for the weights that need them most: mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6
    #[arg(long, value_name = "RECIPE")]
    quant_predicate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    Affine,
    Mxfp4,
    Mxfp8,
    Nvfp4,
}

impl QuantizationArguments {
    pub(crate) fn layer(&self) -> LayerQuantization {
        let mut layer = LayerQuantization::new(match self.q_mode {
            Mode::Affine => QuantMode::Affine,
            Mode::Mxfp4 => QuantMode::Mxfp4,
            Mode::Mxfp8 => QuantMode::Mxfp8,
            Mode::Nvfp4 => QuantMode::Nvfp4,
        });
        layer.bits = self.q_bits.unwrap_or(layer.bits);
        layer.group_size = self.q_group_size.unwrap_or(layer.group_size);
        layer
    }

    pub(crate) fn options(&self) -> Result<QuantizeOptions, Failure> {
        let mut options = QuantizeOptions::default();
        options.layer = self.layer();
        if let Some(name) = &self.quant_predicate {
            let recipe = MixedRecipe::from_name(name).ok_or_else(|| {
                Failure::usage(
                    format!("--quant-predicate: there is no recipe `{name}`"),
                    "known are mixed_2_6, mixed_3_4, mixed_3_6 and mixed_4_6",
                )
            })?;
            options = options.recipe(Some(recipe));
        }
        Ok(options)
    }
}
