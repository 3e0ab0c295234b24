//! Values that a format writes without quotes, read as a tool's schema says.

use serde_json::{Map, Number, Value};

use super::json;
use super::literal;

/// The parameters of the tools that a model was offered.
#[derive(Debug, Clone, Default)]
pub(super) struct Schemas(Map<String, Value>);

/// What a value is that no schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undeclared {
    /// Text.
    Text,
    /// JSON or a Python literal, where it reads as such.
    Literal,
}

impl Schemas {
    pub(super) fn new(tools: &[Value]) -> Self {
        let named = tools.iter().filter_map(|tool| {
            let function = tool.get("function").unwrap_or(tool);
            let name = function.get("name")?.as_str()?;
            let parameters = function.get("parameters").or(function.get("input_schema"));
            Some((name.to_owned(), parameters.cloned().unwrap_or_default()))
        });
        Self(named.collect())
    }

    /// Reads the text of one argument.
    pub(super) fn read(&self, tool: &str, key: &str, text: &str, undeclared: Undeclared) -> Value {
        let declared = self
            .0
            .get(tool)
            .and_then(|parameters| parameters.get("properties")?.get(key));
        let mut types = Vec::new();
        if let Some(schema) = declared {
            collect(schema, &mut types, 0);
        }
        if types.is_empty() {
            return match undeclared {
                Undeclared::Text => Value::from(text),
                Undeclared::Literal => any(text).unwrap_or_else(|| Value::from(text)),
            };
        }
        // The most particular type that fits wins; text always fits.
        let order = ["null", "integer", "number", "boolean", "object", "array"];
        order
            .iter()
            .filter(|kind| types.iter().any(|declared| declared == *kind))
            .find_map(|kind| of_type(kind, text.trim()))
            .unwrap_or_else(|| Value::from(text))
    }
}

/// The types that a schema allows, under their JSON names.
fn collect(schema: &Value, types: &mut Vec<String>, depth: usize) {
    let mut add = |name: &str| {
        let name = match name.to_lowercase().as_str() {
            "int" | "long" | "int32" | "int64" | "uint" => "integer",
            "float" | "double" => "number",
            "bool" => "boolean",
            "dict" => "object",
            "list" | "arr" => "array",
            other => return types.push(other.to_owned()),
        };
        types.push(name.to_owned());
    };
    match schema.get("type") {
        Some(Value::String(name)) => add(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).for_each(add),
        _ => {}
    }
    for value in schema
        .get("enum")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        types.push(kind.to_owned());
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        let choices = schema.get(key).and_then(Value::as_array);
        for choice in choices.into_iter().flatten().filter(|_| depth < 16) {
            collect(choice, types, depth + 1);
        }
    }
}

fn of_type(kind: &str, text: &str) -> Option<Value> {
    match kind {
        "null" => matches!(text, "null" | "None" | "none").then_some(Value::Null),
        "integer" => match text.parse::<i64>() {
            Ok(number) => Some(Value::from(number)),
            // `5.0` is how some models write 5.
            Err(_) => {
                let whole = text.strip_suffix(".0")?;
                whole.parse::<i64>().ok().map(Value::from)
            }
        },
        "number" => match text.parse::<i64>() {
            Ok(number) => Some(Value::from(number)),
            Err(_) => Number::from_f64(text.parse().ok()?).map(Value::Number),
        },
        "boolean" => match text.to_lowercase().as_str() {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            _ => None,
        },
        "object" => any(text).filter(Value::is_object),
        "array" => any(text).filter(Value::is_array),
        _ => None,
    }
}

fn any(text: &str) -> Option<Value> {
    json::parse(text.trim())
        .ok()
        .or_else(|| literal::value(text.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_schema_decides_what_a_value_is() {
        let schemas = Schemas::new(&[
            json!({"type": "function", "function": {"name": "f", "parameters": {
            "properties": {
                "s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": ["number", "null"]},
                "b": {"type": "boolean"}, "o": {"anyOf": [{"type": "object"}, {"type": "array"}]}, "e": {"enum": [1, 2]}
            }}}}),
        ]);
        for (key, text, expected) in [
            ("s", "5", json!("5")),
            ("i", "5", json!(5)),
            ("i", "5.0", json!(5)),
            ("i", "five", json!("five")),
            ("n", "2.5", json!(2.5)),
            ("n", "null", json!(null)),
            ("b", "True", json!(true)),
            ("o", "{'a': [1]}", json!({"a": [1]})),
            ("o", "[1, 2]", json!([1, 2])),
            ("e", "2", json!(2)),
            ("x", "[1]", json!("[1]")),
        ] {
            assert_eq!(
                schemas.read("f", key, text, Undeclared::Text),
                expected,
                "{key} {text}"
            );
        }
        let literal = schemas.read("g", "x", "[1]", Undeclared::Literal);
        assert_eq!(literal, json!([1]));
    }
}
