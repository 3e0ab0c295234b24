//! Texts in, adapters learned. A test of the crate includes this file.

use std::io::{Write, stderr};
use std::path::Path;

use mlx_core::{Array, Dtype};
use mlx_lm::{LoadedModel, cache::for_training, tokenizer::Tokenizer};
use mlx_nn::{
    KeyPath, Module, Visitor, VisitorMut,
    adapter::is_adapter_key,
    loss::{CrossEntropyOptions, Reduction, cross_entropy},
    optimizer::{Adam, Optimizer},
    train::{Dataset, Loader, LoaderOptions, Position, StepOptions, TrainStep},
};
use serde_json::Value;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A loaded model as training sees it: a tree of parameters.
pub(crate) struct Model(pub(crate) LoadedModel);

impl Module for Model {
    fn visit<'a>(&'a self, path: &KeyPath<'_>, visitor: &mut dyn Visitor<'a>) {
        self.0.model().visit(path, visitor);
    }

    fn visit_mut(
        &mut self,
        path: &KeyPath<'_>,
        visitor: &mut dyn VisitorMut,
    ) -> mlx_nn::Result<()> {
        self.0.model_mut().visit_mut(path, visitor)
    }
}

impl Model {
    /// `[B, L] → [B, L, V]` in float32.
    pub(crate) fn logits(&self, tokens: &Array) -> mlx_nn::Result<Array> {
        let model = self.0.model();
        let logits = model.forward(tokens, &mut for_training(model));
        let logits = logits.map_err(|error| mlx_core::Error::Backend(error.to_string()))?;
        Ok(logits.astype(Dtype::Float32)?)
    }
}

/// The texts of one file as tokens, each ended as an answer is.
pub(crate) struct Texts {
    rows: Vec<Vec<u32>>,
    /// Inputs of every batch, so that the step is compiled for one shape alone.
    width: usize,
}

impl Texts {
    /// Reads lines of `{"text": …}` and cuts them after `longest` tokens.
    pub(crate) fn read(path: &Path, tokenizer: &Tokenizer, longest: usize) -> Result<Self> {
        let failed = |error: &dyn std::fmt::Display| format!("read {}: {error}", path.display());
        let mut rows = Vec::new();
        let file = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
        for line in file.lines() {
            let line: Value = serde_json::from_str(line).map_err(|error| failed(&error))?;
            let text = line["text"].as_str().ok_or_else(|| failed(&"no text"))?;
            let mut row = tokenizer.encode(text, true)?;
            row.extend(tokenizer.eos_ids().first());
            row.truncate(longest);
            rows.push(row);
        }
        // The first token of a text is given, so a text of one has nothing to learn from.
        rows.retain(|row| row.len() > 1);
        let width = rows.iter().map(Vec::len).max().unwrap_or(1) - 1;
        Ok(Self { rows, width })
    }
}

impl Dataset for Texts {
    fn len(&self) -> usize {
        self.rows.len()
    }

    /// Inputs, targets, and 1 where a target is a token of the text, 0 behind its end: `[B, L]`.
    fn batch(&self, samples: &[usize], _: u64) -> mlx_nn::Result<(Vec<Array>, u64)> {
        let (mut inputs, mut targets, mut real) = (Vec::new(), Vec::new(), Vec::new());
        for row in samples.iter().filter_map(|sample| self.rows.get(*sample)) {
            let token = |place: usize| row.get(place).copied().unwrap_or(0);
            inputs.extend((0..self.width).map(token));
            targets.extend((1..=self.width).map(token));
            real.extend((1..=self.width).map(|place| f32::from(u8::from(place < row.len()))));
        }
        let units = real.iter().filter(|real| **real > 0.0).count();
        let shape = [samples.len(), self.width].map(|n| i32::try_from(n).unwrap_or(i32::MAX));
        let arrays = vec![
            Array::from_slice(&inputs, &shape)?,
            Array::from_slice(&targets, &shape)?,
            Array::from_slice(&real, &shape)?,
        ];
        Ok((arrays, u64::try_from(units).unwrap_or(u64::MAX)))
    }
}

/// The mean loss of the tokens of a batch.
fn loss(model: &Model, batch: &[Array]) -> mlx_nn::Result<Array> {
    let [inputs, targets, real] = batch else {
        return Err(mlx_core::Error::Backend("no batch of texts".to_owned()).into());
    };
    let options = CrossEntropyOptions::default().weights(real.clone());
    let sum = options.reduction(Reduction::Sum);
    Ok((cross_entropy(&model.logits(inputs)?, targets, sum)? / real.sum(false)?)?)
}

/// The mean loss over all tokens of `texts`.
pub(crate) fn evaluate(model: &Model, texts: &Texts) -> Result<f64> {
    let (mut sum, mut tokens) = (0.0, 0.0);
    for sample in 0..texts.len() {
        let (batch, units) = texts.batch(&[sample], 0)?;
        let units = f64::from(u32::try_from(units)?);
        sum += units * f64::from(loss(model, &batch)?.item::<f32>()?);
        tokens += units;
    }
    Ok(sum / tokens)
}

/// Trains the adapters of `model`, and nothing else of it.
pub(crate) fn train(
    model: Model,
    texts: Texts,
    batch: usize,
    steps: u64,
    rate: f32,
) -> Result<Model> {
    let mut batches = Loader::new(texts, LoaderOptions::new(batch), Position::default())?;
    let optimizer = Optimizer::new(Adam::default(), rate)?;
    let options = StepOptions::default().clip_norm(1.0);
    let mut step = TrainStep::new(model, optimizer, options, |model, batch, _| {
        loss(model, batch)
    })?;
    step.freeze(|key| !is_adapter_key(key));
    for number in 1..=steps {
        let loss = step.step(&batches.next_batch()?.arrays)?;
        if number % 10 == 0 {
            writeln!(stderr(), "step {number}: loss {:.4}", loss.item::<f32>()?)?;
        }
    }
    Ok(step.into_model()?)
}
