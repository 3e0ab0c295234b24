//! LoRA and DoRA: what they compute, in and out, and training them alone.

use std::collections::BTreeMap;

use mlx_core::{Array, ops::random};
use mlx_nn::{
    Embedding, Error, LayerQuantization, Linear, LoadOptions, Module, QuantMode, Quantization,
    SwitchLinear, Weights,
    adapter::{
        Adapter, AdapterOptions, adapters, add_adapters, attach_adapters, fuse_adapters,
        is_adapter_key, take_adapters, with_dropout,
    },
    load_weights,
    optimizer::{Optimizer, Sgd},
    parameters, quantize,
    train::{StepOptions, TrainStep},
    trainable_parameters, value_and_grad,
};

use crate::golden::{Golden, TestResult};

#[derive(Debug, Clone, Module)]
struct Model {
    table: Embedding,
    linear: Linear,
    experts: SwitchLinear,
}

impl Model {
    fn new() -> mlx_nn::Result<Self> {
        Ok(Self {
            table: Embedding::new(12, 64)?,
            linear: Linear::new(64, 64, true)?,
            experts: SwitchLinear::new(64, 8, 3, true)?,
        })
    }

    fn forward(&self, ids: &Array) -> mlx_nn::Result<Array> {
        let x = self.linear.forward(&self.table.forward(ids)?)?;
        let chosen = Array::from_slice::<u32>(&[0, 2, 1], &[3, 1])?;
        let y = self
            .experts
            .forward(&x.reshape(&[3, 1, 1, 64])?, &chosen, false)?;
        Ok((y.sum(false)? + self.table.as_linear(&x)?.sum(false)?)?)
    }
}

fn ids() -> mlx_core::Result<Array> {
    Array::from_slice::<u32>(&[3, 0, 11], &[3])
}

/// Adapters that change something: fresh ones add zero.
fn shake(model: &mut dyn Module) -> TestResult {
    let mut changed = parameters(model);
    changed.retain(|key, _| key.ends_with("lora_b") || key.ends_with(".m"));
    for (index, array) in changed.values_mut().enumerate() {
        let key = random::key(u64::try_from(index)?)?;
        let noise = random::normal::<f32>(0.0, 0.2, array.shape(), Some(&key))?;
        *array = (&*array + noise)?;
    }
    Ok(mlx_nn::update(model, changed)?)
}

fn close(a: &Array, b: &Array, tolerance: f32) -> TestResult {
    let (a, b) = (a.to_vec::<f32>()?, b.to_vec::<f32>()?);
    let size = b.iter().fold(1e-6_f32, |size, b| size.max(b.abs()));
    let gap = a
        .iter()
        .zip(&b)
        .fold(0.0_f32, |gap, (a, b)| gap.max((a - b).abs()));
    assert!(gap <= tolerance * size, "{gap} of {size}");
    Ok(())
}

#[test]
fn adapted_layers_equal_python() -> TestResult {
    let golden = Golden::open("adapter")?;
    for case in ["lora", "dora"] {
        let mut layer =
            Linear::from_weights(golden.get(case, "weight")?, Some(golden.get(case, "bias")?))?;
        let adapter = Adapter {
            lora_a: golden.get(case, "lora_a")?,
            lora_b: golden.get(case, "lora_b")?,
            magnitude: golden.find(case, "m"),
            scale: 2.0,
            dropout: 0.0,
        };
        attach_adapters(&mut layer, [(String::new(), adapter)].into())?;
        golden.check(case, "y", &layer.forward(&golden.get(case, "x")?)?)?;
        fuse_adapters(&mut layer, false)?;
        golden.check(case, "fused", &layer.weight.to_dense("Linear")?)?;
    }
    for case in ["lora_embedding", "dora_embedding"] {
        let mut table = Embedding::from_weights(golden.get(case, "weight")?);
        let adapter = Adapter {
            lora_a: golden.get(case, "lora_a")?,
            lora_b: golden.get(case, "lora_b")?,
            magnitude: golden.find(case, "m"),
            scale: 2.0,
            dropout: 0.0,
        };
        attach_adapters(&mut table, [(String::new(), adapter)].into())?;
        golden.check(case, "y", &table.forward(&golden.get(case, "ids")?)?)?;
        golden.check(case, "logits", &table.as_linear(&golden.get(case, "x")?)?)?;
    }
    let case = "lora_switch";
    let mut layer = SwitchLinear::from_weights(golden.get(case, "weight")?, None)?;
    let adapter = Adapter {
        lora_a: golden.get(case, "lora_a")?,
        lora_b: golden.get(case, "lora_b")?,
        magnitude: None,
        scale: 2.0,
        dropout: 0.0,
    };
    attach_adapters(&mut layer, [(String::new(), adapter)].into())?;
    let y = layer.forward(
        &golden.get(case, "x")?,
        &golden.get(case, "indices")?,
        false,
    )?;
    golden.check(case, "y", &y)
}

