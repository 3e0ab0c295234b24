#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod dense;
mod encode;
mod error;
mod folder;
pub mod models;
mod pool;
pub mod registry;
mod similarity;
mod tokenize;

pub use encode::{Embedder, EncodeOptions};
pub use error::{Error, Result};
pub use mlx_lm::CancelFlag;
pub use pool::{Pooling, PoolingMode};
pub use registry::{Registry, TextEncoder};
pub use similarity::Similarity;
pub use tokenize::TokenBatch;
