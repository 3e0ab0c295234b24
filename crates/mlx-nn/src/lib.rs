//! MLX for Rust: modules, layers and quantisation
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

// The derive macro names `::mlx_nn`, also when it is used in this crate.
extern crate self as mlx_nn;

pub mod activation;
pub mod adapter;
mod attention;
mod bilinear;
mod conv;
pub mod distributed;
mod dropout;
mod embedding;
mod error;
#[cfg(all(doctest, feature = "train"))]
mod guide;
pub mod init;
mod linear;
pub mod loss;
pub mod module;
mod norm;
pub mod optimizer;
mod pooling;
mod positional;
mod qq_linear;
mod recurrent;
mod rope;
mod sequential;
mod switch;
pub mod train;
mod transformer;
mod upsample;
mod weight;

pub use activation::{Activation, Prelu};
pub use attention::{Mask, create_causal_mask, scaled_dot_product_attention};
pub use bilinear::Bilinear;
pub use conv::{
    Conv, Conv1d, Conv2d, Conv3d, ConvTranspose, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d,
};
pub use dropout::{Dropout, Mode};
pub use embedding::Embedding;
pub use error::{Error, Result};
pub use linear::Linear;
pub use mlx_nn_derive::Module;
pub use module::{
    Buffer, Descend, KeyPath, Module, Visitor, VisitorMut,
    checkpoint::checkpoint,
    exchange::with_arrays,
    gradient::{Gradients, value_and_grad, value_and_grad_of},
    initialize::initialize,
    load::{LoadOptions, LoadReport, Misshaped, load_weights},
    parameters::{parameter_count, parameters, set_dtype, trainable_parameters, update},
    quantize::{LayerQuantization, QuantMode, Quantization, quantize},
    save::{save_weights, save_weights_npz},
    summary::{Summary, SummaryRow, summary},
    weights::Weights,
};
pub use norm::{BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RmsNorm};
pub use pooling::{Pool, Pool1d, Pool2d, Pool3d};
pub use positional::{Alibi, SinusoidalPositionalEncoding};
pub use qq_linear::QqLinear;
pub use recurrent::{Gru, Lstm, LstmSteps, Rnn};
pub use rope::{
    Factors, Offset, Rope, RopeKind, RopeParameters, RopeParametersField, with_planned_length,
};
pub use sequential::{CloneLayer, Sequential, UnaryLayer};
pub use switch::{SwitchGlu, SwitchLinear, SwitchMlp};
pub use transformer::{
    MultiHeadAttention, MultiHeadAttentionDims, Transformer, TransformerDecoder,
    TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer, TransformerOptions,
};
pub use upsample::{Upsample, UpsampleMode};
pub use weight::{QuantizedWeight, Weight};