/// An adapter of traced arrays: the factors, and the lengths for DoRA.
fn traced(parts: &[Array]) -> BTreeMap<String, Adapter> {
    let adapter = Adapter {
        lora_a: parts[0].clone(),
        lora_b: parts[1].clone(),
        magnitude: parts.get(2).cloned(),
        scale: 2.0,
        dropout: 0.0,
    };
    [(String::new(), adapter)].into()
}

#[test]
fn gradients_of_adapters_equal_python() -> TestResult {
    let golden = Golden::open("adapter")?;
    for (kind, parts) in [
        ("lora", &["lora_a", "lora_b"][..]),
        ("dora", &["lora_a", "lora_b", "m"]),
    ] {
        let inputs = [&["x"], parts].concat();
        let case = format!("{kind}.gradient");
        let layer = Linear::from_weights(golden.get(&case, "weight")?, None)?;
        golden.check_function(&case, &inputs, move |xs| {
            let mut layer = layer.clone();
            attach_adapters(&mut layer, traced(&xs[1..]))?;
            layer.forward(&xs[0])
        })?;
        let case = format!("{kind}_embedding.logits.gradient");
        let table = Embedding::from_weights(golden.get(&case, "weight")?);
        golden.check_function(&case, &inputs, move |xs| {
            let mut table = table.clone();
            attach_adapters(&mut table, traced(&xs[1..]))?;
            table.as_linear(&xs[0])
        })?;
        let case = format!("{kind}_embedding.rows.gradient");
        let table = Embedding::from_weights(golden.get(&case, "weight")?);
        let ids = golden.get(&case, "ids")?;
        golden.check_function(&case, parts, move |xs| {
            let mut table = table.clone();
            attach_adapters(&mut table, traced(xs))?;
            table.forward(&ids)
        })?;
    }
    Ok(())
}

#[test]
fn adapters_drop_what_python_drops() -> TestResult {
    let golden = Golden::open("adapter")?;
    let of = |case: &str| -> Result<Adapter, String> {
        Ok(Adapter {
            lora_a: golden.get(case, "lora_a")?,
            lora_b: golden.get(case, "lora_b")?,
            magnitude: golden.find(case, "m"),
            scale: 2.0,
            dropout: 0.4,
        })
    };
    for case in ["lora.dropout", "dora.dropout"] {
        let mut layer =
            Linear::from_weights(golden.get(case, "weight")?, Some(golden.get(case, "bias")?))?;
        attach_adapters(&mut layer, [(String::new(), of(case)?)].into())?;
        let x = golden.get(case, "x")?;
        let (first, second) = with_dropout(&random::key(5)?, || {
            Ok::<_, Error>((layer.forward(&x)?, layer.forward(&x)?))
        })?;
        golden.check(case, "first", &first)?;
        golden.check(case, "second", &second)?;
        // Outside the scope nothing is dropped, also after a panic inside.
        let calm = layer.forward(&x)?.to_vec::<f32>()?;
        let panicked = std::panic::catch_unwind(|| {
            with_dropout(&random::key(5).unwrap(), || -> Result<(), Error> {
                panic!("inside")
            })
        });
        assert!(panicked.is_err());
        assert_eq!(layer.forward(&x)?.to_vec::<f32>()?, calm);
        assert_ne!(first.to_vec::<f32>()?, calm);
    }
    for case in ["lora_embedding.dropout", "dora_embedding.dropout"] {
        let mut table = Embedding::from_weights(golden.get(case, "weight")?);
        attach_adapters(&mut table, [(String::new(), of(case)?)].into())?;
        let (ids, x) = (golden.get(case, "ids")?, golden.get(case, "x")?);
        let (first, second) = with_dropout(&random::key(5)?, || {
            Ok::<_, Error>((table.forward(&ids)?, table.as_linear(&x)?))
        })?;
        golden.check(case, "first", &first)?;
        golden.check(case, "second", &second)?;
    }

    let mut layer = Linear::new(4, 4, false)?;
    let options = AdapterOptions::default().dropout(1.0);
    assert!(add_adapters(&mut layer, options, |_| true).is_err());
    Ok(())
}

