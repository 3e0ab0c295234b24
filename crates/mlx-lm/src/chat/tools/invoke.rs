//! `<invoke name="tool"><parameter name="key">value</parameter></invoke>`, which two formats share.

use serde_json::{Map, Value};

use super::json;
use super::parser::ToolCall;
use super::schema::{Schemas, Undeclared};
use super::step::{Fault, is_name};

/// Every call of a section; `prefix` stands before the name of each tag.
pub(super) fn calls(body: &str, prefix: &str, schemas: &Schemas) -> Result<Vec<ToolCall>, Fault> {
    let (open, close) = (format!("<{prefix}invoke"), format!("</{prefix}invoke>"));
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (attributes, inner) = tag(rest, &open)?;
        let name = attribute(attributes, "name").ok_or(Fault::Malformed)?;
        if !is_name(name) {
            return Err(Fault::Malformed);
        }
        let (inner, after) = inner.split_once(close.as_str()).ok_or(Fault::Incomplete)?;
        calls.push(ToolCall::new(
            name,
            parameters(inner, prefix, name, schemas)?,
        ));
        rest = after.trim_start();
    }
    if calls.is_empty() {
        return Err(Fault::Incomplete);
    }
    Ok(calls)
}

fn parameters(body: &str, prefix: &str, tool: &str, schemas: &Schemas) -> Result<Value, Fault> {
    let (open, close) = (
        format!("<{prefix}parameter"),
        format!("</{prefix}parameter>"),
    );
    let mut arguments = Map::new();
    let mut rest = body.trim_start();
    while !rest.is_empty() {
        let (attributes, inner) = tag(rest, &open)?;
        let key = attribute(attributes, "name").ok_or(Fault::Malformed)?;
        let (text, after) = inner.split_once(close.as_str()).ok_or(Fault::Incomplete)?;
        let value = match attribute(attributes, "string") {
            Some("true") => Value::from(text),
            Some(_) => json::parse(text.trim()).unwrap_or_else(|_| Value::from(text)),
            None => {
                let text = text.strip_prefix('\n').unwrap_or(text);
                let text = text.strip_suffix('\n').unwrap_or(text);
                schemas.read(tool, key, text, Undeclared::Text)
            }
        };
        arguments.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(Value::Object(arguments))
}

/// The attributes of the tag at the beginning, and what follows it.
fn tag<'a>(text: &'a str, open: &str) -> Result<(&'a str, &'a str), Fault> {
    match text.strip_prefix(open) {
        Some(inner) => inner.split_once('>').ok_or(Fault::Incomplete),
        None if open.starts_with(text) => Err(Fault::Incomplete),
        None => Err(Fault::Malformed),
    }
}

fn attribute<'a>(attributes: &'a str, name: &str) -> Option<&'a str> {
    let at = attributes.find(&format!(" {name}="))?;
    let value = attributes.get(at + name.len() + 2..)?;
    match value.chars().next()? {
        quote @ ('"' | '\'') => value.get(1..)?.split(quote).next(),
        _ => value.split_whitespace().next(),
    }
}
