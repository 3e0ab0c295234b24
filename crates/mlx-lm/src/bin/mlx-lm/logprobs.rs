//! How likely each token was.

use mlx_lm::cli::Failure;
use mlx_lm::{LoadedModel, Segment};
use serde_json::{Value, json};

/// A token, how likely it was, and what else was likely.
pub(crate) fn record(model: &LoadedModel, segment: &Segment) -> Result<Value, Failure> {
    let mut record = entry(model, segment.token, segment.logprob)?;
    let top: Result<Vec<Value>, Failure> = segment
        .top_logprobs
        .iter()
        .map(|&(token, logprob)| entry(model, token, Some(logprob)))
        .collect();
    if let (Some(map), top) = (record.as_object_mut(), top?)
        && !top.is_empty()
    {
        map.insert("top_logprobs".to_owned(), Value::Array(top));
    }
    Ok(record)
}

fn entry(model: &LoadedModel, token: u32, logprob: Option<f32>) -> Result<Value, Failure> {
    let text = model.tokenizer().decode(&[token], false)?;
    // JSON knows no infinity: what cannot come has none.
    let logprob = logprob.filter(|logprob| logprob.is_finite());
    Ok(json!({ "token": text, "id": token, "logprob": logprob }))
}

/// A line for each token, with its alternatives behind it.
pub(crate) fn table(model: &LoadedModel, segments: &[Segment]) -> Result<String, Failure> {
    let mut text = format!("{:<20} {:>9}\n", "token", "logprob");
    for segment in segments {
        let shown = |token: u32| -> Result<String, Failure> {
            Ok(format!("{:?}", model.tokenizer().decode(&[token], false)?))
        };
        let logprob = segment.logprob.unwrap_or(f32::NAN);
        text.push_str(&format!("{:<20} {logprob:>9.4}", shown(segment.token)?));
        for &(token, logprob) in &segment.top_logprobs {
            text.push_str(&format!("  {} {logprob:.4}", shown(token)?));
        }
        text.push('\n');
    }
    Ok(text)
}
