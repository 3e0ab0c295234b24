//! Calls and literals in Python's notation.

use serde_json::{Map, Number, Value};

use super::parser::ToolCall;
use super::step::Fault;

/// Deeper nesting is refused: no call needs it, and the stack is finite.
const DEEPEST: usize = 64;

/// One value that is all of `text`.
pub(super) fn value(text: &str) -> Option<Value> {
    let mut reader = Reader::new(text);
    let value = reader.value(0).ok()?;
    reader.blanks();
    reader.rest().is_empty().then_some(value)
}

/// `name(key=value, …)` at the beginning of `text`, and its length.
pub(super) fn call(text: &str) -> Result<(usize, ToolCall), Fault> {
    let mut reader = Reader::new(text);
    let call = reader.call()?;
    Ok((reader.at, call))
}

/// `[call, call]` or a single call at the beginning of `text`, and its length.
pub(super) fn calls(text: &str) -> Result<(usize, Vec<ToolCall>), Fault> {
    let mut reader = Reader::new(text);
    if !reader.take('[')? {
        let call = reader.call()?;
        return Ok((reader.at, vec![call]));
    }
    let mut calls = Vec::new();
    while !reader.take(']')? {
        if !calls.is_empty() && !reader.take(',')? {
            return Err(Fault::Malformed);
        }
        calls.push(reader.call()?);
    }
    Ok((reader.at, calls))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// The next character that is no blank.
    fn peek(&mut self) -> Result<char, Fault> {
        self.blanks();
        self.rest().chars().next().ok_or(Fault::Incomplete)
    }

    fn take(&mut self, wanted: char) -> Result<bool, Fault> {
        let found = self.peek()? == wanted;
        if found {
            self.at += wanted.len_utf8();
        }
        Ok(found)
    }

    /// A run of such characters, which must be followed by another.
    fn run(&mut self, wanted: impl Fn(char) -> bool) -> Result<&'a str, Fault> {
        self.blanks();
        let rest = self.rest();
        let length = rest.find(|c| !wanted(c)).ok_or(Fault::Incomplete)?;
        self.at += length;
        match rest.get(..length) {
            Some(word) if !word.is_empty() => Ok(word),
            _ => Err(Fault::Malformed),
        }
    }

    fn call(&mut self) -> Result<ToolCall, Fault> {
        let name = self.run(|c| c.is_alphanumeric() || matches!(c, '_' | '.'))?;
        if !self.take('(')? {
            return Err(Fault::Malformed);
        }
        let mut arguments = Map::new();
        while !self.take(')')? {
            if !arguments.is_empty() && !self.take(',')? {
                return Err(Fault::Malformed);
            }
            let key = self.run(|c| c.is_alphanumeric() || c == '_')?;
            if !self.take('=')? {
                return Err(Fault::Malformed);
            }
            let value = self.value(0)?;
            arguments.insert(key.to_owned(), value);
        }
        Ok(ToolCall::new(name, Value::Object(arguments)))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > DEEPEST {
            return Err(Fault::Malformed);
        }
        match self.peek()? {
            '"' | '\'' => self.string().map(Value::String),
            '[' => self.list(']', depth),
            '(' => self.list(')', depth),
            '{' => self.mapping(depth),
            c if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ => self.word(),
        }
    }

    fn list(&mut self, close: char, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take(close)? {
            if !items.is_empty() {
                if !self.take(',')? {
                    return Err(Fault::Malformed);
                }
                if self.take(close)? {
                    break;
                }
            }
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Fault> {
        self.at += 1;
        let mut map = Map::new();
        while !self.take('}')? {
            if !map.is_empty() {
                if !self.take(',')? {
                    return Err(Fault::Malformed);
                }
                if self.take('}')? {
                    break;
                }
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                key @ (Value::Number(_) | Value::Bool(_) | Value::Null) => key.to_string(),
                _ => return Err(Fault::Malformed),
            };
            if !self.take(':')? {
                return Err(Fault::Malformed);
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }

    fn word(&mut self) -> Result<Value, Fault> {
        let rest = self.rest();
        let word = rest
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or_default();
        let value = match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            _ if word.len() == rest.len() => return Err(Fault::Incomplete),
            _ => return Err(Fault::Malformed),
        };
        self.at += word.len();
        Ok(value)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E' | '_')))
            .unwrap_or(rest.len());
        let digits = rest.get(..length).unwrap_or_default().replace('_', "");
        let digits = digits.strip_prefix('+').unwrap_or(&digits);
        let number = digits.parse::<i64>().map(Number::from).ok().or_else(|| {
            let float: f64 = digits.parse().ok()?;
            Number::from_f64(float)
        });
        match number {
            Some(number) => {
                self.at += length;
                Ok(Value::Number(number))
            }
            None if length == rest.len() => Err(Fault::Incomplete),
            None => Err(Fault::Malformed),
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let rest = self.rest();
        let quote = rest.get(..1).unwrap_or_default();
        let triple = quote.repeat(3);
        if rest.len() < 3 && triple.starts_with(rest) {
            return Err(Fault::Incomplete);
        }
        let quote = if rest.starts_with(&triple) {
            triple.as_str()
        } else {
            quote
        };
        let body = rest.get(quote.len()..).unwrap_or_default();
        let mut string = String::new();
        let mut characters = body.char_indices();
        while let Some((at, character)) = characters.next() {
            if body.get(at..).is_some_and(|rest| rest.starts_with(quote)) {
                self.at += quote.len() * 2 + at;
                return Ok(string);
            }
            if character != '\\' {
                string.push(character);
                continue;
            }
            let (_, escape) = characters.next().ok_or(Fault::Incomplete)?;
            let digits = match escape {
                'n' => {
                    string.push('\n');
                    continue;
                }
                't' => {
                    string.push('\t');
                    continue;
                }
                'r' => {
                    string.push('\r');
                    continue;
                }
                '\\' | '\'' | '"' => {
                    string.push(escape);
                    continue;
                }
                '\n' => continue,
                'x' => 2,
                'u' => 4,
                'U' => 8,
                // Python keeps the backslash of an escape that it does not know.
                other => {
                    string.extend(['\\', other]);
                    continue;
                }
            };
            let mut code = 0_u32;
            for _ in 0..digits {
                let (_, digit) = characters.next().ok_or(Fault::Incomplete)?;
                let digit = digit.to_digit(16).ok_or(Fault::Malformed)?;
                code = code.checked_mul(16).ok_or(Fault::Malformed)? + digit;
            }
            string.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        Err(Fault::Incomplete)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn literals_read_as_in_python() {
        for (text, expected) in [
            ("'it\\'s'", json!("it's")),
            ("\"\"\"a\n\"b\"\"\"\"", json!("a\n\"b")),
            ("-1_000", json!(-1000)),
            ("1.5e3", json!(1500.0)),
            (
                "[1, 'a', (True, None,), {'k': {}}]",
                json!([1, "a", [true, null], {"k": {}}]),
            ),
            ("'\\u00e9\\x41\\q'", json!("éA\\q")),
        ] {
            // The greedy end of a triple-quoted string is the first three quotes.
            if text.starts_with("\"\"\"") {
                assert_eq!(value(text), None);
                continue;
            }
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for text in ["", "f()", "1 2", "[1", "'a", "{1: }", "--1"] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn a_call_that_is_cut_off_is_incomplete() {
        let whole = r#"[a.b(x=1, y="]\")", z=[{'q': None}]), c()]"#;
        let (length, found) = calls(whole).unwrap();
        assert_eq!((length, found.len()), (whole.len(), 2));
        assert_eq!(
            found[0].arguments,
            json!({"x": 1, "y": "]\")", "z": [{"q": null}]})
        );
        for cut in 1..whole.len() {
            assert_eq!(calls(&whole[..cut]).err(), Some(Fault::Incomplete), "{cut}");
        }
    }
}
