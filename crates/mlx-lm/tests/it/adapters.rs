//! Fine-tuning a real model with adapters, and their files.

use std::path::PathBuf;

use mlx_core::{Array, Dtype, io, ops::random};
use mlx_lm::adapters::{load_adapters, save_adapters};
use mlx_lm::cache::for_training;
use mlx_lm::{LanguageModel, Loader, Registry};
use mlx_nn::adapter::{
    AdapterOptions, adapters, add_adapters, fuse_adapters, is_adapter_key, take_adapters,
};
use mlx_nn::loss::{CrossEntropyOptions, Reduction, cross_entropy};
use mlx_nn::optimizer::{Adam, Optimizer};
use mlx_nn::train::{StepOptions, TrainStep};
use mlx_nn::{LoadOptions, Weights, load_weights};

type TestResult<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// How many tokens of a sentence are learned.
const LENGTH: usize = 24;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/prose-5m")
}

fn fresh() -> TestResult<Box<dyn LanguageModel>> {
    let config = std::fs::read(folder().join("config.json"))?;
    let config = serde_json::from_slice(&config)?;
    let mut weights = Weights::load_safetensors(folder().join("model.safetensors"))?;
    let mut model = Registry::new().constructor("llama")?(&config, &mut weights)?;
    load_weights(model.as_mut(), weights, &LoadOptions::default())?;
    mlx_nn::set_dtype(model.as_mut(), Dtype::Float32)?;
    Ok(model)
}

/// Reports in a style that the model has never seen, as ids `[N, LENGTH + 1]`.
fn reports(range: std::ops::Range<usize>) -> TestResult<Array> {
    let model = Loader::new(folder()).load()?;
    let places = [
        "harbour", "garden", "kitchen", "church", "village", "library",
    ];
    let states = [
        "quiet",
        "crowded",
        "in good order",
        "closed",
        "very wet",
        "empty",
    ];
    let mut ids = Vec::new();
    for n in range.clone() {
        let (place, state) = (places[n % 6], states[(n / 6 + n) % 6]);
        let text = format!(
            "REPORT {n}: {place} = {state}; nothing lost; END OF REPORT {n}. Signed, the keeper of the {place}."
        );
        let tokens = model.tokenizer().encode(&text, false)?;
        ids.extend_from_slice(tokens.get(..=LENGTH).ok_or("a report is too short")?);
    }
    let shape = [i32::try_from(range.len())?, i32::try_from(LENGTH)? + 1];
    Ok(Array::from_slice(&ids, &shape)?)
}

fn loss(model: &dyn LanguageModel, ids: &Array) -> mlx_nn::Result<Array> {
    let (count, length) = (ids.dim(0)?, ids.dim(1)?);
    let inputs = ids.slice(&[0, 0], &[count, length - 1])?;
    let targets = ids.slice(&[0, 1], &[count, length])?;
    let logits = model
        .forward(&inputs, &mut for_training(model))
        .map_err(|error| mlx_core::Error::Backend(error.to_string()))?;
    let mean = CrossEntropyOptions::default().reduction(Reduction::Mean);
    cross_entropy(&logits.astype(Dtype::Float32)?, &targets, mean)
}

fn logits(model: &dyn LanguageModel, ids: &Array) -> TestResult<Vec<f32>> {
    let logits = model.forward(ids, &mut for_training(model))?;
    Ok(logits.astype(Dtype::Float32)?.to_vec::<f32>()?)
}

fn gap(a: &[f32], b: &[f32]) -> f32 {
    let size = b.iter().fold(1e-6_f32, |size, b| size.max(b.abs()));
    a.iter()
        .zip(b)
        .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()))
        / size
}

#[test]
fn adapters_learn_a_style_and_survive_their_files() -> TestResult {
    random::seed(2)?;
    let mut model = fresh()?;
    let options = AdapterOptions::default().rank(8).scale(10.0);
    let count = add_adapters(model.as_mut(), options, |path| {
        path.ends_with("q_proj") || path.ends_with("v_proj") || path.ends_with("down_proj")
    })?;
    assert_eq!(count, 18);
    let (training, held_out) = (reports(0..16)?, reports(16..24)?);
    let before = loss(model.as_ref(), &held_out)?.item::<f32>()?;
    let optimizer = Optimizer::new(Adam::default(), 5e-3)?;
    let eager = StepOptions::default().compile(false);
    let mut step = TrainStep::new(model, optimizer, eager, |model, xs, _| {
        loss(model.as_ref(), &xs[0])
    })?;
    step.freeze(|key| !is_adapter_key(key));
    for number in 0..40_i32 {
        let start = number % 2 * 8;
        let batch = training.slice(&[start, 0], &[start + 8, i32::try_from(LENGTH)? + 1])?;
        let _loss = step.step(&[batch])?;
    }
    let mut model = step.into_model()?;
    let after = loss(model.as_ref(), &held_out)?.item::<f32>()?;
    assert!(after < 0.8 * before, "{before} to {after}");

    let ids = held_out.slice(&[0, 0], &[2, 8])?;
    let adapted = logits(model.as_ref(), &ids)?;
    let folder = tempfile::tempdir()?;
    let kept = std::env::var_os("MLX_LM_KEEP_ADAPTERS").map(PathBuf::from);
    let path = kept.unwrap_or_else(|| folder.path().to_owned());
    save_adapters(model.as_ref(), &path)?;
    let mut other = fresh()?;
    assert_eq!(load_adapters(other.as_mut(), &path)?, 18);
    assert!(gap(&logits(other.as_ref(), &ids)?, &adapted) < 1e-6);
    assert_eq!(fuse_adapters(model.as_mut(), false)?, 18);
    assert!(gap(&logits(model.as_ref(), &ids)?, &adapted) < 1e-4);
    assert_eq!(take_adapters(other.as_mut())?.len(), 18);
    let plain = logits(fresh()?.as_ref(), &ids)?;
    assert!(gap(&logits(other.as_ref(), &ids)?, &plain) < 1e-6);
    assert!(gap(&adapted, &plain) > 0.01);
    Ok(())
}

