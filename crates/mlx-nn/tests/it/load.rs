//! Loading, saving and adapting checkpoints.

use std::collections::{BTreeMap, HashMap};

use mlx_core::{Array, Dtype};
use mlx_nn::{
    Buffer, Error, LayerQuantization, Linear, LoadOptions, Module, Quantization, RmsNorm, Weights,
    load_weights, parameters, quantize, save_weights, set_dtype, trainable_parameters, update,
};

use crate::golden::TestResult;

#[derive(Debug, Module)]
struct Block {
    up_proj: Linear,
    #[module(name = "LayerNorm")]
    norm: RmsNorm,
    statistics: Buffer,
    gate: Option<Array>,
    heads: i32,
}

#[derive(Debug, Module)]
struct Model {
    layers: Vec<Block>,
    head: Option<Linear>,
}

fn model(layers: usize) -> mlx_nn::Result<Model> {
    let block = |_| {
        Ok(Block {
            up_proj: Linear::placeholder(64, 8, false)?,
            norm: RmsNorm::new(8, 1e-5)?,
            statistics: Buffer(Array::zeros::<f32>(&[3])?),
            gate: None,
            heads: 2,
        })
    };
    Ok(Model {
        layers: (0..layers).map(block).collect::<mlx_nn::Result<_>>()?,
        head: None,
    })
}

fn weights(layers: usize) -> mlx_nn::Result<Weights> {
    let mut weights = Weights::new();
    for layer in 0..layers {
        weights.insert(
            format!("layers.{layer}.up_proj.weight"),
            Array::ones::<f32>(&[8, 64])?,
        )?;
        weights.insert(
            format!("layers.{layer}.LayerNorm.weight"),
            Array::ones::<f32>(&[8])?,
        )?;
        weights.insert(
            format!("layers.{layer}.statistics"),
            Array::ones::<f32>(&[3])?,
        )?;
    }
    Ok(weights)
}

fn refused(model: &mut Model, weights: Weights, options: &LoadOptions) -> mlx_nn::LoadReport {
    match load_weights(model, weights, options) {
        Err(Error::Load(report)) => *report,
        other => panic!("expected a report, found {other:?}"),
    }
}

#[test]
fn field_names_are_checkpoint_keys() -> TestResult {
    let mut model = model(2)?;
    let report = load_weights(&mut model, weights(2)?, &LoadOptions::default())?;
    assert_eq!((report.loaded, report.quantized), (6, 0));
    let keys: Vec<String> = parameters(&model).into_keys().collect();
    assert_eq!(keys, weights(2)?.keys().collect::<Vec<_>>());
    let trainable = trainable_parameters(&model);
    assert_eq!(trainable.len(), 4);
    assert!(!trainable.contains_key("layers.0.statistics"));
    Ok(())
}

#[test]
fn all_differences_are_collected_and_sorted_and_nothing_changes() -> TestResult {
    let mut model = model(2)?;
    let mut weights = weights(2)?;
    weights.take("layers.1.LayerNorm.weight");
    weights.take("layers.0.statistics");
    weights.insert("layers.0.gate", Array::ones::<f32>(&[1])?)?;
    weights.insert("head.weight", Array::ones::<f32>(&[1])?)?;
    weights.take("layers.0.up_proj.weight");
    weights.insert("layers.0.up_proj.weight", Array::ones::<f32>(&[64, 8])?)?;
    let report = refused(&mut model, weights, &LoadOptions::default());
    assert_eq!(
        report.missing,
        ["layers.0.statistics", "layers.1.LayerNorm.weight"]
    );
    assert_eq!(report.unexpected, ["head.weight", "layers.0.gate"]);
    let misshaped: Vec<String> = report.misshaped.iter().map(ToString::to_string).collect();
    assert_eq!(
        misshaped,
        ["layers.0.up_proj.weight: expected [8, 64], found [64, 8]"]
    );
    let zeros = model.layers[1].statistics.to_vec::<f32>()?;
    assert_eq!(zeros, [0.0; 3]);
    Ok(())
}

#[test]
fn a_message_shows_twenty_keys_of_each_kind() -> TestResult {
    let mut model = model(25)?;
    let report = refused(&mut model, Weights::new(), &LoadOptions::default());
    assert_eq!(report.missing.len(), 75);
    let text = report.to_string();
    assert!(
        text.starts_with("75 missing (layers.0.LayerNorm.weight, "),
        "{text}"
    );
    assert!(text.ends_with(" and 55 more)"), "{text}");
    assert_eq!(text.matches("layers.").count(), 20);
    Ok(())
}

#[test]
fn lenient_loading_forgives_keys_but_not_shapes() -> TestResult {
    let lenient = LoadOptions::default().strict(false);
    let mut model = model(1)?;
    let mut partial = Weights::new();
    partial.insert("layers.0.statistics", Array::ones::<f32>(&[3])?)?;
    partial.insert("other", Array::ones::<f32>(&[3])?)?;
    let report = load_weights(&mut model, partial, &lenient)?;
    assert_eq!(
        (report.missing.len(), report.unexpected.len(), report.loaded),
        (2, 1, 1)
    );
    assert_eq!(model.layers[0].statistics.to_vec::<f32>()?, [1.0; 3]);
    let mut wrong = Weights::new();
    wrong.insert("layers.0.statistics", Array::ones::<f32>(&[4])?)?;
    assert_eq!(refused(&mut model, wrong, &lenient).misshaped.len(), 1);
    Ok(())
}

