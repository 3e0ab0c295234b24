//! The table of a model, with and without quantised weights and adapters.

use mlx_nn::{
    Embedding, LayerQuantization, Linear, Module, QuantMode, Quantization, SwitchLinear,
    adapter::{AdapterOptions, add_adapters, is_adapter_key},
    optimizer::{Optimizer, Sgd},
    parameter_count, parameters, quantize, summary,
    train::{StepOptions, TrainStep},
    trainable_parameters,
};

use crate::golden::TestResult;

#[derive(Debug, Clone, Module)]
struct Model {
    table: Embedding,
    linear: Linear,
    experts: SwitchLinear,
}

fn model(quantized: bool, adapted: bool, dora: bool) -> mlx_nn::Result<Model> {
    let mut model = Model {
        table: Embedding::new(12, 64)?,
        linear: Linear::new(64, 64, true)?,
        experts: SwitchLinear::new(64, 8, 3, true)?,
    };
    if quantized {
        let mode = LayerQuantization::new(QuantMode::Affine);
        quantize(&mut model, &Quantization::uniform(mode), |path, _| {
            path != "experts"
        })?;
    }
    if adapted {
        let options = AdapterOptions::default().rank(4).dora(dora);
        add_adapters(&mut model, options, |path| !(dora && path == "experts"))?;
    }
    Ok(model)
}

#[test]
fn the_table_agrees_with_the_counts() -> TestResult {
    for quantized in [false, true] {
        for (adapted, dora) in [(false, false), (true, false), (true, true)] {
            let model = model(quantized, adapted, dora)?;
            let table = summary(&model);
            let case = format!("quantised {quantized}, adapted {adapted}, dora {dora}\n{table}");
            assert_eq!(table.parameters(), parameter_count(&model), "{case}");
            let trainable = trainable_parameters(&model);
            let numbers: usize = trainable.values().map(|array| array.size()).sum();
            assert_eq!(table.trainable(), u64::try_from(numbers)?, "{case}");
            let rows = table.rows.iter().filter(|row| row.trainable);
            assert_eq!(rows.count(), trainable.len(), "{case}");
            let bytes: usize = parameters(&model)
                .values()
                .map(|array| array.nbytes())
                .sum();
            assert_eq!(table.bytes(), u64::try_from(bytes)?, "{case}");
            let shown = table.to_string();
            let header: Vec<&str> = shown.lines().next().unwrap_or("").split("  ").collect();
            let header: Vec<&str> = header.into_iter().filter(|cell| !cell.is_empty()).collect();
            let cells: Vec<&str> = header.iter().map(|cell| cell.trim()).collect();
            assert_eq!(cells, ["key", "shape", "storage", "parameters", "bytes"]);
        }
    }
    Ok(())
}

#[test]
fn a_step_counts_what_it_freezes() -> TestResult {
    let optimizer = Optimizer::new(Sgd::default(), 0.1)?;
    let options = StepOptions::default().compile(false);
    let model = model(true, true, false)?;
    let all = trainable_parameters(&model).len();
    let mut step = TrainStep::new(model, optimizer, options, |model, xs, _| {
        Ok(model.linear.forward(&xs[0])?.sum(false)?)
    })?;
    assert_eq!(step.freeze(|key| key == "no.such.parameter"), 0);
    let frozen = step.freeze(|key| !is_adapter_key(key));
    let trained = step.trained_parameters();
    assert_eq!((frozen, trained.len()), (all - 6, 6));
    let numbers: usize = trained.values().map(|array| array.size()).sum();
    assert_eq!(step.summary().trainable(), u64::try_from(numbers)?);
    assert_eq!(step.unfreeze(|key| key == "linear.bias"), 1);
    assert_eq!(step.unfreeze(|key| key == "linear.bias"), 0);
    assert_eq!(step.trained_parameters().len(), 7);
    Ok(())
}
