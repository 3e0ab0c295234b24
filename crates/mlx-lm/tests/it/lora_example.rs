//! The example `lora` on the style that it comes with, but with a model that learns in seconds.

use std::path::{Path, PathBuf};

use mlx_core::{Array, Dtype, ops::random};
use mlx_lm::Loader;
use mlx_lm::adapters::{load_adapters, save_adapters};
use mlx_nn::adapter::{AdapterOptions, add_adapters, fuse_adapters, is_adapter_key};
use mlx_nn::parameters;
use mlx_nn::train::Dataset;

use crate::support::{Outcome, checkpoint, config, distance};

#[path = "../../examples/lora/fine_tune.rs"]
mod fine_tune;

use fine_tune::{Model, Texts, evaluate, train};

fn style(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/style")
        .join(name)
}

#[test]
fn the_style_is_learned_by_adapters_alone() -> Outcome {
    random::seed(0)?;
    let folder = checkpoint(&config("llama"))?;
    let fresh = || Loader::new(folder.path()).dtype(Dtype::Float32).load();
    let mut model = Model(fresh()?);
    let read = |name, model: &Model| Texts::read(&style(name), model.0.tokenizer(), 48);
    let (training, held_out) = (read("train.jsonl", &model)?, read("valid.jsonl", &model)?);
    assert_eq!((training.len(), held_out.len()), (40, 10));
    // The head as well: with random weights, layers alone have little to steer.
    let count = add_adapters(&mut model, AdapterOptions::default(), |path| {
        path.contains("layers.") || path == "lm_head"
    })?;
    assert_eq!(count, 15);
    let frozen = |model: &Model| -> Vec<Array> {
        let all = parameters(model).into_iter();
        all.filter(|(key, _)| !is_adapter_key(key))
            .map(|(_, array)| array)
            .collect()
    };
    let (before, original) = (evaluate(&model, &held_out)?, frozen(&model));
    let mut model = train(model, training, 8, 20, 1e-3)?;
    let after = evaluate(&model, &held_out)?;
    assert!(after < 0.8 * before, "{before} to {after}");
    for (before, after) in original.iter().zip(frozen(&model)) {
        assert!(distance(before, &after)? == 0.0);
    }

    let (batch, _) = held_out.batch(&[0, 1], 0)?;
    let adapted = model.logits(&batch[0])?;
    let size = adapted.abs()?.max(false)?.item::<f32>()?;
    let written = tempfile::tempdir()?;
    save_adapters(&model, written.path())?;
    let mut again = Model(fresh()?);
    assert_eq!(load_adapters(&mut again, written.path())?, 15);
    assert!(distance(&again.logits(&batch[0])?, &adapted)? < 1e-6 * size);
    assert_eq!(fuse_adapters(&mut model, true)?, 15);
    assert!(distance(&model.logits(&batch[0])?, &adapted)? < 1e-4 * size);
    Ok(())
}

#[test]
fn what_stands_behind_the_end_of_a_text_does_not_count() -> Outcome {
    let folder = checkpoint(&config("llama"))?;
    let model = Model(Loader::new(folder.path()).dtype(Dtype::Float32).load()?);
    let path = folder.path().join("texts.jsonl");
    std::fs::write(
        &path,
        "{\"text\": \"Wind: west.\"}\n{\"text\": \"Sea: calm, with fog.\"}\n",
    )?;
    let both = Texts::read(&path, model.0.tokenizer(), 99)?;
    let (batch, units) = both.batch(&[0, 1], 0)?;
    let rows = ["Wind: west.", "Sea: calm, with fog."]
        .map(|text| model.0.tokenizer().encode(text, true).map(|ids| ids.len()));
    let [first, second] = rows;
    let (first, second) = (first?, second?);
    // Each has the token that ends it as its last target.
    assert_eq!(units, u64::try_from(first + second)?);
    assert_eq!(batch[0].shape(), [2, i32::try_from(second)?]);
    let real = batch[2].to_vec::<f32>()?;
    let expected = [first, second].map(|count| (0..second).map(move |place| place < count));
    assert!(
        real.iter()
            .map(|real| *real > 0.0)
            .eq(expected.into_iter().flatten())
    );

    let mut sum = 0.0;
    for (text, count) in [("Wind: west.", first), ("Sea: calm, with fog.", second)] {
        let line = serde_json::json!({"text": text});
        std::fs::write(&path, line.to_string())?;
        let alone = Texts::read(&path, model.0.tokenizer(), 99)?;
        sum += evaluate(&model, &alone)? * f64::from(u32::try_from(count)?);
    }
    let together = evaluate(&model, &both)? * f64::from(u32::try_from(units)?);
    assert!((together - sum).abs() < 1e-4 * sum, "{together}, {sum}");
    Ok(())
}
