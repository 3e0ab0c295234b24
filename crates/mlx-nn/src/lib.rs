//! MLX for Rust: modules, layers and quantisation
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// The derive macro names `::mlx_nn`, also when it is used in this crate.
extern crate self as mlx_nn;

pub mod activation;
mod attention;
mod embedding;
mod error;
mod init;
mod linear;
pub mod module;
mod norm;
mod rope;
mod sequential;
mod weight;

pub use activation::{Activation, Prelu};
pub use attention::{Mask, create_causal_mask, scaled_dot_product_attention};
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use linear::Linear;
pub use mlx_nn_derive::Module;
pub use module::{
    Buffer, Descend, KeyPath, Module, Visitor, VisitorMut,
    load::{LoadOptions, LoadReport, Misshaped, load_weights},
    parameters::{parameter_count, parameters, set_dtype, trainable_parameters, update},
    quantize::{LayerQuantization, QuantMode, Quantization, quantize},
    save::save_weights,
    weights::Weights,
};
pub use norm::{LayerNorm, RmsNorm};
pub use rope::{Factors, Offset, Rope, RopeKind, RopeParameters, RopeParametersField};
pub use sequential::{Sequential, UnaryLayer};
pub use weight::{QuantizedWeight, Weight};
