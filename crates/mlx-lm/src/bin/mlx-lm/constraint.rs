//! What an answer must look like.

use std::path::{Path, PathBuf};

use clap::Args;
use mlx_lm::Grammar;
use mlx_lm::cli::Failure;
use serde_json::Value;

use super::lines::read_text;

/// Arguments about the form of an answer, of which one may be given.
#[derive(Debug, Args)]
#[command(next_help_heading = "Form of the answer")]
#[group(multiple = false)]
pub(crate) struct ConstraintArguments {
    /// Answer with JSON that is valid by this schema, given as a file or as JSON
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// Answer with text that the whole of this regular expression matches
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
    /// Answer with text that this file's grammar, in Lark's notation, derives from `start`
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl ConstraintArguments {
    pub(crate) fn grammar(&self) -> Result<Option<Grammar>, Failure> {
        if let Some(given) = &self.json_schema {
            return schema(given).map(Some);
        }
        if let Some(pattern) = &self.regex {
            return Ok(Some(Grammar::regex(pattern.as_str())));
        }
        match &self.grammar {
            Some(path) => Ok(Some(Grammar::lark(read_text(path)?))),
            None => Ok(None),
        }
    }
}

/// A schema is an object, or `true` or `false`; anything else names a file.
fn schema(given: &str) -> Result<Grammar, Failure> {
    let inline = given.trim_start().starts_with('{') || matches!(given.trim(), "true" | "false");
    let text = match inline {
        true => given.to_owned(),
        false => read_text(Path::new(given))?,
    };
    let place = if inline { "it" } else { given };
    let bad = |what: String| {
        Failure::usage(
            format!("--json-schema: {place} {what}"),
            "give a JSON schema, or a file that holds one",
        )
    };
    let schema: Value =
        serde_json::from_str(&text).map_err(|error| bad(format!("is not JSON: {error}")))?;
    match schema {
        Value::Object(_) | Value::Bool(_) => Ok(Grammar::json_schema(schema)),
        _ => Err(bad(
            "is no schema, which is an object or a boolean".to_owned()
        )),
    }
}
