//! Low-rank adapters: LoRA and DoRA on any weight, dense or quantised.
//!
//! From "LoRA: Low-Rank Adaptation of Large Language Models" (2021) and "DoRA: Weight-Decomposed
//! Low-Rank Adaptation" (2024). An adapter lives inside a [`Weight`], so model files need not know
//! of it: [`add_adapters`] puts fresh ones in, training changes them alone, [`take_adapters`]
//! takes them out again, and [`fuse_adapters`] makes them part of the weights.

mod dropout;
mod swap;
mod weight;

use mlx_core::Array;

pub use dropout::with_dropout;
pub use swap::{
    AdapterOptions, adapters, add_adapters, attach_adapters, fuse_adapters, is_adapter_key,
    take_adapters,
};
pub use weight::AdaptedWeight;

use crate::{Error, Result, Weight};

/// What an adapter adds to a weight: `scale · A B`, and for DoRA a magnitude for each row.
///
/// | layer | `lora_a` | `lora_b` | `magnitude` |
/// |---|---|---|---|
/// | linear `[out, in]` | `[in, r]` | `[r, out]` | `[out]` |
/// | embedding `[n, dims]` | `[n, r]` | `[r, dims]` | `[n]` |
/// | experts `[e, out, in]` | `[e, r, in]` | `[e, out, r]` | none |
///
/// Keys: `lora_a`, `lora_b` and `m` below the layer's path, as Python's mlx-lm has them.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// The map to the low rank.
    pub lora_a: Array,
    /// The map back, zeros at first.
    pub lora_b: Array,
    /// The length of each row of the adapted weight; its presence makes LoRA DoRA.
    pub magnitude: Option<Array>,
    /// The factor of the update.
    pub scale: f32,
    /// The probability with which training drops an element of the update's input (of its output,
    /// for rows of a table); see [`with_dropout`].
    pub dropout: f32,
}

/// How a layer uses its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterKind {
    /// `x Wᵀ`
    Linear,
    /// Rows by id.
    Embedding,
    /// `x W[e]ᵀ`
    Experts,
}

impl Adapter {
    /// Which kind of layer with this weight the shapes fit.
    fn kind(&self, path: &str, weight: &Weight) -> Result<AdapterKind> {
        let shape = weight.shape();
        let kind = match (shape.as_slice(), self.lora_a.shape(), self.lora_b.shape()) {
            ([out, input], [a, rank], [r, b]) if rank == r && a == input && b == out => {
                AdapterKind::Linear
            }
            ([n, dims], [a, rank], [r, b]) if rank == r && a == n && b == dims => {
                AdapterKind::Embedding
            }
            ([e, out, input], [ae, rank, a], [be, b, r])
                if ae == e && be == e && rank == r && a == input && b == out =>
            {
                AdapterKind::Experts
            }
            (shape, a, b) => {
                let message = format!("an adapter {a:?}, {b:?} does not fit a weight {shape:?}");
                return Err(Error::weight(path, message));
            }
        };
        let magnitude = self.magnitude.as_ref().map(Array::shape);
        if !(0.0..1.0).contains(&self.dropout) {
            let message = format!("dropout must be in 0..1, found {}", self.dropout);
            return Err(Error::weight(path, message));
        }
        let fits = match (magnitude, kind) {
            (None, _) => true,
            (Some(_), AdapterKind::Experts) => false,
            (Some(found), _) => shape.first().is_some_and(|rows| found == [*rows]),
        };
        if fits {
            return Ok(kind);
        }
        let message = format!("magnitudes {magnitude:?} do not fit a weight {shape:?}");
        Err(Error::weight(path, message))
    }
}