#[test]
fn peft_files_find_their_layers() -> TestResult {
    let folder = tempfile::tempdir()?;
    let config = serde_json::json!({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"v_proj": 2}});
    std::fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )?;
    let noise =
        |shape: &[i32], seed| random::normal::<f32>(0.0, 0.1, shape, Some(&random::key(seed)?));
    let key = |layer: &str, part| {
        format!("base_model.model.model.layers.2.self_attn.{layer}.lora_{part}.weight")
    };
    let (a, b) = (noise(&[4, 256], 1)?, noise(&[256, 4], 2)?);
    let arrays = [
        (key("q_proj", "A"), a.clone()),
        (key("q_proj", "B"), b.clone()),
        (key("v_proj", "A"), noise(&[4, 256], 3)?),
        (key("v_proj", "B"), noise(&[128, 4], 4)?),
    ];
    let path = folder.path().join("adapter_model.safetensors");
    io::save_safetensors(
        &path,
        arrays.iter().map(|(key, array)| (key, array)),
        &[].into(),
    )?;
    let mut model = fresh()?;
    let name = "model.layers.2.self_attn.q_proj";
    let dense = mlx_nn::parameters(model.as_ref())[&format!("{name}.weight")].clone();
    assert_eq!(load_adapters(model.as_mut(), folder.path())?, 2);
    let scales: Vec<f32> = adapters(model.as_ref())
        .values()
        .map(|adapter| adapter.scale)
        .collect();
    assert_eq!(scales, [2.0, 0.5]);
    fuse_adapters(model.as_mut(), false)?;
    let fused = mlx_nn::parameters(model.as_ref())[&format!("{name}.weight")].to_vec::<f32>()?;
    let expected = (dense + (b.matmul(&a)? * 2.0)?)?.to_vec::<f32>()?;
    assert!(gap(&fused, &expected) < 1e-6);

    let stray = [(
        "base_model.model.lm_head.modules_to_save.weight".to_owned(),
        a,
    )];
    io::save_safetensors(
        &path,
        stray.iter().map(|(key, array)| (key, array)),
        &[].into(),
    )?;
    assert!(load_adapters(fresh()?.as_mut(), folder.path()).is_err());
    std::fs::remove_file(&path)?;
    assert!(load_adapters(fresh()?.as_mut(), folder.path()).is_err());
    Ok(())
}

#[test]
fn patterns_of_peft_that_are_regular_expressions_are_refused() -> TestResult {
    for (patterns, said) in [
        (
            serde_json::json!({r"model\.layers\.\d+\.self_attn": 2}),
            "regular expression",
        ),
        (
            serde_json::json!({"q_proj": 2, "self_attn.q_proj": 4}),
            "several patterns",
        ),
    ] {
        let folder = tempfile::tempdir()?;
        let config = serde_json::json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": patterns,
        });
        std::fs::write(
            folder.path().join("adapter_config.json"),
            config.to_string(),
        )?;
        let key =
            |part| format!("base_model.model.model.layers.0.self_attn.q_proj.lora_{part}.weight");
        let arrays = [
            (key("A"), Array::zeros::<f32>(&[4, 256])?),
            (key("B"), Array::zeros::<f32>(&[256, 4])?),
        ];
        io::save_safetensors(
            folder.path().join("adapter_model.safetensors"),
            arrays.iter().map(|(key, array)| (key, array)),
            &[].into(),
        )?;
        let error = load_adapters(fresh()?.as_mut(), folder.path()).unwrap_err();
        assert!(
            matches!(&error, mlx_lm::Error::Config { field, message }
                if field == "alpha_pattern" && message.contains(said)),
            "{error}"
        );
    }
    Ok(())
}

#[test]
fn adapters_of_several_ranks_have_no_place_in_a_file() -> TestResult {
    let mut model = fresh()?;
    let options = AdapterOptions::default();
    add_adapters(model.as_mut(), options.rank(8), |path| {
        path.ends_with("q_proj")
    })?;
    add_adapters(model.as_mut(), options.rank(4), |path| {
        path.ends_with("v_proj")
    })?;
    let folder = tempfile::tempdir()?;
    let error = save_adapters(model.as_ref(), folder.path()).unwrap_err();
    assert!(
        matches!(&error, mlx_lm::Error::Option { message, .. } if message.contains("ranks")),
        "{error}"
    );
    Ok(())
}
