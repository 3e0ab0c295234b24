//! How drafts are drawn.

use mlx_core::ops::indexing::slice;
use mlx_core::ops::misc::astype;
use mlx_core::ops::random;
use mlx_core::ops::reduction::argmax_axis;
use mlx_core::ops::shape::{PadMode, pad};
use mlx_core::{Array, Dtype, eval};

use super::Draft;
use crate::Result;
use crate::sample::Sampler;

/// Drafts that are still on the device.
pub(super) struct Drawn<'s> {
    sampler: &'s mut Sampler,
    /// The model's vocabulary, which a drafter's may fall short of or exceed.
    vocab: i32,
    tokens: Vec<(Array, Option<Array>)>,
}

impl<'s> Drawn<'s> {
    pub(super) fn new(sampler: &'s mut Sampler, vocab: i32) -> Self {
        Self {
            sampler,
            vocab,
            tokens: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Draws one more from logits `[1, 1, V]` of tokens that the model knows, and returns it as
    /// `[1, 1]`.
    pub(super) fn draw(&mut self, logits: &Array) -> Result<Array> {
        let logits = logits.reshape(&[1, -1])?;
        let known = logits.dim(1)?.min(self.vocab);
        let logits = slice(&logits, &[0, 0], &[1, known])?;
        let (token, distribution) = if self.sampler.is_greedy() {
            (argmax_axis(&logits, -1, false)?, None)
        } else {
            let distribution = self.sampler.distribution(&logits)?;
            let key = self.sampler.next_key()?;
            let token = random::categorical(&distribution, -1, key.as_ref())?;
            (token, Some(widened(&distribution, self.vocab)?))
        };
        let token = astype(&token, Dtype::Uint32)?;
        let input = token.reshape(&[1, 1])?;
        self.tokens.push((token, distribution));
        Ok(input)
    }

    /// Reads the drafts back.
    pub(super) fn read(self) -> Result<Vec<Draft>> {
        let tokens: Vec<&Array> = self.tokens.iter().map(|(token, _)| token).collect();
        eval(&tokens)?;
        let read = |(token, distribution): (Array, _)| -> Result<Draft> {
            Ok(Draft {
                token: token.item::<u32>()?,
                distribution,
            })
        };
        self.tokens.into_iter().map(read).collect()
    }
}

/// A distribution over fewer tokens as one over `vocab`.
fn widened(distribution: &Array, vocab: i32) -> Result<Array> {
    let missing = vocab - distribution.dim(1)?;
    if missing <= 0 {
        return Ok(distribution.clone());
    }
    let never = Array::scalar(f32::NEG_INFINITY)?;
    Ok(pad(
        distribution,
        &[(0, 0), (0, missing)],
        &never,
        PadMode::Constant,
    )?)
}

/// The last of hidden states `[1, L, D]`.
pub(super) fn last(hidden: &Array) -> Result<Array> {
    let (length, width) = (hidden.dim(1)?, hidden.dim(2)?);
    Ok(slice(hidden, &[0, length - 1, 0], &[1, length, width])?)
}
