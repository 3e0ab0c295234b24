//! JSON as models write it.

use serde_json::{Map, Value};

use super::parser::ToolCall;
use super::step::{Fault, is_name};

/// The length of the object or list that `text` begins with, or `None` if it does not end.
pub(super) fn extent(text: &str) -> Option<usize> {
    let (mut depth, mut inside, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' => inside = !inside,
            _ if inside => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// Parses JSON; line ends and tabs inside of strings, which it forbids, are taken as they are.
pub(super) fn parse(text: &str) -> Result<Value, Fault> {
    let mut escaped = String::with_capacity(text.len());
    let (mut inside, mut after_backslash) = (false, false);
    for character in text.chars() {
        let plain = !after_backslash;
        after_backslash = inside && plain && character == '\\';
        if character == '"' && plain {
            inside = !inside;
        }
        match character {
            '\n' if inside => escaped.push_str("\\n"),
            '\r' if inside => escaped.push_str("\\r"),
            '\t' if inside => escaped.push_str("\\t"),
            _ => escaped.push(character),
        }
    }
    serde_json::from_str(&escaped).map_err(|error| match error.is_eof() {
        true => Fault::Incomplete,
        false => Fault::Malformed,
    })
}

/// The calls that a value describes: one object, or a list of them.
pub(super) fn calls(value: Value) -> Result<Vec<ToolCall>, Fault> {
    match value {
        Value::Array(list) => list.into_iter().map(call).collect(),
        value => Ok(vec![call(value)?]),
    }
}

/// `{"name": …, "arguments": …}` under the names that models use.
pub(super) fn call(value: Value) -> Result<ToolCall, Fault> {
    let Value::Object(mut map) = value else {
        return Err(Fault::Malformed);
    };
    let id = match map.remove("id") {
        Some(Value::String(id)) => Some(id),
        _ => None,
    };
    if let Some(Value::Object(function)) = map.get("function") {
        map = function.clone();
    }
    let name = ["name", "function"]
        .iter()
        .find_map(|key| map.get(*key)?.as_str());
    let name = name
        .filter(|name| is_name(name))
        .ok_or(Fault::Malformed)?
        .to_owned();
    let given = map.remove("arguments").or_else(|| map.remove("parameters"));
    let arguments = arguments(given)?;
    Ok(ToolCall {
        id,
        ..ToolCall::new(name, arguments)
    })
}

/// Arguments as an object; some models write the object as a string.
pub(super) fn arguments(given: Option<Value>) -> Result<Value, Fault> {
    match given {
        None | Some(Value::Null) => Ok(Value::Object(Map::new())),
        Some(Value::Object(map)) => Ok(Value::Object(map)),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Some(Value::String(text)) => match parse(&text) {
            Ok(Value::Object(map)) => Ok(Value::Object(map)),
            _ => Err(Fault::Malformed),
        },
        Some(_) => Err(Fault::Malformed),
    }
}