#[test]
fn dropout_of_adapters_works_in_a_compiled_step() -> TestResult {
    let mut layer = Linear::new(8, 8, false)?;
    let options = AdapterOptions::default().rank(2).dropout(0.5);
    add_adapters(&mut layer, options, |_| true)?;
    shake(&mut layer)?;
    let optimizer = Optimizer::new(Sgd::default(), 0.0)?;
    let mut step = TrainStep::new(
        layer,
        optimizer,
        StepOptions::default(),
        |layer, xs, key| with_dropout(key, || Ok(layer.forward(&xs[0])?.square()?.sum(false)?)),
    )?;
    step.freeze(|key| !is_adapter_key(key));
    let batch = [Array::ones::<f32>(&[2, 8])?];
    let losses = (0..4).map(|_| Ok(step.step(&batch)?.item::<f32>()?));
    let losses = losses.collect::<Result<Vec<f32>, Error>>()?;
    // The rate is zero, so that only the keys differ.
    assert!(
        losses.windows(2).any(|pair| pair[0] != pair[1]),
        "{losses:?}"
    );
    Ok(())
}

#[test]
fn only_adapters_train_and_fusing_keeps_the_output() -> TestResult {
    for (quantized, dora) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut model = Model::new()?;
        if quantized {
            let mode = LayerQuantization::new(QuantMode::Affine);
            quantize(&mut model, &Quantization::uniform(mode), |_, _| true)?;
        }
        let plain = model.forward(&ids()?)?;
        let options = AdapterOptions::default().rank(4).scale(2.0).dora(dora);
        let count = add_adapters(&mut model, options, |path| !(dora && path == "experts"))?;
        assert_eq!(count, if dora { 2 } else { 3 });
        close(&model.forward(&ids()?)?, &plain, 1e-5)?;

        let trained: Vec<String> = trainable_parameters(&model).into_keys().collect();
        let others: Vec<&String> = trained.iter().filter(|key| !is_adapter_key(key)).collect();
        let mut expected = vec!["experts.bias", "linear.bias"];
        if dora && !quantized {
            expected.insert(1, "experts.weight");
        }
        assert_eq!(others, expected);
        let (_, gradients) = value_and_grad(&mut model, &[ids()?], |m, xs| m.forward(&xs[0]))?;
        assert!(gradients.contains_key("linear.lora_b"));

        shake(&mut model)?;
        let adapted = model.forward(&ids()?)?;
        assert_ne!(adapted.to_vec::<f32>()?, plain.to_vec::<f32>()?);
        let mut fused = model.clone();
        assert_eq!(fuse_adapters(&mut fused, true)?, count);
        close(&fused.forward(&ids()?)?, &adapted, 1e-4)?;
        assert_eq!(adapters(&fused).len(), 0);

        let taken = take_adapters(&mut model)?;
        close(&model.forward(&ids()?)?, &plain, 0.0)?;
        attach_adapters(&mut model, taken)?;
        close(&model.forward(&ids()?)?, &adapted, 0.0)?;
    }
    Ok(())
}

#[test]
fn adapted_models_save_and_load_strictly() -> TestResult {
    let mut model = Model::new()?;
    add_adapters(&mut model, AdapterOptions::default(), |_| true)?;
    shake(&mut model)?;
    let expected = model.forward(&ids()?)?;
    let weights: Weights = parameters(&model).into_iter().collect();
    let mut other = Model::new()?;
    add_adapters(&mut other, AdapterOptions::default(), |_| true)?;
    load_weights(&mut other, weights, &LoadOptions::default())?;
    close(&other.forward(&ids()?)?, &expected, 0.0)
}

#[test]
fn what_takes_no_adapter_says_so() -> TestResult {
    let mut model = Model::new()?;
    let options = AdapterOptions::default();
    assert!(add_adapters(&mut model, options.rank(0), |_| true).is_err());
    assert!(matches!(
        add_adapters(&mut model, options.dora(true), |path| path == "experts"),
        Err(Error::InvalidArgument { .. })
    ));
    assert_eq!(
        add_adapters(&mut model, options, |path| path == "linear")?,
        1
    );
    assert!(matches!(
        add_adapters(&mut model, options, |path| path == "linear"),
        Err(Error::Weight { .. })
    ));
    let foreign = take_adapters(&mut model)?;
    let renamed = foreign
        .into_values()
        .map(|adapter| ("nowhere".to_owned(), adapter));
    assert!(attach_adapters(&mut model, renamed.collect()).is_err());
    let mut unloaded = Linear::placeholder(4, 4, false)?;
    assert!(add_adapters(&mut unloaded, options, |_| true).is_err());
    Ok(())
}