fn quantized_checkpoint() -> Result<Weights, Box<dyn std::error::Error>> {
    let mut source = model(1)?;
    load_weights(&mut source, weights(1)?, &LoadOptions::default())?;
    let settings = LayerQuantization {
        group_size: 32,
        ..LayerQuantization::default()
    };
    assert_eq!(
        quantize(&mut source, &Quantization::uniform(settings), |_, _| true)?,
        1
    );
    Ok(parameters(&source).into_iter().collect())
}

#[test]
fn what_the_configuration_says_of_a_layer_is_checked() -> TestResult {
    let agreed =
        r#"{"group_size": 64, "bits": 8, "layers.0.up_proj": {"group_size": 32, "bits": 4}}"#;
    let options = LoadOptions::default().quantization(serde_json::from_str(agreed)?);
    load_weights(&mut model(1)?, quantized_checkpoint()?, &options)?;

    for (text, expected) in [
        (
            r#"{"layers.0.up_proj": {"bits": 8, "group_size": 32}}"#,
            "8 bits in groups of 32 (affine)",
        ),
        (r#"{"layers.0.up_proj": false}"#, "no quantisation"),
    ] {
        let options = LoadOptions::default().quantization(serde_json::from_str(text)?);
        let report = refused(&mut model(1)?, quantized_checkpoint()?, &options);
        let found: Vec<String> = report.misshaped.iter().map(ToString::to_string).collect();
        let text = format!(
            "layers.0.up_proj.weight: expected {expected}, found 4 bits in groups of 32 (affine)"
        );
        assert_eq!(found, [text]);
        assert!(report.unexpected.is_empty());
    }
    Ok(())
}

#[test]
fn quantised_arrays_that_contradict_each_other_are_refused() -> TestResult {
    let replace = |key: &str, array: Option<Array>| -> Result<_, Box<dyn std::error::Error>> {
        let mut weights = quantized_checkpoint()?;
        let key = format!("layers.0.up_proj.{key}");
        weights.take(&key);
        if let Some(array) = array {
            weights.insert(key, array)?;
        }
        Ok(refused(&mut model(1)?, weights, &LoadOptions::default()))
    };
    assert_eq!(
        replace("biases", None)?.missing,
        ["layers.0.up_proj.biases"]
    );
    assert_eq!(
        replace("weight", None)?.missing,
        ["layers.0.up_proj.weight"]
    );
    for (key, array) in [
        ("scales", Array::ones::<f32>(&[8, 3])?),
        ("scales", Array::ones::<f32>(&[7, 2])?),
        ("scales", Array::scalar::<f32>(1.0)?),
        ("scales", Array::ones::<f32>(&[8, 0])?),
        ("scales", Array::ones::<i32>(&[8, 2])?),
        ("weight", Array::ones::<u32>(&[8, 7])?),
        ("weight", Array::ones::<f32>(&[8, 8])?),
        ("biases", Array::ones::<f32>(&[8, 1])?),
    ] {
        let report = replace(key, Some(array))?;
        assert_eq!(report.misshaped.len(), 1, "{key}: {report}");
        assert!(report.unexpected.is_empty(), "{report}");
    }
    // Lenient loading does not make half a weight either.
    let mut weights = quantized_checkpoint()?;
    weights.take("layers.0.up_proj.biases");
    let mut lenient = model(1)?;
    load_weights(&mut lenient, weights, &LoadOptions::default().strict(false))?;
    let x = Array::ones::<f32>(&[1, 64])?;
    assert!(matches!(
        lenient.layers[0].up_proj.forward(&x),
        Err(Error::NotLoaded { .. })
    ));
    // Bytes as scales mean mxfp4, which has no biases.
    let report = replace("scales", Some(Array::ones::<u8>(&[8, 2])?))?;
    assert_eq!(report.unexpected, ["layers.0.up_proj.biases"]);
    Ok(())
}

#[test]
fn a_quantised_model_saves_and_loads_again() -> TestResult {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("model.safetensors");
    let mut first = model(1)?;
    assert!(
        save_weights(&first, &path, &HashMap::new()).is_err(),
        "nothing is loaded yet"
    );
    assert!(!path.exists());
    load_weights(&mut first, quantized_checkpoint()?, &LoadOptions::default())?;
    save_weights(
        &first,
        &path,
        &HashMap::from([("format".to_owned(), "mlx".to_owned())]),
    )?;
    let mut second = model(1)?;
    let weights = Weights::load_safetensors(&path)?;
    assert_eq!(
        load_weights(&mut second, weights, &LoadOptions::default())?.quantized,
        1
    );
    let x = Array::ones::<f32>(&[1, 64])?;
    let outputs = [&first, &second].map(|model| {
        model.layers[0]
            .up_proj
            .forward(&x)?
            .to_vec::<f32>()
            .map_err(Error::from)
    });
    let [first, second] = outputs;
    assert_eq!(first?, second?);
    Ok(())
}

#[test]
fn updates_are_checked_and_casts_spare_codes() -> TestResult {
    let mut model = model(1)?;
    load_weights(&mut model, quantized_checkpoint()?, &LoadOptions::default())?;
    let array = |n: i32| Array::full::<f32>(&[n], 2.0);
    let change = |key: &str, n| Ok::<_, Error>(BTreeMap::from([(key.to_owned(), array(n)?)]));
    assert!(matches!(
        update(&mut model, change("layers.0.norm", 8)?),
        Err(Error::Weight { .. })
    ));
    assert!(update(&mut model, change("layers.0.LayerNorm.weight", 9)?).is_err());
    update(&mut model, change("layers.0.LayerNorm.weight", 8)?)?;
    assert_eq!(model.layers[0].norm.weight.to_vec::<f32>()?, [2.0; 8]);
    set_dtype(&mut model, Dtype::Bfloat16)?;
    let dtypes: Vec<Dtype> = parameters(&model).values().map(Array::dtype).collect();
    let (bf16, f32, u32) = (Dtype::Bfloat16, Dtype::Float32, Dtype::Uint32);
    // LayerNorm.weight, statistics, then biases, scales and weight of the quantised layer.
    assert_eq!(dtypes, [bf16, bf16, f32, f32, u32]);
    Ok(())
}

#[test]
fn weights_never_overwrite_each_other() -> TestResult {
    let mut weights = Weights::new();
    weights.insert("a.w", Array::ones::<f32>(&[1])?)?;
    weights.insert("b.w", Array::ones::<f32>(&[1])?)?;
    assert!(weights.insert("a.w", Array::ones::<f32>(&[1])?).is_err());
    assert!(weights.rename_prefix("a.", "b.").is_err());
    assert_eq!(weights.keys().collect::<Vec<_>>(), ["a.w", "b.w"]);
    assert!(weights.clone().merge(weights.clone()).is_err());
    weights.rename_suffix(".w", ".weight")?;
    weights.rename_prefix("", "model.")?;
    assert_eq!(
        weights.keys().collect::<Vec<_>>(),
        ["model.a.weight", "model.b.weight"]
    );
    assert_eq!(weights.drop_prefix("model.a"), 1);
    assert_eq!(weights.drop_suffix(".bias"), 0);
    assert_eq!(weights.len(), 1);
    Ok(())
}

#[test]
fn experts_are_stacked_in_every_layer() -> TestResult {
    let experts = |skip: Option<&str>| -> mlx_nn::Result<Weights> {
        let mut weights = Weights::new();
        for (layer, expert) in [(0, 0_u8), (0, 1), (0, 2), (7, 0), (7, 1), (7, 2)] {
            let key = format!("layers.{layer}.mlp.experts.{expert}.up_proj.weight");
            if skip != Some(&key) {
                weights.insert(key, Array::full::<f32>(&[2, 4], f32::from(expert))?)?;
            }
        }
        Ok(weights)
    };
    let mut weights = experts(None)?;
    weights.stack_experts("mlp.experts", "mlp.switch_mlp", 3)?;
    let keys: Vec<&str> = weights.keys().collect();
    assert_eq!(
        keys,
        [
            "layers.0.mlp.switch_mlp.up_proj.weight",
            "layers.7.mlp.switch_mlp.up_proj.weight"
        ]
    );
    let stacked = weights.get(keys[1]).ok_or("stacked")?;
    assert_eq!(stacked.shape(), [3, 2, 4]);
    assert_eq!(stacked.to_vec::<f32>()?[16], 2.0);
    weights.stack_experts("mlp.experts", "mlp.switch_mlp", 3)?;
    assert_eq!(weights.len(), 2);

    let gap = "layers.7.mlp.experts.1.up_proj.weight";
    let error = experts(Some(gap))?.stack_experts("mlp.experts", "mlp.switch_mlp", 3);
    assert!(matches!(error, Err(Error::Weight { key, .. }) if key == gap));
    assert!(
        experts(None)?
            .stack_experts("mlp.experts", "mlp.switch_mlp", 2)
            .is_err()
    );
    Ok(())
}

#[test]
fn convolution_weights_become_channels_last() -> TestResult {
    let mut weights = Weights::new();
    weights.insert("conv.weight", Array::ones::<f32>(&[8, 3, 5, 7])?)?;
    weights.insert("fc.bias", Array::ones::<f32>(&[8])?)?;
    weights.conv_to_channels_last("conv.weight")?;
    assert_eq!(
        weights.get("conv.weight").ok_or("kept")?.shape(),
        [8, 5, 7, 3]
    );
    assert!(weights.conv_to_channels_last("bias").is_err());
    Ok(())
}
