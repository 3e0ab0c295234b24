//! The `tojson` filter: `json.dumps` of Python.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::python;

/// Serialises with Python's separators; unlike Jinja's own filter it does not escape HTML.
pub(super) fn tojson(
    value: &Value,
    ensure_ascii: Option<bool>,
    kwargs: &Kwargs,
) -> Result<String, Error> {
    let indent: Option<Value> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let indent = match indent {
        Some(indent) if indent.is_none() => None,
        Some(indent) => match indent.as_str() {
            Some(text) => Some(text.to_owned()),
            None => Some(" ".repeat(usize::try_from(i64::try_from(indent)?.max(0)).unwrap_or(0))),
        },
        None => None,
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => {
            return Err(Error::new(
                ErrorKind::InvalidOperation,
                "separators must be two strings",
            ));
        }
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let mut dump = Dump {
        ensure_ascii: ensure_ascii
            .or(kwargs.get("ensure_ascii")?)
            .unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
        text: String::new(),
    };
    kwargs.assert_all_used()?;
    dump.value(value, 0)?;
    Ok(dump.text)
}

struct Dump {
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item: String,
    key: String,
    text: String,
}

impl Dump {
    fn value(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self
                .text
                .push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(value),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list(('[', ']'), items.len(), depth, |dump, index| {
                    match items.get(index) {
                        Some(item) => dump.value(item, depth + 1),
                        None => Ok(()),
                    }
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list(('{', '}'), keys.len(), depth, |dump, index| {
                    let Some(key) = keys.get(index) else {
                        return Ok(());
                    };
                    dump.map_key(key)?;
                    let separator = dump.key.clone();
                    dump.text.push_str(&separator);
                    dump.value(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("{kind} is not JSON serializable"),
                ));
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        (open, close): (char, char),
        length: usize,
        depth: usize,
        mut item: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for index in 0..length {
            if index > 0 {
                let separator = self.item.clone();
                self.text.push_str(&separator);
            }
            self.new_line(depth + 1);
            item(self, index)?;
        }
        if length > 0 {
            self.new_line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.indent {
            self.text.push('\n');
            self.text.push_str(&indent.repeat(depth));
        }
    }

    fn number(&mut self, value: &Value) {
        match python::float(value) {
            Some(number) if number.is_nan() => self.text.push_str("NaN"),
            Some(number) if number.is_infinite() => {
                self.text.push_str(if number > 0.0 {
                    "Infinity"
                } else {
                    "-Infinity"
                });
            }
            Some(number) => self.text.push_str(&python::float_repr(number)),
            None => self.text.push_str(&value.to_string()),
        }
    }

    fn map_key(&mut self, key: &Value) -> Result<(), Error> {
        match key.kind() {
            ValueKind::String => self.string(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                self.text.push('"');
                self.value(key, 0)?;
                self.text.push('"');
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("a key must be a string, not {kind}"),
                ));
            }
        }
        Ok(())
    }

    fn string(&mut self, string: &str) {
        self.text.push('"');
        for character in string.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{C}' => self.text.push_str("\\f"),
                '\0'..='\u{1F}' => self.escape(character),
                _ if self.ensure_ascii && !(' '..='~').contains(&character) => {
                    self.escape(character)
                }
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }

    fn escape(&mut self, character: char) {
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(self.text, "\\u{unit:04x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(
        json: serde_json::Value,
        kwargs: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> String {
        tojson(
            &Value::from_serialize(json),
            None,
            &kwargs.into_iter().collect(),
        )
        .unwrap()
    }

    #[test]
    fn separators_and_escapes_are_those_of_python() {
        let json = serde_json::json!({"b": [1, 1.0, 1e-7, null], "a": "<é\u{1}\"\u{7f}>", "e": [], "m": {}});
        assert_eq!(
            dump(json.clone(), []),
            "{\"b\": [1, 1.0, 1e-07, null], \"a\": \"<é\\u0001\\\"\u{7f}>\", \"e\": [], \"m\": {}}"
        );
        assert_eq!(
            dump(
                json,
                [
                    ("sort_keys", Value::from(true)),
                    ("ensure_ascii", Value::from(true))
                ]
            ),
            r#"{"a": "<\u00e9\u0001\"\u007f>", "b": [1, 1.0, 1e-07, null], "e": [], "m": {}}"#
        );
    }

    #[test]
    fn indentation_moves_the_separator() {
        let json = serde_json::json!({"a": [1, {"b": 2}], "c": []});
        assert_eq!(
            dump(json, [("indent", Value::from(2))]),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": []\n}"
        );
    }

    #[test]
    fn separators_can_be_chosen() {
        let json = serde_json::json!({"a": [1, 2]});
        let separators = Value::from(vec![",", ":"]);
        assert_eq!(dump(json, [("separators", separators)]), r#"{"a":[1,2]}"#);
    }
}
