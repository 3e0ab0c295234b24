//! The projection that some models put after pooling.

use mlx_core::Array;
use mlx_nn::{Activation, Linear, LoadOptions, Module, load_weights};
use serde::Deserialize;

use crate::folder::Folder;
use crate::{Error, Result};

const CONFIG: &str = "config.json";

/// `activation(x Wᵀ + b)`, to which the input may be added: `[B, in] → [B, out]`.
#[derive(Debug, Module)]
pub(crate) struct Dense {
    linear: Linear,
    residual: Option<Linear>,
    activation_function: Activation,
    use_residual: bool,
    out_features: i32,
}

#[derive(Debug, Deserialize)]
struct Config {
    in_features: i32,
    out_features: i32,
    #[serde(default = "present")]
    bias: bool,
    /// A Python class, for example `torch.nn.modules.activation.Tanh`.
    activation_function: Option<String>,
    module_input_name: Option<String>,
    module_output_name: Option<String>,
    #[serde(default)]
    use_residual: bool,
}

const fn present() -> bool {
    true
}

impl Dense {
    /// Reads the module for vectors of `dimension` features.
    pub(crate) fn from_folder(folder: &Folder, dimension: i32) -> Result<Self> {
        let config: Config = folder.required(CONFIG)?;
        let refuse = |message| Error::config(folder.name(CONFIG), message);
        if config.in_features != dimension {
            return Err(refuse(format!(
                "field `in_features`: {}, but the module before it gives {dimension}",
                config.in_features
            )));
        }
        for name in [&config.module_input_name, &config.module_output_name] {
            if let Some(name) = name
                && name != "sentence_embedding"
            {
                return Err(refuse(format!(
                    "a projection of `{name}` is not supported, only of `sentence_embedding`"
                )));
            }
        }
        let activation_function =
            activation(config.activation_function.as_deref()).map_err(refuse)?;
        let projects = config.use_residual && config.in_features != config.out_features;
        let linear = |bias| Linear::placeholder(config.in_features, config.out_features, bias);
        let mut dense = Self {
            linear: linear(config.bias)?,
            residual: projects.then(|| linear(false)).transpose()?,
            activation_function,
            use_residual: config.use_residual,
            out_features: config.out_features,
        };
        let (weights, file) = folder.weights()?;
        load_weights(&mut dense, weights, &LoadOptions::default())
            .map_err(|source| Error::Weights { file, source })?;
        Ok(dense)
    }

    pub(crate) fn out_features(&self) -> i32 {
        self.out_features
    }

    pub(crate) fn forward(&self, x: &Array) -> Result<Array> {
        let projected = self.activation_function.forward(&self.linear.forward(x)?)?;
        Ok(match (&self.residual, self.use_residual) {
            (Some(residual), _) => (projected + residual.forward(x)?)?,
            (None, true) => (projected + x)?,
            (None, false) => projected,
        })
    }
}

/// The activation behind the name of a PyTorch class; Tanh is the default upstream.
fn activation(class: Option<&str>) -> Result<Activation, String> {
    let Some(class) = class else {
        return Ok(Activation::Tanh);
    };
    let name = class.rsplit('.').next().unwrap_or(class);
    match name.to_ascii_lowercase().parse() {
        // GLU halves its input, which no projection of a whole vector wants.
        Ok(Activation::Glu { .. }) | Err(_) => Err(format!(
            "field `activation_function`: `{class}` is not supported"
        )),
        Ok(activation) => Ok(activation),
    }
}
