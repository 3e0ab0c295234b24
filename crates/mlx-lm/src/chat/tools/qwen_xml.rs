//! `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.

use serde_json::{Map, Value};

use super::parser::ToolCall;
use super::schema::{Schemas, Undeclared};
use super::step::{Fault, Step, Syntax, enclosed, is_name, seek};

const OPEN: &str = "<tool_call>";
const FUNCTION: &str = "<function=";
const END: &str = "</function>";
const PARAMETER: &str = "<parameter=";
const PARAMETER_END: &str = "</parameter>";

#[derive(Debug)]
pub(super) struct QwenXml(pub(super) Schemas);

impl Syntax for QwenXml {
    fn step(&mut self, text: &str, end: bool) -> Step {
        match seek(text, &[OPEN, FUNCTION], end) {
            Err(step) => step,
            Ok(0) => enclosed(
                text,
                end,
                (OPEN, "</tool_call>"),
                |first| first == '<',
                |body| self.functions(body).into(),
            ),
            // The models forget the outer tag now and then.
            Ok(_) => enclosed(
                text,
                end,
                (FUNCTION, END),
                |first| !first.is_whitespace(),
                |body| self.function(body).map(|call| vec![call]).into(),
            ),
        }
    }
}

impl QwenXml {
    /// What stands between the outer tags.
    fn functions(&self, body: &str) -> Result<Vec<ToolCall>, Fault> {
        let body = body.trim();
        let Some(inner) = body.strip_prefix(FUNCTION) else {
            return Err(match FUNCTION.starts_with(body) {
                true => Fault::Incomplete,
                false => Fault::Malformed,
            });
        };
        let inner = inner.strip_suffix(END).ok_or(Fault::Incomplete)?;
        Ok(vec![self.function(inner)?])
    }

    /// `name>` and the parameters.
    fn function(&self, text: &str) -> Result<ToolCall, Fault> {
        let (name, mut rest) = text.split_once('>').ok_or(Fault::Incomplete)?;
        let name = name.trim().trim_matches('"');
        if !is_name(name) {
            return Err(Fault::Malformed);
        }
        let mut arguments = Map::new();
        while let Some(at) = rest.find(PARAMETER) {
            let inner = rest.get(at + PARAMETER.len()..).unwrap_or_default();
            let (key, inner) = inner.split_once('>').ok_or(Fault::Incomplete)?;
            let (value, after) = value(inner).ok_or(Fault::Incomplete)?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            let value = match value {
                "null" => Value::Null,
                value => self.0.read(name, key.trim(), value, Undeclared::Text),
            };
            arguments.insert(key.trim().to_owned(), value);
            rest = after;
        }
        Ok(ToolCall::new(name, Value::Object(arguments)))
    }
}

/// A value ends where its closing tag is followed by the next parameter or by nothing.
fn value(text: &str) -> Option<(&str, &str)> {
    text.match_indices(PARAMETER_END).find_map(|(at, tag)| {
        let after = text.get(at + tag.len()..)?;
        let next = after.trim_start();
        (next.is_empty() || next.starts_with(PARAMETER)).then_some((text.get(..at)?, after))
    })
}
