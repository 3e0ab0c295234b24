//! Steps of `sanitize` functions that several architectures share.

use mlx_nn::Weights;

use crate::Result;

/// Lets a text model load from a multimodal checkpoint: takes the wrapper's
/// prefix off the text weights and leaves out the other towers.
pub(super) fn unwrap_language_model(weights: &mut Weights) -> Result<()> {
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
    Ok(())
}
