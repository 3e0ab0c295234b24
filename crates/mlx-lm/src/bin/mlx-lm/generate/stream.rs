//! An answer on its way out.

use mlx_lm::cli::{Failure, write_out};
use mlx_lm::{Error, Generation, LoadedModel, Segment};
use serde_json::json;

use super::Arguments;
use crate::logprobs;

/// All that came of a prompt.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) segments: Vec<Segment>,
    /// Whether Ctrl-C ended it.
    pub(super) interrupted: bool,
}

impl Answer {
    pub(super) fn tokens(&self) -> Vec<u32> {
        self.segments.iter().map(|segment| segment.token).collect()
    }
}

/// Writes an answer as it comes, unless it is wanted whole, and returns all of it.
pub(super) fn stream(
    arguments: &Arguments,
    model: &LoadedModel,
    generation: &mut Generation<'_>,
) -> Result<Answer, Failure> {
    let mut answer = Answer::default();
    let plain = !arguments.json && !arguments.json_lines;
    for segment in generation {
        let segment = match segment {
            Ok(segment) => segment,
            Err(Error::Cancelled) if !answer.segments.is_empty() => {
                answer.interrupted = true;
                break;
            }
            Err(error) => return Err(error.into()),
        };
        if plain && !segment.text.is_empty() {
            write_out(&segment.text)?;
        }
        if arguments.json_lines {
            let mut record = json!({ "text": segment.text, "token": segment.token });
            if let (Some(map), Some(_)) = (record.as_object_mut(), arguments.logprobs) {
                map.insert("logprobs".to_owned(), logprobs::record(model, &segment)?);
            }
            write_out(&format!("{record}\n"))?;
        }
        answer.text.push_str(&segment.text);
        answer.segments.push(segment);
    }
    if plain {
        write_out("\n")?;
    }
    Ok(answer)
}
