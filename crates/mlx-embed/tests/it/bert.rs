//! The encoder against the same arithmetic written out in loops.

use std::collections::HashMap;

use mlx_core::Array;
use mlx_embed::TokenBatch;
use serde_json::json;

use crate::support::{Folder, HIDDEN, Outcome, config};

/// One vector for each token.
type Rows = Vec<Vec<f64>>;

/// A BERT without batches: weights by checkpoint key, ReLU, two heads.
struct Reference(HashMap<String, (Vec<i32>, Vec<f64>)>);

impl Reference {
    fn new(weights: &HashMap<String, Array>) -> mlx_core::Result<Self> {
        let widen = |(key, array): (&String, &Array)| {
            let values = array.to_vec::<f32>()?.into_iter().map(f64::from).collect();
            Ok((key.clone(), (array.shape().to_vec(), values)))
        };
        Ok(Self(
            weights.iter().map(widen).collect::<mlx_core::Result<_>>()?,
        ))
    }

    fn row(&self, table: &str, row: usize) -> &[f64] {
        let (shape, values) = &self.0[&format!("embeddings.{table}_embeddings.weight")];
        let columns = usize::try_from(shape[1]).unwrap_or(0);
        &values[row * columns..(row + 1) * columns]
    }

    fn dense(&self, key: &str, x: &Rows) -> Rows {
        let (shape, weight) = &self.0[&format!("{key}.weight")];
        let columns = usize::try_from(shape[1]).unwrap_or(0);
        let bias = &self.0[&format!("{key}.bias")].1;
        let outputs = |x: &Vec<f64>| {
            weight
                .chunks(columns)
                .zip(bias)
                .map(|(row, bias)| dot(row, x) + bias)
                .collect()
        };
        x.iter().map(outputs).collect()
    }

    fn norm(&self, key: &str, x: &Rows) -> Rows {
        let (weight, bias) = (
            &self.0[&format!("{key}.LayerNorm.weight")].1,
            &self.0[&format!("{key}.LayerNorm.bias")].1,
        );
        let normalise = |x: &Vec<f64>| {
            let count = x.len() as f64;
            let mean = x.iter().sum::<f64>() / count;
            let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
            let scaled = x.iter().map(|x| (x - mean) / (variance + 1e-12).sqrt());
            scaled
                .zip(weight)
                .zip(bias)
                .map(|((x, weight), bias)| x * weight + bias)
                .collect()
        };
        x.iter().map(normalise).collect()
    }

    fn attention(&self, layer: &str, x: &Rows) -> Rows {
        let project = |part: &str| self.dense(&format!("{layer}.attention.self.{part}"), x);
        let (queries, keys, values) = (project("query"), project("key"), project("value"));
        let mut output = vec![Vec::new(); x.len()];
        for head in [0..4, 4..8] {
            for (query, output) in queries.iter().zip(&mut output) {
                let score =
                    |key: &Vec<f64>| (dot(&query[head.clone()], &key[head.clone()]) / 2.0).exp();
                let scores: Vec<f64> = keys.iter().map(score).collect();
                let total: f64 = scores.iter().sum();
                for feature in head.clone() {
                    let sum: f64 = scores
                        .iter()
                        .zip(&values)
                        .map(|(s, value)| s * value[feature])
                        .sum();
                    output.push(sum / total);
                }
            }
        }
        output
    }

    fn forward(&self, ids: &[usize]) -> Rows {
        let embed = |(position, &id): (usize, &usize)| {
            let (word, position) = (self.row("word", id), self.row("position", position));
            let both = word.iter().zip(position).map(|(a, b)| a + b);
            both.zip(self.row("token_type", 0))
                .map(|(a, b)| a + b)
                .collect()
        };
        let mut x = self.norm("embeddings", &ids.iter().enumerate().map(embed).collect());
        for layer in ["encoder.layer.0", "encoder.layer.1"] {
            let attended = self.attention(layer, &x);
            let attended = self.dense(&format!("{layer}.attention.output.dense"), &attended);
            x = self.norm(&format!("{layer}.attention.output"), &add(&attended, &x));
            let mut hidden = self.dense(&format!("{layer}.intermediate.dense"), &x);
            hidden.iter_mut().flatten().for_each(|x| *x = x.max(0.0));
            let output = self.dense(&format!("{layer}.output.dense"), &hidden);
            x = self.norm(&format!("{layer}.output"), &add(&output, &x));
        }
        x
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(a: &Rows, b: &Rows) -> Rows {
    let sum = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.iter().zip(b).map(sum).collect()
}

#[test]
fn the_encoder_computes_what_the_paper_says() -> Outcome {
    let folder = Folder::new()?;
    let mut relu = config();
    relu["hidden_act"] = json!("relu");
    folder.write("config.json", &relu)?;
    let model = folder.load()?;
    let reference = Reference::new(&folder.weights)?;
    let texts: [&[u32]; 3] = [&[2, 4, 5, 6, 7, 8, 3], &[2, 3], &[2, 14, 9, 3]];
    let hidden = model.encoder().forward(&TokenBatch::new(&texts, 0)?)?;
    assert_eq!(hidden.shape(), [3, 7, HIDDEN]);
    let hidden = hidden.to_vec::<f32>()?;
    for (ids, hidden) in texts.iter().zip(hidden.chunks(7 * 8)) {
        let ids: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        for (x, expected) in hidden.iter().zip(reference.forward(&ids).concat()) {
            assert!(
                (f64::from(*x) - expected).abs() < 1e-4,
                "{x} {expected} {ids:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn tokens_beyond_the_model_are_errors() -> Outcome {
    let model = Folder::new()?.load()?;
    let long = [2_u32; 17];
    for (rows, part) in [
        (&long[..], "17 tokens, but there are 16 positions"),
        (&[2, 32], ""),
    ] {
        let error = model.encoder().forward(&TokenBatch::new(&[rows], 0)?).err();
        let message = error.map(|error| error.to_string());
        assert!(
            message
                .as_ref()
                .is_some_and(|message| message.contains(part)),
            "{message:?}"
        );
    }
    Ok(())
}
