//! Activation functions, and the choice of one by a configuration.

mod functions;

use std::{fmt, str::FromStr};

use mlx_core::Array;
use serde::{Deserialize, Deserializer, de};

pub use functions::{
    celu, elu, gelu, gelu_approx, gelu_fast_approx, glu, hard_shrink, hard_tanh, hardswish,
    leaky_relu, log_sigmoid, log_softmax, mish, prelu, relu, relu2, relu6, selu, sigmoid, silu,
    softmax, softmin, softplus, softshrink, softsign, step, swiglu, tanh,
};

use crate::{Error, Module, Result, UnaryLayer, linear::check_dims, module::parameter_free};

/// An activation without parameters, as a layer and as a configuration value.
///
/// Parses the names that `hidden_act` and its kin take in published configurations.
///
/// ```
/// use mlx_nn::Activation;
///
/// let activation: Activation = "gelu_pytorch_tanh".parse()?;
/// assert_eq!(activation, Activation::GeluApprox);
/// assert_eq!("gelu_9".parse::<Activation>().unwrap_err().to_string(), "unsupported activation `gelu_9`");
/// # Ok::<(), mlx_nn::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    Identity,
    /// [`celu`].
    Celu {
        /// The scale of the negative part.
        alpha: f64,
    },
    /// [`elu`].
    Elu {
        /// The scale of the negative part.
        alpha: f64,
    },
    /// [`gelu`].
    Gelu,
    /// [`gelu_approx`].
    GeluApprox,
    /// [`gelu_fast_approx`].
    GeluFastApprox,
    /// [`glu`].
    Glu {
        /// The axis that is halved.
        axis: i32,
    },
    /// [`hard_shrink`].
    HardShrink {
        /// Half the width of the zero interval.
        lambda: f64,
    },
    /// [`hardswish`].
    Hardswish,
    /// [`hard_tanh`].
    HardTanh {
        /// The lower bound.
        low: f64,
        /// The upper bound.
        high: f64,
    },
    /// [`leaky_relu`].
    LeakyRelu {
        /// The slope below zero.
        negative_slope: f64,
    },
    /// [`log_sigmoid`].
    LogSigmoid,
    /// [`log_softmax`] over an axis.
    LogSoftmax {
        /// The axis.
        axis: i32,
    },
    /// [`mish`].
    Mish,
    /// [`relu`].
    Relu,
    /// [`relu2`].
    Relu2,
    /// [`relu6`].
    Relu6,
    /// [`selu`].
    Selu,
    /// [`sigmoid`].
    Sigmoid,
    /// [`silu`].
    Silu,
    /// [`softmax`] over an axis.
    Softmax {
        /// The axis.
        axis: i32,
    },
    /// [`softmin`] over an axis.
    Softmin {
        /// The axis.
        axis: i32,
    },
    /// [`softplus`].
    Softplus,
    /// [`softshrink`].
    Softshrink {
        /// Half the width of the zero interval.
        lambda: f64,
    },
    /// [`softsign`].
    Softsign,
    /// [`step`].
    Step {
        /// The first value that maps to one.
        threshold: f64,
    },
    /// [`tanh`].
    Tanh,
}

impl Activation {
    /// Applies the function element by element, or over its axis.
    ///
    /// # Errors
    /// [`Error::Core`] if the dtype has no such function or the axis does not exist.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        match *self {
            Self::Identity => Ok(x.clone()),
            Self::Celu { alpha } => celu(x, alpha),
            Self::Elu { alpha } => elu(x, alpha),
            Self::Gelu => gelu(x),
            Self::GeluApprox => gelu_approx(x),
            Self::GeluFastApprox => gelu_fast_approx(x),
            Self::Glu { axis } => glu(x, axis),
            Self::HardShrink { lambda } => hard_shrink(x, lambda),
            Self::Hardswish => hardswish(x),
            Self::HardTanh { low, high } => hard_tanh(x, low, high),
            Self::LeakyRelu { negative_slope } => leaky_relu(x, negative_slope),
            Self::LogSigmoid => log_sigmoid(x),
            Self::LogSoftmax { axis } => log_softmax(x, axis),
            Self::Mish => mish(x),
            Self::Relu => relu(x),
            Self::Relu2 => relu2(x),
            Self::Relu6 => relu6(x),
            Self::Selu => selu(x),
            Self::Sigmoid => sigmoid(x),
            Self::Silu => silu(x),
            Self::Softmax { axis } => softmax(x, axis),
            Self::Softmin { axis } => softmin(x, axis),
            Self::Softplus => softplus(x),
            Self::Softshrink { lambda } => softshrink(x, lambda),
            Self::Softsign => softsign(x),
            Self::Step { threshold } => step(x, threshold),
            Self::Tanh => tanh(x),
        }
    }
}

