//! The model, its loss, and how it is measured.

use mlx_core::{Array, Dtype, ops::random};
use mlx_lm::{Input, LanguageModel, Registry, cache::for_training, registry::ConfigMap};
use mlx_nn::{
    Dropout, Mode, Weights, init, initialize,
    loss::{CrossEntropyOptions, Reduction, cross_entropy},
    module::parameters::map,
    set_dtype,
};
use serde_json::json;

use crate::{
    Result,
    args::Args,
    corpus::{Corpus, windows},
};

pub(crate) type Model = Box<dyn LanguageModel>;

/// The configuration that a checkpoint of this model carries.
pub(crate) fn config(args: &Args, vocab_size: usize) -> ConfigMap {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "eos_token_id": 0,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "hidden_size": args.hidden,
        "num_hidden_layers": args.layers,
        "intermediate_size": args.intermediate,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "head_dim": args.hidden / args.heads.max(1),
        "rms_norm_eps": 1e-5,
        "vocab_size": vocab_size,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2 * args.context,
    });
    config.as_object().cloned().unwrap_or_default()
}

/// A model with weights drawn as GPT-2's are: the layers' outputs smaller, the more there are.
pub(crate) fn fresh(config: &ConfigMap, seed: u64) -> Result<Model> {
    let layers = config.get("num_hidden_layers").and_then(|n| n.as_f64());
    let mut model = Registry::new().constructor("llama")?(config, &mut Weights::new())?;
    let outputs = 0.02 / (2.0 * layers.unwrap_or(1.0)).sqrt();
    let mut key = random::key(seed)?;
    initialize(model.as_mut(), |path, shape| {
        let own;
        (key, own) = random::split(&key)?;
        let output = path.ends_with("o_proj") || path.ends_with("down_proj");
        let unit = init::normal(shape, 0.0, 1.0, Some(&own))?;
        Ok((unit * if output { outputs } else { 0.02 })?)
    })?;
    Ok(model)
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` calls it")]
fn lm(error: mlx_lm::Error) -> mlx_nn::Error {
    mlx_core::Error::Backend(error.to_string()).into()
}

/// The mean loss of a batch, with dropout, computed in the dtype asked for.
pub(crate) fn loss(
    args: &Args,
) -> impl Fn(&mut Model, &[Array], &Array) -> mlx_nn::Result<Array> + 'static {
    let (dtype, dropout, drop_weights) = (Dtype::from(args.dtype), args.dropout, args.drop_weights);
    move |model, batch, key| {
        let [tokens, targets] = batch else {
            return Err(
                mlx_core::Error::Backend("a batch is tokens and targets".to_owned()).into(),
            );
        };
        let (dropout, weights) = (Dropout::new(dropout)?, Dropout::new(drop_weights)?);
        let (key, first) = random::split(key)?;
        let (mut key, last) = random::split(&key)?;
        set_dtype(model, dtype)?;
        if drop_weights > 0.0 {
            map(model, |name, array| {
                if !name.ends_with("proj.weight") {
                    return Ok(array.clone());
                }
                let own;
                (key, own) = random::split(&key)?;
                Ok(weights.forward(array, Mode::Train(&own))?.astype(dtype)?)
            })?;
        }
        let mut cache = for_training(model.as_ref());
        let embedded = dropout.forward(&model.embed(tokens).map_err(lm)?, Mode::Train(&first))?;
        let input = Input {
            tokens,
            embeddings: Some(&embedded.astype(dtype)?),
        };
        let hidden = model.hidden(input, &mut cache).map_err(lm)?;
        let hidden = dropout
            .forward(&hidden, Mode::Train(&last))?
            .astype(dtype)?;
        mean_loss(
            &model.logits(&hidden).map_err(lm)?,
            targets,
            Reduction::Mean,
        )
    }
}

fn mean_loss(logits: &Array, targets: &Array, reduction: Reduction) -> mlx_nn::Result<Array> {
    let options = CrossEntropyOptions::default().reduction(reduction);
    cross_entropy(&logits.astype(Dtype::Float32)?, targets, options)
}

/// The mean loss per token over windows side by side, each token predicted from at most `context`
/// before it.
pub(crate) fn evaluate(
    model: &dyn LanguageModel,
    held_out: &Corpus,
    context: usize,
    batch: usize,
) -> Result<f64> {
    let count = held_out.tokens.len().saturating_sub(1) / context;
    let starts: Vec<usize> = (0..count).map(|window| window * context).collect();
    let (mut sum, mut tokens) = (0.0_f64, 0.0_f64);
    for starts in starts.chunks(batch) {
        let (arrays, units) = windows(&held_out.tokens, starts.iter().copied(), context)?;
        let [inputs, targets] = arrays.as_slice() else {
            return Err("a batch is tokens and targets".into());
        };
        let logits = model.forward(inputs, &mut for_training(model))?;
        sum += f64::from(mean_loss(&logits, targets, Reduction::Sum)?.item::<f32>()?);
        tokens += f64::from(u32::try_from(units)?);
    }
    if tokens == 0.0 {
        return Err("the held-out data are shorter than a window".into());
    }
    Ok(sum / tokens)
}
