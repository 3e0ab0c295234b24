//! `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.

use serde_json::{Map, Value};

use super::json;
use super::parser::ToolCall;
use super::schema::{Schemas, Undeclared};
use super::step::{Fault, Step, Syntax, enclosed, is_name, seek};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

#[derive(Debug)]
pub(super) struct Glm(pub(super) Schemas);

impl Syntax for Glm {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN], end) {
            Err(step) => step,
            Ok(_) => enclosed(
                text,
                end,
                (OPEN, CLOSE),
                |first| first == '{' || first.is_alphanumeric() || first == '_',
                |body| self.calls(body.trim()).into(),
            ),
        }
    }
}

impl Glm {
    fn calls(&self, body: &str) -> Result<Vec<ToolCall>, Fault> {
        if body.starts_with('{') {
            return json::calls(json::parse(body)?);
        }
        let (name, mut rest) = body.split_at(body.find("<arg_key>").unwrap_or(body.len()));
        let name = name.trim();
        if !is_name(name) {
            return Err(Fault::Malformed);
        }
        let mut arguments = Map::new();
        while !rest.trim().is_empty() {
            let (key, after) = tagged(rest, "<arg_key>", "</arg_key>")?;
            let (value, after) = tagged(after, "<arg_value>", "</arg_value>")?;
            let value = self.0.read(name, key.trim(), value, Undeclared::Literal);
            arguments.insert(key.trim().to_owned(), value);
            rest = after;
        }
        Ok(vec![ToolCall::new(name, Value::Object(arguments))])
    }
}

/// What stands between two tags at the beginning of `text`, and what follows.
fn tagged<'a>(text: &'a str, open: &str, close: &str) -> Result<(&'a str, &'a str), Fault> {
    let text = text.trim_start();
    // Some models write the line end between tags as an escape.
    let text = text.strip_prefix("\\n").unwrap_or(text).trim_start();
    match text.strip_prefix(open) {
        Some(inner) => inner.split_once(close).ok_or(Fault::Incomplete),
        None if open.starts_with(text) => Err(Fault::Incomplete),
        None => Err(Fault::Malformed),
    }
}