impl FromStr for Activation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Ok(match name {
            "linear" | "identity" => Self::Identity,
            "celu" => Self::Celu { alpha: 1.0 },
            "elu" => Self::Elu { alpha: 1.0 },
            "gelu" | "gelu_python" => Self::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_approx" | "gelu_tanh"
            | "gelu_python_tanh" | "gelu_accurate" => Self::GeluApprox,
            "quick_gelu" | "gelu_fast_approx" => Self::GeluFastApprox,
            "glu" => Self::Glu { axis: -1 },
            "hard_shrink" | "hardshrink" => Self::HardShrink { lambda: 0.5 },
            "hardswish" | "hard_swish" => Self::Hardswish,
            "hard_tanh" | "hardtanh" => Self::HardTanh {
                low: -1.0,
                high: 1.0,
            },
            "leaky_relu" => Self::LeakyRelu {
                negative_slope: 0.01,
            },
            "log_sigmoid" | "logsigmoid" => Self::LogSigmoid,
            "log_softmax" => Self::LogSoftmax { axis: -1 },
            "mish" => Self::Mish,
            "relu" => Self::Relu,
            "relu2" | "relu_squared" => Self::Relu2,
            "relu6" => Self::Relu6,
            "selu" => Self::Selu,
            "sigmoid" => Self::Sigmoid,
            "silu" | "swish" => Self::Silu,
            "softmax" => Self::Softmax { axis: -1 },
            "softmin" => Self::Softmin { axis: -1 },
            "softplus" => Self::Softplus,
            "softshrink" => Self::Softshrink { lambda: 0.5 },
            "softsign" => Self::Softsign,
            "step" => Self::Step { threshold: 0.0 },
            "tanh" => Self::Tanh,
            _ => {
                return Err(Error::Unsupported {
                    what: "activation",
                    value: name.to_owned(),
                });
            }
        })
    }
}

impl<'de> Deserialize<'de> for Activation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl de::Visitor<'_> for Name {
            type Value = Activation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an activation function")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Activation, E> {
                name.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Name)
    }
}

parameter_free!(Activation);

impl UnaryLayer for Activation {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}

/// [`prelu`] with its learned slopes; key: `weight [n]`.
#[doc(alias = "PReLU")]
#[derive(Debug, Clone, Module)]
pub struct Prelu {
    /// The slope below zero: one for all features, or one for each.
    pub weight: Array,
}

impl Prelu {
    /// A layer with `num_parameters` slopes of `init`; usual are 1 and 0.25.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if `num_parameters` is not positive.
    pub fn new(num_parameters: i32, init: f32) -> Result<Self> {
        check_dims("Prelu", &[num_parameters])?;
        Ok(Self {
            weight: Array::full::<f32>(&[num_parameters], init)?,
        })
    }

    /// Applies the function; the slopes are broadcast to `x`.
    ///
    /// # Errors
    /// [`Error::Core`] if they cannot be.
    pub fn forward(&self, x: &Array) -> Result<Array> {
        prelu(x, &self.weight)
    }
}

impl UnaryLayer for Prelu {
    fn forward(&self, x: &Array) -> Result<Array> {
        Self::forward(self, x)
    }
}
