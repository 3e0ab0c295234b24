//! What is told of a model before its weights are read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mlx_core::{Array, Dtype};
use mlx_lm::generate::{Generator, Request};
use mlx_lm::load::{QuantizeOptions, SaveOptions};
use mlx_lm::{Error, Loader};
use serde_json::json;

use crate::support::{Outcome, checkpoint, config, shapes, weights, with, write};

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/fixtures/lm/llama")
        .join(case)
}

/// A golden case with the tokenizer that it lacks.
fn with_tokenizer(case: &str) -> Result<tempfile::TempDir, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(case).join(file), folder.path().join(file))?;
    }
    let tokenizer = crate::support::prose().join("tokenizer.json");
    std::fs::copy(tokenizer, folder.path().join("tokenizer.json"))?;
    Ok(folder)
}

/// The estimate of the weights is what they take once they are loaded.
fn agrees<'a>(loader: impl Fn() -> Loader<'a>, what: &str) -> Outcome {
    let estimate = loader().estimate()?;
    let loaded = loader().load()?.size().bytes;
    assert_eq!(estimate.weights, u64::try_from(loaded)?, "{what}");
    let inspected = loader().inspect()?.size();
    assert_eq!(inspected.bytes, loaded, "{what}");
    Ok(())
}

#[test]
fn the_estimate_counts_what_will_be_loaded() -> Outcome {
    let config = with(
        config("llama"),
        json!({ "hidden_size": 64, "intermediate_size": 96 }),
    );
    let dense = checkpoint(&config)?;
    let path = dense.path();
    agrees(|| Loader::new(path), "as stored")?;
    agrees(|| Loader::new(path).dtype(Dtype::Float16), "cast")?;
    for options in [
        QuantizeOptions::bits(4),
        QuantizeOptions::bits(3).group_size(32),
        QuantizeOptions::mode(mlx_nn::QuantMode::Mxfp4),
        QuantizeOptions::bits(4).layer("lm_head", None),
    ] {
        let loader = || Loader::new(path).quantize(options.clone());
        agrees(loader, "quantised")?;
        // The dense weights are there until the others are.
        let estimate = loader().estimate()?;
        let stored = Loader::new(path).estimate()?.weights;
        assert_eq!(estimate.weights + estimate.loading, stored);
    }
    let packed = tempfile::tempdir()?;
    let folder = packed.path().join("packed");
    let quantised = Loader::new(path)
        .quantize(QuantizeOptions::bits(4))
        .load()?;
    quantised.save(&folder, &SaveOptions::default())?;
    agrees(|| Loader::new(&folder), "stored quantised")?;
    agrees(|| Loader::new(&folder).dequantize(true), "dequantised")?;
    let again = || {
        let loader = Loader::new(&folder).dequantize(true);
        loader.quantize(QuantizeOptions::bits(8))
    };
    agrees(again, "quantised anew")
}

#[test]
fn the_estimate_knows_the_formats_of_other_programs() -> Outcome {
    for case in [
        "awq",
        "bitnet",
        "fp8",
        "gptq",
        "gptq-act-order",
        "mxfp4-pack",
        "nvfp4-pack",
        "pack-quantized",
    ] {
        let folder = with_tokenizer(case)?;
        agrees(|| Loader::new(folder.path()), case)?;
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_told_from_the_heads() -> Outcome {
    let config = config("llama");
    let mut arrays = weights(&shapes(&config))?;
    arrays.remove("model.norm.weight");
    let folder = write(&config, &arrays)?;
    let refused = Loader::new(folder.path()).inspect();
    let error = refused.err().ok_or("inspected")?;
    let Error::Load { source, .. } = &error else {
        return Err("another error".into());
    };
    assert!(matches!(**source, Error::Nn(_)), "{source}");
    Ok(())
}

#[test]
fn no_weights_are_read_for_a_look() -> Outcome {
    let config = config("llama");
    let arrays: HashMap<String, Array> = weights(&shapes(&config))?;
    let folder = write(&config, &arrays)?;
    let info = Loader::new(folder.path())
        .on_progress(|_| panic!("weights are read"))
        .inspect()?;
    assert_eq!(info.vocab_size(), 4096);
    assert_eq!(info.max_position_embeddings(), Some(128));
    assert_eq!(info.config()["model_type"], "llama");
    assert!(info.tokenizer().is_eos(0));
    let bytes: usize = arrays.values().map(Array::nbytes).sum();
    assert_eq!(info.size().bytes, bytes);
    Ok(())
}

#[test]
fn a_stretched_context_holds_longer_prompts() -> Outcome {
    let long: Vec<u32> = (0..200).map(|at| at % 900 + 1).collect();
    for (scaling, is_taken) in [
        (json!(null), false),
        (
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128 }),
            true,
        ),
        (json!({ "rope_type": "linear", "factor": 2.0 }), true),
    ] {
        let config = with(config("qwen2"), json!({ "rope_scaling": scaling }));
        let loaded = crate::support::model(&config)?;
        let mut generator = Generator::new(loaded.model());
        let inserted = generator.insert(Request::new(long.clone()).max_tokens(2));
        assert_eq!(inserted.is_ok(), is_taken, "{scaling}");
        while is_taken && !generator.is_idle() {
            drop(generator.step()?);
        }
    }
    Ok(())
}
