//! Writes adapter folders for Python mlx-lm to load: `cargo xtask parity adapters`.
//!
//! Arguments: a model folder and an empty one. Each folder that is made in it also has
//! `logits.safetensors`, what the adapted model computes for the `prompt` of the model's goldens.

use std::path::Path;

use mlx_core::{Array, Dtype, io, ops::random};
use mlx_lm::{Loader, adapters::save_adapters, cache::for_training};
use mlx_nn::adapter::{AdapterOptions, add_adapters, attach_adapters, take_adapters};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A folder, how its adapters are made, and which weights get one.
type Case = (&'static str, AdapterOptions, fn(&str) -> bool);

fn main() -> Outcome {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, out] = arguments.as_slice() else {
        return Err("expected a model folder and one to write to".into());
    };
    let options = AdapterOptions::default().rank(4);
    let cases: [Case; 4] = [
        ("lora", options, |path| path.contains("layers.")),
        ("last-layer", options.scale(10.0).dropout(0.1), |path| {
            path.starts_with("model.layers.1.") && path.ends_with("v_proj")
        }),
        ("dora", options.dora(true), |path| path.ends_with("_proj")),
        ("table", options.rank(2).scale(4.0), |path| {
            path.ends_with("up_proj") || path.ends_with("embed_tokens")
        }),
    ];
    for (name, options, chosen) in cases {
        write(model.as_ref(), &Path::new(out).join(name), options, chosen)?;
    }
    Ok(())
}

fn write(folder: &Path, out: &Path, options: AdapterOptions, chosen: fn(&str) -> bool) -> Outcome {
    random::seed(0)?;
    let mut loaded = Loader::new(folder).dtype(Dtype::Float32).load()?;
    add_adapters(loaded.model_mut(), options, chosen)?;
    // As they come, adapters change nothing.
    let mut adapters = take_adapters(loaded.model_mut())?;
    for adapter in adapters.values_mut() {
        adapter.lora_b = noise(&adapter.lora_b)?;
        if let Some(magnitude) = &mut adapter.magnitude {
            *magnitude = (&*magnitude * (noise(magnitude)? + 1.0)?)?;
        }
    }
    attach_adapters(loaded.model_mut(), adapters)?;
    save_adapters(loaded.model(), out)?;

    let (golden, _) = io::load_safetensors(folder.join("golden.safetensors"))?;
    let prompt = golden.get("prompt").ok_or("the model has no prompt")?;
    let model = loaded.model();
    let logits = model.forward(&prompt.reshape(&[1, -1])?, &mut for_training(model))?;
    let logits = logits.reshape(&[prompt.dim(0)?, -1])?;
    io::save_safetensors(
        out.join("logits.safetensors"),
        [("logits", &logits)],
        &[].into(),
    )?;
    Ok(())
}

fn noise(like: &Array) -> mlx_core::Result<Array> {
    random::normal::<f32>(0.0, 0.1, like.shape(), None)
}
