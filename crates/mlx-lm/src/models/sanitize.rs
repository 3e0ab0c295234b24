//! Steps of `sanitize` functions that several architectures share.

use mlx_core::ops::shape::{contiguous, split, swapaxes};
use mlx_nn::Weights;

use crate::{Error, Result};

/// Lets a text model load from a multimodal checkpoint: takes the wrapper's
/// prefix off the text weights and leaves out the other towers.
pub(super) fn text_part(weights: &mut Weights) -> Result<()> {
    // Before transformers 4.52 the wrapper came first, since then `model.` does.
    for prefix in ["language_model.", "model.language_model."] {
        if !weights.keys().any(|key| key.starts_with(prefix)) {
            continue;
        }
        let dropped =
            weights.drop_where(|key| !key.starts_with(prefix) && !key.starts_with("lm_head."));
        let own = |rest: &str| rest.starts_with("model.") || rest.starts_with("lm_head.");
        weights.rename_with(|key| {
            let rest = key.strip_prefix(prefix)?;
            Some(if own(rest) {
                rest.to_owned()
            } else {
                format!("model.{rest}")
            })
        })?;
        tracing::info!(dropped, "loading the text part of a multimodal checkpoint");
        return Ok(());
    }
    // Qwen2-VL and Qwen2.5-VL were published with the keys of a text model, and a tower beside.
    weights.drop_prefix("visual.");
    Ok(())
}

/// Leaves out a head that repeats the embeddings, as some checkpoints store it.
pub(super) fn tied_head(weights: &mut Weights, tied: bool) {
    if tied {
        weights.drop_prefix("lm_head.");
    }
}

/// Leaves out the rotary frequencies that checkpoints of 2023 store and models compute.
pub(super) fn rotary_frequencies(weights: &mut Weights) {
    weights.drop_suffix("rotary_emb.inv_freq");
}

/// Brings the experts below `…<from>` together under `…<to>`: numbered ones are stacked, and the
/// two matrices that transformers 5 stores as one are parted.
pub(super) fn experts(weights: &mut Weights, from: &str, to: &str, count: i32) -> Result<()> {
    let count = usize::try_from(count).unwrap_or_default();
    weights.stack_experts(from, to, count)?;
    let fused = format!("{from}.gate_up_proj");
    let keys: Vec<String> = weights
        .keys()
        .filter(|key| key.ends_with(&fused))
        .map(str::to_owned)
        .collect();
    for key in keys {
        let path = key.strip_suffix(&fused).unwrap_or_default();
        let both = weights
            .take(&key)
            .ok_or_else(|| Error::weights("a key vanished"))?;
        let halves = split(&both, 2, -2)?; // [E, 2 · I, D]
        for (name, half) in ["gate_proj", "up_proj"].into_iter().zip(halves) {
            weights.insert(
                format!("{path}{to}.{name}.weight"),
                contiguous(&half, false)?,
            )?;
        }
    }
    let down = format!("{from}.down_proj");
    weights.rename_suffix(&down, &format!("{to}.down_proj.weight"))?;
    Ok(())
}

/// Turns the experts below `…<from>` that are stored for products from the right, `[E, D, 2 · I]` and
/// `[E, I, D]`, into the form that [`experts`] takes; `hidden_size` is `D` and tells one from the
/// other.
pub(super) fn turned_experts(weights: &mut Weights, from: &str, hidden_size: i32) -> Result<()> {
    let fused = format!("{from}.gate_up_proj");
    let layers: Vec<String> = weights
        .iter()
        .filter(|(_, array)| array.ndim() == 3 && array.shape().last() != Some(&hidden_size))
        .filter_map(|(key, _)| key.strip_suffix(&fused).map(str::to_owned))
        .collect();
    for layer in layers {
        for name in ["gate_up_proj", "down_proj"] {
            let key = format!("{layer}{from}.{name}");
            if let Some(weight) = weights.take(&key) {
                weights.insert(key, contiguous(&swapaxes(&weight, -2, -1)?, false)?)?;
            }
        }
    }
    Ok(())
}

/// Leaves out the layers from `num_hidden_layers` on, which predict several tokens at once.
pub(super) fn later_layers(weights: &mut Weights, num_hidden_layers: i32) {
    weights.drop_where(|key| {
        let number = key
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split('.').next());
        number
            .and_then(|number| number.parse::<i32>().ok())
            .is_some_and(|layer| layer >= num_hidden_layers)
    });
}
